// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/batch_generation.hpp"
#include "gpt2/beam_search.hpp"
#include "gpt2/build_check.hpp"
#include "gpt2/compiled.hpp"
#include "gpt2/io/checkpoint.hpp"
#include "gpt2/io/converted_model.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/session.hpp"
#include "gpt2/session_generate.hpp"
#include "gpt2/tokenizer.hpp"
#include "gpt2/transformer_loader.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The model.

namespace gpt2 {

/// Where the weights of a converted model's file are while the model is used.
enum class Residency {
    mapped,     ///< in the mapped file: loading copies nothing, and processes share the pages
    huge_pages, ///< in memory of the process, in pages of 2 MiB where the system gives them (Linux:
                ///< transparent huge pages, "madvise"): a copy at load, faster to read from then on
};

/// How a model is loaded.
struct LoadOptions {
    /// The format of the weight matrices in memory; by default each keeps that of the file. Half the bytes
    /// are nearly twice the speed: float16 for a checkpoint in float32 costs next to no quality. The integer
    /// formats are rounded to nearest here; a converted file can have better ones (docs/quantization.md).
    std::optional<WeightType> weights{};
    /// The kernels to use; by default those of environment variable GPT2_ISA, else the best there are.
    std::optional<Isa> isa{};
    std::shared_ptr<ThreadPool> pool{}; ///< that packs or verifies; null: the process-wide one
    bool verify = false;                ///< calls Gpt2Model::verify() before the model is handed out
    /// The format of the output head and of the embeddings that are tied to it; by default as `weights`,
    /// but int8 where that is int4.
    std::optional<WeightType> head{};
    /// Of a converted model's file. (The weights of a Hugging Face directory are packed into huge pages.)
    Residency residency = Residency::mapped;
    /// Screen the output head while generating: where the largest logits decide alone (greedy, or top_k, and
    /// no logprobs), all logits are first computed from an int8 copy of the head, and exactly only where they
    /// may be among the largest. The tokens are the same, always (screened_head.hpp has the proof).
    /// Session::forward() and Session::score() compute all logits exactly as ever, and generate() does
    /// wherever all are needed or too many are close.
    ///
    /// Off by default, not for its results but for its price: the copy is made at load, where a converted
    /// file otherwise takes milliseconds, and it is memory of this process alone, 1.03 bytes for each weight
    /// of the head (41 MB at 124M). A process that writes one short text does not earn that back. Only for
    /// heads in a floating-point format: the integer ones cost no more than their screen, and are an
    /// OptionError.
    bool screen_head = false;
};

namespace detail {

/// @p pool, or the process-wide one for null.
[[nodiscard]] inline std::shared_ptr<ThreadPool> pool_or_default(const std::shared_ptr<ThreadPool>& pool) {
    return pool ? pool : ThreadPool::process_wide();
}

[[nodiscard]] inline WeightTypes weight_types_of(const LoadOptions& options) noexcept {
    const auto by_default = options.weights == WeightType::int4 ? WeightType::int8 : options.weights;
    return {.blocks = options.weights, .head = options.head ? options.head : by_default};
}

} // namespace detail

/// What Gpt2Model::verify() found; what it found wrong, it throws.
struct Verification {
    bool has_self_test = false;      ///< a converted model has one
    float largest_difference = 0.0f; ///< of a logit, from the file's
    float bound = 0.0f;              ///< what float32 arithmetic may make of it
};

/// A GPT-2 model: weights, tokenizer and configuration, all immutable. A cheap handle; copies share the
/// weights. Thread-safe: any number of threads may use one model.
class Gpt2Model {
public:
    /// Loads a model from one of
    /// - the file of a converted model (tools/convert_weights.py makes it). It is mapped, and its weights
    ///   are used where they lie: nothing is copied, and processes that load the same file share its
    ///   memory. Weights that LoadOptions::weights asks for in another format are converted into memory.
    /// - a Hugging Face directory: `config.json`, `model.safetensors` (or shards with an index),
    ///   `vocab.json` and `merges.txt`. The weights are packed into memory; the files are not needed after.
    ///
    /// A file that somebody truncates or overwrites in place, while it is being loaded or mapped, is outside
    /// what can be handled; replacing it by rename is safe.
    /// @throws FileError, FormatError  naming file, tensor or key, what was expected and what was found
    /// @throws NumericError            if a weight exceeds the format asked for
    /// @throws OptionError             for an instruction set that this machine does not have, or a
    ///                                 screen for an output head in an integer format
    [[nodiscard]] static Gpt2Model load(const std::filesystem::path& path, const LoadOptions& options = {}) {
        if (detail::is_file(path)) {
            return from_converted(options.residency == Residency::mapped ? ConvertedModel::open(path)
                                                                         : ConvertedModel::copy_of(path),
                                  options);
        }
        const Checkpoint checkpoint = Checkpoint::open(path);
        return from_checkpoint(checkpoint, Tokenizer::load(path), options);
    }

    /// Loads the file of a converted model from memory, such as an asset that is linked into the program.
    /// @param file  used in place if it begins at a multiple of 64 bytes, else copied. In place, it must
    ///              outlive all handles and sessions of the model, and copies of its tokenizer.
    /// @throws as load(path); messages call the file "memory"
    [[nodiscard]] static Gpt2Model load(std::span<const std::byte> file, const LoadOptions& options = {}) {
        return from_converted(ConvertedModel::from_bytes(file, "memory"), options);
    }

    /// Reads the whole file of a converted model and tries it: the checksum, that all weights are finite, and
    /// that the logits of the self-test, on these kernels, are those that its converter computed in float64.
    /// The weights of a Hugging Face directory are known to be finite since they were loaded, and there is no
    /// more.
    /// @throws FormatError   when the file is damaged or the logits are others
    /// @throws NumericError  when a number leaves the finite ones on the way
    /// @throws OptionError   when the weights were converted to another format than the file's
    Verification verify(const std::shared_ptr<ThreadPool>& pool = nullptr) const;

    [[nodiscard]] const Config& config() const noexcept { return state_->transformer.config; }
    [[nodiscard]] const Tokenizer& tokenizer() const noexcept { return state_->tokenizer; }

    /// The instruction set that was chosen.
    [[nodiscard]] Isa isa() const noexcept { return state_->kernels->isa; }

    /// Bytes of weights that one decoding step reads: the least that memory must deliver per token.
    [[nodiscard]] std::size_t bytes_read() const noexcept { return state_->transformer.bytes_read(); }

    /// Token ids of a prompt. An empty one starts as the training texts did, from `<|endoftext|>`.
    /// @throws OptionError if it is empty and the model has no such token
    [[nodiscard]] std::vector<TokenId> encode_prompt(std::string_view prompt) const {
        std::vector<TokenId> tokens = tokenizer().encode(prompt);
        if (tokens.empty()) {
            auto start = config().bos_token_id ? config().bos_token_id : config().eos_token_id;
            start = start ? start : tokenizer().special_token("<|endoftext|>");
            if (!start) {
                throw OptionError("the prompt is empty, and the model has no token to begin a text with "
                                  "(bos_token_id in config.json, or <|endoftext|>)");
            }
            tokens.push_back(*start);
        }
        return tokens;
    }

    /// Continues @p prompt in a session of its own, on the process-wide thread pool. With num_beams above 1
    /// it searches for the text with the best score (beam_search.hpp); the callback is called when it is
    /// known.
    /// @throws as Session::generate
    GenerationResult generate(std::string_view prompt, const GenerationConfig& config = {},
                              const StreamCallback& callback = {}) const {
        if (config.num_beams > 1) {
            detail::require_one_text(config);
            const std::string text(prompt);
            const auto each = [&](std::size_t, const GeneratedToken& token) { return callback(token); };
            return std::move(generate_batch({&text, 1}, config, callback ? each : BatchCallback()).front());
        }
        return Session(*this).generate(encode_prompt(prompt), config, callback);
    }

    /// Continues several prompts at once, each in GenerationConfig::num_return_sequences texts. The weights
    /// are read once for all of them, so this is much faster than one after the other; each prompt is read
    /// once, and nothing is padded. Each text is, bit for bit, the one that it would be alone; without a
    /// seed all share a fresh one. (The output head is not screened: LoadOptions::screen_head.) With
    /// num_beams above 1 the texts of a prompt are those with the best scores that one search finds.
    /// @param callback  called for the tokens of all texts, as they come; with beams, when a search is over
    /// @returns the texts of the first prompt in the order of their samples, with beams the best first, then
    ///          those of the second, ...
    /// @throws as Session::generate, naming the prompt that does not fit. No text is returned then.
    std::vector<GenerationResult> generate_batch(std::span<const std::string> prompts,
                                                 const GenerationConfig& config = {},
                                                 const BatchCallback& callback = {},
                                                 const SessionOptions& options = {}) const {
        std::vector<std::vector<TokenId>> tokens;
        for (const std::string& prompt : prompts) {
            tokens.push_back(encode_prompt(prompt));
        }
        return generate_batch(tokens, config, callback, options);
    }

    /// The same for prompts of tokens. @throws OptionError for one without
    std::vector<GenerationResult> generate_batch(std::span<const std::vector<TokenId>> prompts,
                                                 const GenerationConfig& config = {},
                                                 const BatchCallback& callback = {},
                                                 const SessionOptions& options = {}) const {
        const Session empty(*this, options);
        Profile* const profile = options.profile.get();
        return config.num_beams > 1
                   ? detail::search_beams(*state_, empty, profile, prompts, config, callback)
                   : detail::generate_batch(*state_, empty, profile, prompts, config, callback);
    }

    /// The same for prompts with options of their own: each text is, bit for bit, the one that it would be
    /// alone. Without a seed each request gets a fresh one. Beams are refused, and max_time and cancellation
    /// must be the same in all: what ends a pass ends all of its texts.
    /// @throws as above, naming the request
    std::vector<GenerationResult> generate_batch(std::span<const BatchRequest> requests,
                                                 const BatchCallback& callback = {},
                                                 const SessionOptions& options = {}) const {
        return detail::generate_batch(*state_, Session(*this, options), options.profile.get(), requests,
                                      callback);
    }

    /// What tells models apart, as "12345678-9abcdef0": checksums of the shape and formats, and of the
    /// weights. Those of a converted file are in it; others are summed up. Defined in session_file.hpp.
    [[nodiscard]] std::string identity(const std::shared_ptr<ThreadPool>& pool = nullptr) const;

private:
    friend class PrefixCache;
    friend class Session;

    explicit Gpt2Model(std::shared_ptr<const detail::ModelState> state) : state_(std::move(state)) {}

    GPT2_HEAVY [[nodiscard]] static Gpt2Model
    from_checkpoint(const Checkpoint& checkpoint, const Tokenizer& tokenizer, const LoadOptions& options);

    GPT2_HEAVY [[nodiscard]] static Gpt2Model from_converted(const ConvertedModel& file,
                                                             const LoadOptions& options);

    [[nodiscard]] static Gpt2Model complete(detail::ModelState&& state, std::string_view name,
                                            const LoadOptions& options) {
        detail::warn_of_unoptimized_build();
        const std::size_t vocab_size = state.transformer.config.vocab_size;
        if (state.tokenizer.size() > vocab_size) {
            throw FormatError(
                detail::concat(detail::quoted(name, 4096), ": \"vocab_size\": expected at least the ",
                               state.tokenizer.size(), " tokens of the tokenizer, found ", vocab_size));
        }
        if (options.screen_head) {
            state.transformer.screen =
                ScreenedHead::of(state.transformer.lm_head.weight(), *detail::pool_or_default(options.pool));
        }
        Gpt2Model model(std::make_shared<const detail::ModelState>(std::move(state)));
        if (options.verify) {
            (void)model.verify(options.pool);
        }
        return model;
    }

    std::shared_ptr<const detail::ModelState> state_;
};

inline Session::Session(const Gpt2Model& model, const SessionOptions& options)
    : Session(model.state_, detail::pool_or_default(options.pool), options.profile, options.observer,
              options.kv_dtype.value_or(model.state_->transformer.is_float32() ? KvDtype::float32
                                                                               : KvDtype::float16)) {}

GPT2_COLD inline Verification Gpt2Model::verify(const std::shared_ptr<ThreadPool>& pool) const {
    Verification result;
    if (!state_->file) {
        return result;
    }
    const ConvertedModel& file = *state_->file;
    const std::string where = detail::quoted(std::string_view(file.file().name()), 4096);
    const auto threads = detail::pool_or_default(pool);
    if (state_->is_converted) {
        throw OptionError(detail::concat(
            where,
            ": verify: expected weights in the file's own formats, found them converted while loading"));
    }
    file.check_data(*threads);
    const SelfTest test = file.self_test();
    Session session(*this, {.pool = threads, .kv_dtype = KvDtype::float32});
    const std::span<const float> logits = session.forward(test.tokens);
    for (std::size_t i = 0; i < logits.size(); ++i) {
        result.largest_difference =
            std::max(result.largest_difference, std::fabs(logits[i] - test.logits[i]));
    }
    result.has_self_test = true;
    result.bound = test.bound;
    if (!(result.largest_difference <= result.bound)) {
        throw FormatError(detail::concat(where, ": self-test: expected logits within ", result.bound,
                                         " of the file's, found a difference of ",
                                         result.largest_difference));
    }
    return result;
}

template <class>
Gpt2Model Gpt2Model::from_checkpoint(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                     const LoadOptions& options) {
    const kernels::Kernels& kernels = kernels::kernels_for(choose_isa(options.isa));
    const auto pool = detail::pool_or_default(options.pool);
    const CheckpointWeights weights(checkpoint, detail::weight_types_of(options), *pool);
    return complete({make_transformer(checkpoint.config(), checkpoint.has_separate_head(), weights),
                     tokenizer, &kernels, std::nullopt, true},
                    checkpoint.name(), options);
}

template <class> Gpt2Model Gpt2Model::from_converted(const ConvertedModel& file, const LoadOptions& options) {
    const kernels::Kernels& kernels = kernels::kernels_for(choose_isa(options.isa));
    const auto pool = detail::pool_or_default(options.pool);
    const ConvertedWeights weights(file, detail::weight_types_of(options), *pool);
    return complete({make_transformer(file.config(), file.has_separate_head(), weights),
                     Tokenizer::of_converted(file.file()), &kernels, file, weights.any_converted()},
                    file.file().name(), options);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE Gpt2Model Gpt2Model::from_checkpoint<void>(const Checkpoint&, const Tokenizer&,
                                                         const LoadOptions&);
GPT2_INSTANCE Gpt2Model Gpt2Model::from_converted<void>(const ConvertedModel&, const LoadOptions&);
#endif

} // namespace gpt2
