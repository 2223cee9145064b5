// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/build_check.hpp"
#include "gpt2/io/checkpoint.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/session.hpp"
#include "gpt2/tokenizer.hpp"
#include "gpt2/transformer_loader.hpp"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The model.

namespace gpt2 {

/// How a model is loaded.
struct LoadOptions {
    /// The format of the weight matrices in memory; by default each keeps that of the file. Half the bytes
    /// are nearly twice the speed: float16 for a checkpoint in float32 costs next to no quality.
    std::optional<WeightType> weights{};
    /// The kernels to use; by default those of environment variable GPT2_ISA, else the best there are.
    std::optional<Isa> isa{};
    std::shared_ptr<ThreadPool> pool{}; ///< that packs the weights; null: the process-wide one
};

/// A GPT-2 model: weights, tokenizer and configuration, all immutable. A cheap handle; copies share the
/// weights. Thread-safe: any number of threads may use one model.
class Gpt2Model {
public:
    /// Loads a Hugging Face directory: `config.json`, `model.safetensors` (or shards with an index),
    /// `vocab.json` and `merges.txt`. The weights are packed into memory; the files are not needed after.
    /// (While loading, a file that somebody truncates in place is outside what can be handled; replacing it
    /// by rename is safe.)
    /// @throws FileError, FormatError  naming file, tensor or key, what was expected and what was found
    /// @throws NumericError            if a weight exceeds the format asked for
    /// @throws OptionError             for an instruction set that this machine does not have
    [[nodiscard]] static Gpt2Model load(const std::filesystem::path& directory,
                                        const LoadOptions& options = {}) {
        detail::warn_of_unoptimized_build();
        const kernels::Kernels& kernels = kernels::kernels_for(choose_isa(options.isa));
        const auto pool = options.pool ? options.pool : ThreadPool::process_wide();
        const Checkpoint checkpoint = Checkpoint::open(directory);
        const Tokenizer tokenizer = Tokenizer::load(directory);
        if (tokenizer.size() > checkpoint.config().vocab_size) {
            throw FormatError(detail::concat(detail::quoted(directory.string(), 4096), ": expected at most ",
                                             checkpoint.config().vocab_size,
                                             " tokens in vocab.json (vocab_size in config.json), found ",
                                             tokenizer.size()));
        }
        return Gpt2Model(std::make_shared<detail::ModelState>(detail::ModelState{
            TransformerLoader(checkpoint, options.weights, *pool).load(), tokenizer, &kernels}));
    }

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

    /// Continues @p prompt in a session of its own, on the process-wide thread pool.
    /// @throws as Session::generate
    GenerationResult generate(std::string_view prompt, const GenerationConfig& config = {},
                              const StreamCallback& callback = {}) const {
        return Session(*this).generate(encode_prompt(prompt), config, callback);
    }

private:
    friend class Session;

    explicit Gpt2Model(std::shared_ptr<const detail::ModelState> state) : state_(std::move(state)) {}

    std::shared_ptr<const detail::ModelState> state_;
};

inline Session::Session(const Gpt2Model& model, const SessionOptions& options)
    : model_(model.state_), pool_(options.pool ? options.pool : ThreadPool::process_wide()),
      cache_(model_->transformer.config, options.kv_dtype) {
    tokens_.reserve(model_->transformer.config.n_positions);
}

} // namespace gpt2
