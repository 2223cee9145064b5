// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/batch_generation.hpp"
#include "gpt2/beam_sessions.hpp"
#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/floating_point.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/random.hpp"
#include "gpt2/sampler.hpp"
#include "gpt2/sampling/beam_candidates.hpp"
#include "gpt2/sampling/beam_scorer.hpp"
#include "gpt2/session.hpp"
#include "gpt2/text_stream.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Beam search: the loop of Gpt2Model::generate_batch with num_beams above 1. docs/generation.md says what it
/// does and where it differs from Hugging Face's.

namespace gpt2::detail {

/// Of each group.
[[nodiscard]] inline sampling::BeamOptions beam_options_of(const GenerationConfig& config) {
    return {.num_beams = static_cast<std::size_t>(config.num_beams / config.num_beam_groups),
            .length_penalty = static_cast<double>(config.length_penalty.value_or(1.0f)),
            .early_stopping = config.early_stopping.value_or(sampling::EarlyStopping::off),
            .max_new_tokens = static_cast<std::size_t>(config.max_new_tokens)};
}

/// The search for the texts of one prompt.
class BeamSearch {
public:
    /// @param session   without tokens
    /// @param config    of prepare_batch()
    /// @param callback  as in generate_batch()
    /// @param index     of the first of its texts among all
    BeamSearch(const ModelState& model, Session session, const GenerationConfig& config,
               std::span<const TokenId> prompt, const BatchCallback& callback, std::size_t index)
        : model_(model), config_(config), prompt_(prompt),
          n_beams_(static_cast<std::size_t>(config.num_beams)), is_drawn_(!sampling::is_greedy(config)),
          eos_(eos_of(config, model.transformer.config)), sessions_(std::move(session)),
          n_tokens_(n_known(vocab_size(), model.tokenizer)),
          sampler_(config, vocabulary_of(config, vocab_size(), eos_, model.tokenizer),
                   model.kernels->exp_shifted),
          candidates_(n_tokens_), logprobs_(vocab_size()), diverse_(vocab_size()) {
        const sampling::BeamOptions options = beam_options_of(config);
        groups_.assign(static_cast<std::size_t>(config.num_beam_groups), Group(options, config.stop_strings));
        for (std::int64_t i = 0; i < config.num_return_sequences; ++i) {
            texts_.emplace_back(model.transformer.config, model.tokenizer, model.kernels->exp_shifted, config,
                                callback_of(callback, index + static_cast<std::size_t>(i)), prompt,
                                prompt.size());
        }
    }

    [[nodiscard]] bool done() const noexcept { return std::ranges::all_of(groups_, &Group::done); }

    /// Adds what the beams read next.
    void add_to(BatchPass& pass) {
        if (step_ == 0) {
            pass.add(sessions_[0], prompt_);
            return;
        }
        std::size_t number = 0;
        for (const Group& group : groups_) {
            const auto beams = group.done() ? std::span<const sampling::Beam>() : group.scorer.beams();
            for (const sampling::Beam& beam : beams) {
                pass.add(sessions_[number++], {&beam.tokens.back(), 1});
            }
        }
    }

    /// Chooses the next beams, after that pass.
    void step() {
        const FloatingPointScope scope;
        std::vector<std::size_t> parents;
        std::map<TokenId, std::size_t> chosen; // by how many beams of the groups so far
        std::size_t first = 0;                 // of the group's beams
        for (Group& group : groups_) {
            if (group.done()) {
                continue;
            }
            const std::size_t n_before = group.scorer.beams().size();
            advance(group, first, chosen);
            for (const sampling::Beam& beam : group.scorer.beams()) {
                ++chosen[beam.tokens.back()];
                if (!group.done()) {
                    parents.push_back(first + beam.parent);
                }
            }
            first += step_ == 0 ? 0 : n_before; // all begin with one beam
        }
        ++step_;
        sessions_.choose(parents);
    }

    /// Ends the search where it is; done() then.
    void interrupt(InterruptCause cause) {
        interrupted_ = cause;
        for (Group& group : groups_) {
            group.scorer.end();
        }
    }

    /// The best texts; the callback is called for them. Once, when done().
    /// @param results  [num_return_sequences]; after interrupt() the last of them may be without tokens
    /// @throws NumericError if there are fewer
    void write(std::span<GenerationResult> results) {
        std::vector<sampling::BeamHypothesis> found;
        for (const Group& group : groups_) {
            const auto& complete = group.scorer.complete();
            found.insert(found.end(), complete.begin(), complete.end());
        }
        sampling::sort_best_first(found);
        if (found.size() < texts_.size() && !interrupted_) {
            throw NumericError(concat("num_return_sequences is ", texts_.size(), ", found ", found.size(),
                                      " texts that the other options allow"));
        }
        found.resize(texts_.size());
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            const sampling::Beam& beam = found[i].beam;
            for (std::size_t n = 0; n < beam.tokens.size() && !texts_[i].done(); ++n) {
                texts_[i].take(beam.tokens[n], beam.logprobs[n]);
            }
            if (interrupted_ && !texts_[i].done()) {
                texts_[i].interrupt(*interrupted_);
            }
            results[i] = std::move(texts_[i]).finish();
            results[i].score = found[i].score;
            results[i].tpot = {}; // all came at once
        }
    }

private:
    struct Group {
        Group(const sampling::BeamOptions& options, const std::vector<std::string>& stop_strings)
            : scorer(options), texts(1, TextStream(stop_strings)) {}

        [[nodiscard]] bool done() const noexcept { return scorer.done(); }

        sampling::BeamScorer scorer;
        std::vector<TextStream> texts; ///< that of each beam, for the stop strings
    };

    [[nodiscard]] std::size_t vocab_size() const noexcept { return model_.transformer.config.vocab_size; }

    /// @param first   number of the group's first beam
    /// @param chosen  by the groups before, in this step
    void advance(Group& group, std::size_t first, const std::map<TokenId, std::size_t>& chosen) {
        const std::span<const sampling::Beam> beams = group.scorer.beams();
        const std::size_t n = 2 * (n_beams_ / groups_.size());
        candidates_.clear();
        for (std::size_t i = 0; i < beams.size(); ++i) {
            const std::size_t number = first + i;
            log_softmax(sessions_[number].logits()[0].flat(), model_.kernels->exp_shifted, logprobs_);
            sampler_.restart(prompt_, beams[i].tokens);
            const std::span<const float> scores = sampler_.scores(diversified(chosen), xtc_number(number));
            if (is_drawn_) {
                candidates_.add(i, beams[i].score, scores, logprobs_);
            } else {
                candidates_.add(i, beams[i].score, scores, logprobs_, n);
            }
        }
        const auto draw = [&](std::size_t i) {
            return gpt2::uniform(*config_.seed, config_.sample, step_ * n + i);
        };
        group.scorer.advance(is_drawn_ ? candidates_.drawn(n, draw) : candidates_.best(n),
                             [&](const sampling::BeamCandidate& candidate) {
                                 return candidate.token == eos_ ||
                                        with(group.texts[candidate.beam], candidate.token).stopped();
                             });
        std::vector<TextStream> texts;
        for (const sampling::Beam& beam : group.scorer.beams()) {
            texts.push_back(with(group.texts[beam.parent], beam.tokens.back()));
        }
        group.texts = std::move(texts);
    }

    /// The log-probabilities [n_tokens_] with the penalty for what earlier groups chose. Hugging Face's
    /// HammingDiversityLogitsProcessor.
    [[nodiscard]] std::span<const float> diversified(const std::map<TokenId, std::size_t>& chosen) {
        if (chosen.empty() || !config_.diversity_penalty) {
            return std::span<const float>(logprobs_).first(n_tokens_);
        }
        std::ranges::copy(logprobs_, diverse_.begin());
        for (const auto& [token, count] : chosen) {
            float& score = diverse_[static_cast<std::size_t>(token)];
            score = sampling::bounded(std::fma(-static_cast<double>(*config_.diversity_penalty),
                                               static_cast<double>(count), static_cast<double>(score)));
        }
        return std::span<const float>(diverse_).first(n_tokens_);
    }

    /// The random number of the option xtc, for a beam.
    [[nodiscard]] double xtc_number(std::size_t beam) const {
        return is_drawn_ && config_.xtc
                   ? second_uniform(*config_.seed, config_.sample, step_ * n_beams_ + beam)
                   : 0.0;
    }

    /// A beam's text after one more token.
    [[nodiscard]] TextStream with(const TextStream& text, TokenId token) const {
        TextStream out = text;
        if (!config_.stop_strings.empty()) {
            (void)out.push(model_.tokenizer.token_bytes(token));
        }
        return out;
    }

    const ModelState& model_;
    const GenerationConfig& config_;
    std::span<const TokenId> prompt_;
    std::size_t n_beams_;
    bool is_drawn_;
    std::optional<TokenId> eos_;
    BeamSessions sessions_; ///< of the beams of all groups, in order
    std::size_t n_tokens_;  ///< that may be chosen
    Sampler sampler_;       ///< for one beam after the other
    sampling::BeamCandidates candidates_;
    std::vector<float> logprobs_; ///< [V] of one beam
    std::vector<float> diverse_;  ///< [V] scratch
    std::vector<Group> groups_;   ///< all begin with the same beam
    std::vector<Generation> texts_;
    std::optional<InterruptCause> interrupted_{};
    std::uint64_t step_ = 0;
};

/// See Gpt2Model::generate_batch.
GPT2_HEAVY [[nodiscard]] std::vector<GenerationResult>
search_beams(const ModelState& model, const Session& empty, Profile* profile,
             std::span<const std::vector<TokenId>> prompts, const GenerationConfig& config,
             const BatchCallback& callback) {
    const Interrupt interrupt = interrupt_of(config);
    const std::vector<BatchRequest> requests = prepare_batch(prompts, config, model.transformer.config);
    const auto n_texts = static_cast<std::size_t>(config.num_return_sequences);
    std::vector<BeamSearch> searches;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        searches.emplace_back(model, empty.fork(), requests[i].config, requests[i].prompt, callback,
                              i * n_texts);
    }
    std::vector<GenerationResult> results(prompts.size() * n_texts);
    BatchPass pass(model.transformer.config.n_positions);
    const auto add = [&] {
        for (BeamSearch& search : searches) {
            if (!search.done()) {
                search.add_to(pass);
            }
        }
        return !pass.empty();
    };
    while (add()) {
        const std::optional<InterruptCause> interrupted = pass.run(interrupt);
        const Profile::Span span(profile, "choose");
        for (std::size_t i = 0; i < searches.size(); ++i) {
            if (!searches[i].done()) {
                if (interrupted) {
                    searches[i].interrupt(*interrupted);
                } else {
                    searches[i].step();
                }
                if (searches[i].done()) {
                    searches[i].write(std::span(results).subspan(i * n_texts, n_texts));
                }
            }
        }
    }
    return results;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<GenerationResult> search_beams<void>(const ModelState&, const Session&, Profile*,
                                                               std::span<const std::vector<TokenId>>,
                                                               const GenerationConfig&, const BatchCallback&);
#endif

} // namespace gpt2::detail
