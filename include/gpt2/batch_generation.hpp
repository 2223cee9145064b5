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
#include "gpt2/session_score.hpp"
#include "gpt2/speculation/speculator.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Several texts at once: the loop of Gpt2Model::generate_batch.

namespace gpt2 {

/// Called after each token of each text, in the thread that generates. Flow::stop ends this text; the others
/// go on. What it throws ends them all and reaches the caller.
/// @param index  of the text among the results
using BatchCallback = std::function<Flow(std::size_t index, const GeneratedToken& token)>;

/// A prompt with options of its own.
struct BatchRequest {
    std::vector<TokenId> prompt;
    GenerationConfig config{};
};

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

/// Checks options. @returns them, with a seed if tokens are drawn
/// @throws OptionError as validate(), ContextError for the negative prompt
[[nodiscard]] inline GenerationConfig prepare_options(GenerationConfig config, const Config& model) {
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
    if (sampling::is_set(config, sampling::ProcessorKind::guidance_scale)) {
        require_room(std::max<std::size_t>(config.negative_prompt_ids.size(), 1), config, model);
    }
    if (!sampling::is_greedy(config) && !config.seed) {
        config.seed = fresh_seed();
    }
    return config;
}

/// Calls @p part; what it throws names element @p i of the argument @p name.
template <class Part> auto naming(std::string_view name, std::size_t i, Part&& part) {
    const auto named = [&](const Error& e) { return concat(name, '[', i, "]: ", e.what()); };
    try {
        return std::forward<Part>(part)();
    } catch (const ContextError& e) {
        throw ContextError(named(e));
    } catch (const OptionError& e) {
        throw OptionError(named(e));
    }
}

/// What a text begins after: the prompt, or with Overflow::truncate_left its end.
/// @throws OptionError for an empty prompt; ContextError for one that is too long
[[nodiscard]] inline std::vector<TokenId>
prepare_prompt(std::span<const TokenId> prompt, const GenerationConfig& config, const Config& model) {
    if (prompt.empty()) {
        throw OptionError("expected at least one token, found none");
    }
    require_room(prompt.size(), config, model);
    require_whole_prompt(prompt.size(), model.n_positions, config);
    const std::span<const TokenId> context = context_of(prompt, config, model.n_positions);
    return {context.begin(), context.end()};
}

/// Checks options and prompts. @returns one request for each prompt, all with the same seed
/// @throws OptionError as prepare_options(), or naming the first prompt that is empty; ContextError naming
///         the first that is too long
[[nodiscard]] inline std::vector<BatchRequest> prepare_batch(std::span<const std::vector<TokenId>> prompts,
                                                             const GenerationConfig& config,
                                                             const Config& model) {
    const GenerationConfig prepared = prepare_options(config, model);
    std::vector<BatchRequest> requests;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        requests.push_back(
            {naming("prompts", i, [&] { return prepare_prompt(prompts[i], prepared, model); }), prepared});
    }
    return requests;
}

/// The same for requests, each with a seed of its own.
/// @throws OptionError for one with beams, or that something else shall end than the first
[[nodiscard]] inline std::vector<BatchRequest> prepare_batch(std::span<const BatchRequest> given,
                                                             const Config& model) {
    std::vector<BatchRequest> requests;
    for (std::size_t i = 0; i < given.size(); ++i) {
        naming("requests", i, [&] {
            const GenerationConfig& config = given[i].config;
            if (config.num_beams != 1) {
                throw OptionError(concat("num_beams is ", config.num_beams,
                                         ", expected 1: a search has one set of options"));
            }
            if (config.max_time != given[0].config.max_time ||
                !(config.cancellation == given[0].config.cancellation)) {
                throw OptionError(
                    "expected max_time and cancellation of requests[0], found others: what ends "
                    "a pass ends all of its texts");
            }
            GenerationConfig prepared = prepare_options(config, model);
            std::vector<TokenId> prompt = prepare_prompt(given[i].prompt, prepared, model);
            requests.push_back({std::move(prompt), std::move(prepared)});
        });
    }
    return requests;
}

/// What tells @p callback of the tokens of text number @p index.
[[nodiscard]] inline StreamCallback callback_of(const BatchCallback& callback, std::size_t index) {
    return callback ? [&callback, index](const GeneratedToken& token) { return callback(index, token); }
                    : StreamCallback();
}

/// The texts of some prompts, until all are complete. One row of a forward pass for each that goes on.
class BatchGeneration {
public:
    /// @param empty  a session without tokens, as those of the texts shall be
    BatchGeneration(const ModelState& model, const Session& empty, Profile* profile,
                    const Interrupt& interrupt, const BatchCallback& callback)
        : model_(model), empty_(empty), profile_(profile), interrupt_(interrupt), callback_(callback) {}

    /// @param requests  of prepare_batch()
    [[nodiscard]] std::vector<GenerationResult> write(std::span<const BatchRequest> requests) && {
        for (const BatchRequest& request : requests) {
            begin(request);
        }
        results_.resize(texts_.size());
        BatchPass pass(model_.transformer.config.n_positions);
        std::optional<InterruptCause> interrupted = read(requests, pass);
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
        std::size_t first;                 ///< number of the first text of its prompt
        std::optional<Session> session{};  ///< until the text is complete
        std::optional<Session> unguided{}; ///< after the negative prompt; with guidance_scale only
        bool is_complete = false;
    };

    void begin(const BatchRequest& request) {
        const std::size_t first = texts_.size();
        for (std::size_t k = 0; k < static_cast<std::size_t>(request.config.num_return_sequences); ++k) {
            texts_.push_back(
                {Generation(model_.transformer.config, model_.tokenizer, model_.kernels->exp_shifted,
                            config_of_sample(request.config, k), callback_of(callback_, texts_.size()),
                            request.prompt, request.prompt.size()),
                 first});
        }
    }

    void complete(std::size_t i) {
        results_[i] = std::move(texts_[i].generation).finish();
        texts_[i].session.reset();
        texts_[i].unguided.reset();
        texts_[i].is_complete = true;
    }

    /// Reads a prompt for prompt_logprobs, which need the logits of all rows: on its own, to bound the
    /// memory.
    void read_scored(const BatchRequest& request, std::span<Text> texts) {
        const TokenLogprobs scored = texts.front().session->read_prompt(
            request.prompt, request.prompt.size(), request.config.top_logprobs, interrupt_);
        for (Text& text : texts) {
            text.generation.take_prompt(scored);
        }
    }

    /// Reads all prompts in one pass, each for the first of its texts; the others get copies.
    /// @returns as BatchPass::run
    [[nodiscard]] std::optional<InterruptCause> read(std::span<const BatchRequest> requests,
                                                     BatchPass& pass) {
        std::span<Text> left = texts_;
        for (const BatchRequest& request : requests) {
            const auto texts = left.first(static_cast<std::size_t>(request.config.num_return_sequences));
            left = left.subspan(texts.size());
            Text& first = texts.front();
            first.session.emplace(empty_.fork());
            if (request.config.prompt_logprobs) {
                try {
                    read_scored(request, texts);
                } catch (const Interrupted& interrupted) {
                    return interrupted.cause();
                }
            } else {
                pass.add(*first.session, request.prompt);
            }
            if (sampling::is_set(request.config, sampling::ProcessorKind::guidance_scale)) {
                const std::span<const TokenId> negative(request.config.negative_prompt_ids);
                pass.add(first.unguided.emplace(empty_.fork()),
                         negative.empty()
                             ? std::span(request.prompt).last(1)
                             : context_of(negative, request.config, model_.transformer.config.n_positions));
            }
        }
        if (const auto interrupted = pass.run(interrupt_)) {
            return interrupted;
        }
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            const Text& first = texts_[texts_[i].first];
            if (&first != &texts_[i]) {
                texts_[i].session.emplace(first.session->fork());
                if (first.unguided) {
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
                                                    text.unguided ? text.unguided->logits()[0].flat()
                                                                  : std::span<const float>());
            if (!token) {
                complete(i);
                continue;
            }
            pass.add(*text.session, {&*token, 1});
            if (text.unguided) {
                pass.add(*text.unguided, {&*token, 1});
            }
        }
    }

    const ModelState& model_;
    const Session& empty_;
    Profile* profile_;
    const Interrupt& interrupt_;
    const BatchCallback& callback_;
    std::vector<Text> texts_; ///< those of a prompt side by side
    std::vector<GenerationResult> results_;
};

/// @param requests  of prepare_batch()
GPT2_HEAVY [[nodiscard]] std::vector<GenerationResult> write_batch(const ModelState& model,
                                                                   const Session& empty, Profile* profile,
                                                                   std::span<const BatchRequest> requests,
                                                                   const Interrupt& interrupt,
                                                                   const BatchCallback& callback) {
    return BatchGeneration(model, empty, profile, interrupt, callback).write(requests);
}

/// See Gpt2Model::generate_batch.
[[nodiscard]] inline std::vector<GenerationResult>
generate_batch(const ModelState& model, const Session& empty, Profile* profile,
               std::span<const std::vector<TokenId>> prompts, const GenerationConfig& config,
               const BatchCallback& callback) {
    const Interrupt interrupt = interrupt_of(config);
    return write_batch(model, empty, profile, prepare_batch(prompts, config, model.transformer.config),
                       interrupt, callback);
}

/// The same for requests.
[[nodiscard]] inline std::vector<GenerationResult> generate_batch(const ModelState& model,
                                                                  const Session& empty, Profile* profile,
                                                                  std::span<const BatchRequest> requests,
                                                                  const BatchCallback& callback) {
    const Interrupt interrupt = requests.empty() ? Interrupt() : interrupt_of(requests.front().config);
    return write_batch(model, empty, profile, prepare_batch(requests, model.transformer.config), interrupt,
                       callback);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<GenerationResult> write_batch<void>(const ModelState&, const Session&, Profile*,
                                                              std::span<const BatchRequest>, const Interrupt&,
                                                              const BatchCallback&);
#endif

} // namespace detail

} // namespace gpt2
