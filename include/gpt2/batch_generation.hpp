// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/random.hpp"
#include "gpt2/session.hpp"
#include "gpt2/speculation/speculator.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Several texts at once: the loop of Gpt2Model::generate_batch.

namespace gpt2 {

/// Called after each token of each text, in the thread that generates. Flow::stop ends this text; the others
/// go on. What it throws ends them all and reaches the caller.
/// @param index  of the text among the results
using BatchCallback = std::function<Flow(std::size_t index, const GeneratedToken& token)>;

namespace detail {

/// What some sessions read in one forward pass.
class BatchPass {
public:
    explicit BatchPass(std::size_t n_positions) : n_positions_(n_positions) {}

    /// Where the tokens do not fit into the context, which only Overflow::slide lets happen, the session
    /// starts again with the end of everything so far, as in Session::generate.
    /// @param session  each once
    void add(Session& session, std::span<const TokenId> tokens) {
        if (tokens.size() > n_positions_ - session.position()) {
            tokens_.push_back(slide_window(session.tokens(), tokens, n_positions_));
            session.truncate(0);
        } else {
            tokens_.emplace_back(tokens.begin(), tokens.end());
        }
        items_.push_back({&session, tokens_.back()}); // stays where it is when tokens_ grows
    }

    [[nodiscard]] bool empty() const noexcept { return items_.empty(); }

    /// Each session then has the logits after its last token.
    /// @returns what ended the pass before it was complete, if something did; no session moved then
    [[nodiscard]] std::optional<InterruptCause> run(const Interrupt& interrupt) {
        std::optional<InterruptCause> interrupted;
        try {
            interrupt.check(); // before this waits for the pool's turn
            gpt2::forward(items_, interrupt);
        } catch (const Interrupted& e) {
            interrupted = e.cause();
        }
        items_.clear();
        tokens_.clear();
        return interrupted;
    }

private:
    std::size_t n_positions_;
    std::vector<std::vector<TokenId>> tokens_;
    std::vector<BatchItem> items_;
};

/// @p config for sample number @p k of its prompt.
[[nodiscard]] inline GenerationConfig config_of_sample(const GenerationConfig& config, std::size_t k) {
    GenerationConfig out = config;
    out.sample += k;
    return out;
}

/// Checks options and prompts. @returns the options, with a seed if tokens are drawn
/// @throws OptionError as validate(), or for an empty prompt; ContextError for the first that is too long
[[nodiscard]] inline GenerationConfig prepare_batch(std::span<const std::vector<TokenId>> prompts,
                                                    GenerationConfig config, const Config& model) {
    validate(config, model);
    if (speculates(config)) {
        throw OptionError(
            concat(config.assistant_model ? "assistant_model" : "prompt_lookup_num_tokens",
                   " is set but has no effect on several texts at once: their rows fill the pass"));
    }
    if (sampling::is_contrastive(config)) {
        throw OptionError("penalty_alpha is set but generate_batch() does no contrastive search, expected "
                          "Gpt2Model::generate() or Session::generate()");
    }
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        if (prompts[i].empty()) {
            throw OptionError(concat("prompts[", i, "] is empty, expected at least one token"));
        }
        try {
            require_room(prompts[i].size(), config, model);
        } catch (const ContextError& e) {
            throw ContextError(concat("prompts[", i, "]: ", e.what()));
        }
    }
    if (sampling::is_set(config, sampling::ProcessorKind::guidance_scale)) {
        require_room(std::max<std::size_t>(config.negative_prompt_ids.size(), 1), config, model);
    }
    if (!sampling::is_greedy(config) && !config.seed) {
        config.seed = fresh_seed();
    }
    return config;
}

/// What the texts begin after: the prompts, or with Overflow::truncate_left their ends.
[[nodiscard]] inline std::vector<std::vector<TokenId>>
contexts_of(std::span<const std::vector<TokenId>> prompts, const GenerationConfig& config,
            std::size_t n_positions) {
    std::vector<std::vector<TokenId>> contexts;
    for (const std::vector<TokenId>& prompt : prompts) {
        const std::span<const TokenId> context = context_of(prompt, config, n_positions);
        contexts.emplace_back(context.begin(), context.end());
    }
    return contexts;
}

/// What tells @p callback of the tokens of text number @p index.
[[nodiscard]] inline StreamCallback callback_of(const BatchCallback& callback, std::size_t index) {
    return callback ? [&callback, index](const GeneratedToken& token) { return callback(index, token); }
                    : StreamCallback();
}

/// The texts of some prompts, until all are complete. One row of a forward pass for each that goes on.
class BatchGeneration {
public:
    /// @param empty   a session without tokens, as those of the texts shall be
    /// @param config  of prepare_batch()
    BatchGeneration(const ModelState& model, const Session& empty, Profile* profile,
                    const GenerationConfig& config, const Interrupt& interrupt, const BatchCallback& callback)
        : model_(model), empty_(empty), profile_(profile), config_(config), interrupt_(interrupt),
          callback_(callback), n_samples_(static_cast<std::size_t>(config.num_return_sequences)),
          is_guided_(sampling::is_set(config, sampling::ProcessorKind::guidance_scale)) {}

    [[nodiscard]] std::vector<GenerationResult> write(std::span<const std::vector<TokenId>> prompts) && {
        for (const std::vector<TokenId>& prompt : prompts) {
            for (std::size_t k = 0; k < n_samples_; ++k) {
                begin(prompt, k);
            }
        }
        results_.resize(texts_.size());
        BatchPass pass(model_.transformer.config.n_positions);
        std::optional<InterruptCause> interrupted = read(prompts, pass);
        while (!interrupted) {
            choose(pass);
            if (pass.empty()) {
                return std::move(results_);
            }
            interrupted = pass.run(interrupt_);
        }
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            if (!texts_[i].is_complete) {
                texts_[i].generation.interrupt(*interrupted);
                complete(i);
            }
        }
        return std::move(results_);
    }

private:
    struct Text {
        Generation generation;
        std::optional<Session> session{};  ///< until the text is complete
        std::optional<Session> unguided{}; ///< after the negative prompt; with guidance_scale only
        bool is_complete = false;
    };

    void begin(std::span<const TokenId> prompt, std::size_t k) {
        texts_.push_back({Generation(model_.transformer.config, model_.tokenizer, model_.kernels->exp_shifted,
                                     config_of_sample(config_, k), callback_of(callback_, texts_.size()),
                                     prompt, prompt.size())});
    }

    void complete(std::size_t i) {
        results_[i] = std::move(texts_[i].generation).finish();
        texts_[i].session.reset();
        texts_[i].unguided.reset();
        texts_[i].is_complete = true;
    }

    /// Reads all prompts in one pass, each for the first of its texts; the others get copies.
    /// @returns as BatchPass::run
    [[nodiscard]] std::optional<InterruptCause> read(std::span<const std::vector<TokenId>> prompts,
                                                     BatchPass& pass) {
        for (std::size_t i = 0; i < prompts.size(); ++i) {
            Text& first = texts_[i * n_samples_];
            pass.add(first.session.emplace(empty_.fork()), prompts[i]);
            if (is_guided_) {
                const std::span<const TokenId> negative(config_.negative_prompt_ids);
                pass.add(first.unguided.emplace(empty_.fork()),
                         negative.empty()
                             ? std::span(prompts[i]).last(1)
                             : context_of(negative, config_, model_.transformer.config.n_positions));
            }
        }
        if (const auto interrupted = pass.run(interrupt_)) {
            return interrupted;
        }
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            const Text& first = texts_[i - i % n_samples_];
            if (&first != &texts_[i]) {
                texts_[i].session.emplace(first.session->fork());
                if (is_guided_) {
                    texts_[i].unguided.emplace(first.unguided->fork());
                }
            }
        }
        return std::nullopt;
    }

    /// Chooses a token for each text that is not complete, and adds to @p pass what has to be read next.
    void choose(BatchPass& pass) {
        const Profile::Span span(profile_, "choose");
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            Text& text = texts_[i];
            if (text.is_complete) {
                continue;
            }
            const auto token = text.generation.step(text.session->logits()[0].flat(), false,
                                                    is_guided_ ? text.unguided->logits()[0].flat()
                                                               : std::span<const float>());
            if (!token) {
                complete(i);
                continue;
            }
            pass.add(*text.session, {&*token, 1});
            if (is_guided_) {
                pass.add(*text.unguided, {&*token, 1});
            }
        }
    }

    const ModelState& model_;
    const Session& empty_;
    Profile* profile_;
    const GenerationConfig& config_;
    const Interrupt& interrupt_;
    const BatchCallback& callback_;
    std::size_t n_samples_;
    bool is_guided_;
    std::vector<Text> texts_; ///< those of a prompt side by side
    std::vector<GenerationResult> results_;
};

/// See Gpt2Model::generate_batch.
GPT2_HEAVY [[nodiscard]] std::vector<GenerationResult>
generate_batch(const ModelState& model, const Session& empty, Profile* profile,
               std::span<const std::vector<TokenId>> prompts, const GenerationConfig& config,
               const BatchCallback& callback) {
    const Interrupt interrupt = interrupt_of(config);
    const GenerationConfig prepared = prepare_batch(prompts, config, model.transformer.config);
    return BatchGeneration(model, empty, profile, prepared, interrupt, callback)
        .write(contexts_of(prompts, config, model.transformer.config.n_positions));
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<GenerationResult> generate_batch<void>(const ModelState&, const Session&, Profile*,
                                                                 std::span<const std::vector<TokenId>>,
                                                                 const GenerationConfig&,
                                                                 const BatchCallback&);
#endif

} // namespace detail

} // namespace gpt2
