// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/floating_point.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/model.hpp"
#include "gpt2/random.hpp"
#include "gpt2/sampler.hpp"
#include "gpt2/session.hpp"
#include "gpt2/speculation/drafter.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Proposals from a model that is faster than the one that writes.

namespace gpt2 {

namespace detail {

/// @throws OptionError if a token is not the same bytes for both
inline void require_same_vocabulary(const Tokenizer& draft, const Tokenizer& model) {
    if (draft.size() != model.size()) {
        throw OptionError(concat("assistant_model: expected the vocabulary of the model, ", model.size(),
                                 " tokens, found one of ", draft.size()));
    }
    for (std::size_t i = 0; i < model.size(); ++i) {
        const auto token = static_cast<TokenId>(i);
        const std::string_view expected = model.token_bytes(token);
        const std::string_view found = draft.token_bytes(token);
        if (found != expected) {
            throw OptionError(concat("assistant_model: expected the vocabulary of the model, where token ", i,
                                     " is ", quoted(expected), ", found ", quoted(found)));
        }
    }
}

/// Makes a session hold @p tokens and nothing else; what it holds of them already is not read again.
/// @returns the logits after the last
/// @throws as gpt2::forward
inline std::span<const float> hold(Session& session, std::span<const TokenId> tokens,
                                   const Interrupt& interrupt = {}) {
    const std::span<const TokenId> held = session.tokens();
    const auto differ = std::mismatch(held.begin(), held.end(), tokens.begin(), tokens.end()).first;
    const auto same = static_cast<std::size_t>(differ - held.begin());
    session.truncate(std::min(same, tokens.size() - 1)); // one is read for its logits
    return session.forward(tokens.subspan(session.position()), interrupt);
}

/// What a draft chooses its tokens with: the options of the text, so that it chooses what the model would,
/// but for those that need more than its own logits. A user's function is not called for tokens that the
/// text may never have.
[[nodiscard]] inline GenerationConfig draft_config(GenerationConfig config) {
    config.guidance_scale.reset();
    config.negative_prompt_ids.clear();
    config.logits_processors.clear();
    return config;
}

/// A text that a model proposes. Its session holds the context from begin_ on, and what it proposed last.
class ModelDraft : public Draft {
public:
    ModelDraft(const Gpt2Model& model, const SessionOptions& options, const DraftRequest& request)
        : model_(model), session_(model_, options), exp_(kernels::kernels_for(model_.isa()).exp_shifted),
          config_(draft_config(request.config)), eos_(eos_of(config_, request.model)),
          vocabulary_(vocabulary_of(config_, model_.config().vocab_size, eos_, model_.tokenizer())),
          n_context_(request.n_context), interrupt_(request.interrupt) {}

    [[nodiscard]] std::vector<TokenId> propose(std::span<const TokenId> context, std::size_t most) override {
        const FloatingPointScope scope;
        std::vector<TokenId> proposed;
        try {
            std::span<const float> logits = read(context);
            most = std::min(most, model_.config().n_positions - session_.position() + 1);
            follow(context);
            for (;;) {
                const TokenId token = choose(logits, context.size() - n_context_ + proposed.size());
                if (token == eos_) { // behind which there is nothing to propose
                    break;
                }
                proposed.push_back(token);
                if (proposed.size() == most) {
                    break;
                }
                tell(token);
                logits = session_.forward({&token, 1}, interrupt_);
            }
        } catch (const NumericError&) { // of the draft's: what is an error of the text, its own model says
        } catch (const OptionError&) {  // of a constraint that goes beyond a limit in what is only proposed
        }
        return proposed;
    }

private:
    /// @returns the logits after the context, of which the session then holds what there is room for
    std::span<const float> read(std::span<const TokenId> context) {
        const std::size_t n_positions = model_.config().n_positions;
        if (context.size() - begin_ > n_positions) { // slides on its own, however long the model's context is
            begin_ = context.size() - slide_window(context, n_positions).size();
        }
        return hold(session_, context.subspan(begin_), interrupt_);
    }

    /// Makes the sampler one that was told of the context and of nothing else.
    void follow(std::span<const TokenId> context) {
        const std::span<const TokenId> text = context.subspan(n_context_);
        if (!sampler_ || told_.size() > text.size() ||
            !std::equal(told_.begin(), told_.end(), text.begin())) {
            sampler_.emplace(config_, vocabulary_, exp_);
            sampler_->note(context.first(n_context_));
            told_.clear();
        }
        for (const TokenId token : text.subspan(told_.size())) {
            tell(token);
        }
    }

    void tell(TokenId token) {
        sampler_->accept(token);
        told_.push_back(token);
    }

    /// With the random numbers that the model will choose this token of the text with.
    TokenId choose(std::span<const float> logits, std::size_t draw) {
        const double u = config_.seed ? gpt2::uniform(*config_.seed, config_.sample, draw) : 0.0;
        const double u_xtc = config_.seed ? second_uniform(*config_.seed, config_.sample, draw) : 0.0;
        return sampler_->next(logits.first(vocabulary_.size), u, u_xtc);
    }

    Gpt2Model model_;
    Session session_;
    ExpShifted exp_;
    GenerationConfig config_;
    std::optional<TokenId> eos_;
    sampling::Vocabulary vocabulary_;
    std::size_t n_context_; ///< tokens before the text
    Interrupt interrupt_;
    std::size_t begin_ = 0; ///< of what the session holds, in the context
    std::optional<Sampler> sampler_;
    std::vector<TokenId> told_; ///< the text as the sampler knows it
};

} // namespace detail

/// Lets a model propose: one with the same vocabulary and fewer weights, or weights in a smaller format. It
/// chooses its tokens by the options of the text and with the same random numbers, so that at the same logits
/// it proposes what the model will choose, in a sampled text too. A shorter context than the model's is no
/// obstacle. Thread-safe.
class DraftModel : public Drafter {
public:
    /// @param options  of the sessions that it keeps, one for each text; without a pool they compute on that
    ///                 of the session that writes
    explicit DraftModel(Gpt2Model model, SessionOptions options = {})
        : model_(std::move(model)), options_(std::move(options)) {}

    /// @throws OptionError if the vocabulary is another than the model's
    [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest& request) const override {
        detail::require_same_vocabulary(model_.tokenizer(), request.tokenizer);
        SessionOptions options = options_;
        if (!options.pool) {
            options.pool = request.pool;
        }
        return std::make_unique<detail::ModelDraft>(model_, options, request);
    }

private:
    Gpt2Model model_;
    SessionOptions options_;
};

} // namespace gpt2
