// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/contrastive_search.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/session.hpp"
#include "gpt2/session_score.hpp"
#include "gpt2/speculation/speculator.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Session::generate: the loop from logits to a token and back, with what may go beside it: screening,
/// guidance, proposals. (Contrastive search has a loop of its own.)

namespace gpt2 {

/// Appends tokens; where they do not fit and the options say to slide, the end of everything so far starts
/// again from position 0. (Positions are learned and added at the input, so cached keys cannot move.)
inline void Session::extend(std::span<const TokenId> tokens, Overflow overflow, const Interrupt& interrupt) {
    const Config& config = model_->transformer.config;
    if (overflow != Overflow::slide || tokens.size() <= config.n_positions - position()) {
        forward(tokens, interrupt);
        return;
    }
    const std::vector<TokenId> kept = slide_window(tokens_, tokens, config.n_positions);
    truncate(0);
    forward(kept, interrupt);
}

inline void Session::read_screened(TokenId token, const Candidates& wanted, const Interrupt& interrupt) {
    const Transformer& transformer = model_->transformer;
    if (head_inputs_.size() == 0) {
        head_inputs_ = Tensor<float, 2>({2, transformer.config.n_embd});
    }
    const BatchItem item{this, {&token, 1}, Logits::last};
    const std::vector<Row> rows = rows_of({&item, 1});
    const ScreeningRequest screening{wanted, head_, head_inputs_[1].data()};
    pass(rows, nullptr, &screening, interrupt);
    if (!head_.screened) {
        detail::require_finite(head_.logits.flat());
    }
    std::ranges::copy(head_inputs_[1].flat(), head_inputs_[0].data());
    tokens_.push_back(token);
    logit_rows_ = 0;
}

inline void Session::complete_logits() {
    const Transformer& transformer = model_->transformer;
    auto logits =
        std::make_shared<Tensor<float, 2>>(Tensor<float, 2>::Shape{1, transformer.config.vocab_size});
    const auto turn = pool_->take_turn();
    transformer.lm_head.forward({*model_->kernels, *pool_, profile_.get()}, head_inputs_.data(), 1,
                                logits->data(), kernels::Epilogue::store, workspace_.packed);
    logits_ = std::move(logits);
    first_logit_row_ = 0;
    logit_rows_ = 1;
}

inline std::optional<Session> Session::unguided_session(const GenerationConfig& config,
                                                        TokenId last_of_context,
                                                        const Interrupt& interrupt) const {
    if (!sampling::is_set(config, sampling::ProcessorKind::guidance_scale) || config.max_new_tokens == 0) {
        return std::nullopt;
    }
    Session session(model_, pool_, profile_, nullptr, kv_dtype());
    const std::span<const TokenId> negative(config.negative_prompt_ids);
    session.extend(negative.empty() ? std::span<const TokenId>(&last_of_context, 1)
                                    : context_of(negative, config, model_->transformer.config.n_positions),
                   config.overflow, interrupt);
    return session;
}

inline void Session::extend_both(TokenId token, Session* unguided, Overflow overflow,
                                 const Interrupt& interrupt) {
    const std::size_t room = model_->transformer.config.n_positions;
    if (unguided != nullptr && position() < room && unguided->position() < room) {
        const BatchItem items[] = {{this, {&token, 1}}, {unguided, {&token, 1}}};
        gpt2::forward(items, interrupt);
        return;
    }
    if (unguided != nullptr) { // first: an interrupt here leaves this session as it was
        unguided->extend({&token, 1}, overflow, interrupt);
    }
    extend({&token, 1}, overflow, interrupt);
}

inline void Session::hide_proposals(std::size_t count) noexcept {
    tokens_.resize(tokens_.size() - count);
    logit_rows_ -= count;
}

inline void Session::show_proposal(TokenId token) noexcept {
    tokens_.push_back(token); // its key and value are in the cache
    ++first_logit_row_;
}

inline bool Session::extend_ahead(TokenId token, Session* unguided, Speculator& speculator,
                                  const Interrupt& interrupt) {
    if (speculator.accept(token)) {
        show_proposal(token);
        if (unguided != nullptr) {
            unguided->show_proposal(token);
        }
        return true;
    }
    const std::size_t taken = std::max(position(), unguided == nullptr ? 0 : unguided->position());
    std::span<const TokenId> rows;
    {
        const Profile::Span span(profile_.get(), "propose");
        rows = speculator.rows(model_->transformer.config.n_positions - taken);
    }
    if (rows.size() == 1) {
        return false;
    }
    const BatchItem items[] = {{this, rows, Logits::all}, {unguided, rows, Logits::all}};
    try {
        gpt2::forward(std::span(items).first(unguided == nullptr ? 1 : 2), interrupt);
    } catch (const NumericError&) { // maybe of a proposal, which the text has nothing to do with
        speculator.withdraw();
        return false;
    }
    hide_proposals(rows.size() - 1);
    if (unguided != nullptr) {
        unguided->hide_proposals(rows.size() - 1);
    }
    return true;
}

inline Screening Session::write(Generation& generation, Overflow overflow, Session* unguided,
                                Speculator* speculator, const Interrupt& interrupt) {
    const std::optional<ScreenedHead>& screen = model_->transformer.screen;
    Screening result;
    bool screened = false;
    const auto next = [&] { // and tell the callback
        const Profile::Span span(profile_.get(), "choose");
        return generation.step(screened ? head_.logits.flat() : logits()[logit_rows_ - 1].flat(), screened,
                               unguided == nullptr ? std::span<const float>()
                                                   : unguided->logits()[unguided->logit_rows_ - 1].flat());
    };
    const auto read = [&](TokenId token) {
        if (speculator != nullptr && extend_ahead(token, unguided, *speculator, interrupt)) {
            screened = false;
            return;
        }
        const auto wanted = screen && observer_ == nullptr ? generation.candidates() : std::nullopt;
        if (!wanted || position() == model_->transformer.config.n_positions) {
            screened = false;
            extend_both(token, unguided, overflow, interrupt);
            return;
        }
        read_screened(token, *wanted, interrupt);
        screened = true;
        if (head_.screened) {
            ++result.tokens;
            result.panels += head_.computed;
            result.all += kernels::panel_count(screen->n_outputs());
        }
    };
    try {
        for (auto token = next(); token; token = next()) {
            if (!generation.completes([&] { read(*token); })) {
                break;
            }
        }
    } catch (...) {
        if (screened) {
            try {
                complete_logits();
            } catch (...) { // the first exception is the one to tell of; logits() stays empty
            }
        }
        throw;
    }
    if (screened) {
        complete_logits();
    }
    return result;
}

template <class>
GenerationResult Session::continue_prompt(std::span<const TokenId> prompt, const GenerationConfig& config,
                                          const StreamCallback& callback) {
    const Config& shape = model_->transformer.config;
    const Interrupt interrupt = interrupt_of(config);
    validate(config, shape);
    detail::require_one_text(config);
    detail::require_no_beams(config);
    require_room(position() + prompt.size(), config, shape);
    detail::require_whole_prompt(prompt.size(), shape.n_positions - position(), config);
    if (sampling::is_set(config, sampling::ProcessorKind::guidance_scale)) {
        require_room(std::max<std::size_t>(config.negative_prompt_ids.size(), 1), config, shape);
    }
    if (prompt.empty() && logit_rows_ == 0) {
        throw OptionError("Session::generate: expected a prompt or logits to continue from, found neither");
    }
    std::vector<TokenId> all(tokens_);
    all.insert(all.end(), prompt.begin(), prompt.end());
    const std::span<const TokenId> context = context_of(all, config, shape.n_positions);
    const bool truncated = context.size() < all.size();
    const std::size_t n_prompt = std::min(prompt.size(), context.size());
    Generation generation(shape, model_->tokenizer, model_->kernels->exp_shifted, config, callback, context,
                          n_prompt);
    if (sampling::is_contrastive(config)) {
        contrast(generation, config, context, truncated ? 0 : position(), interrupt);
        return std::move(generation).finish();
    }
    std::optional<Speculator> speculator;
    if (speculates(config)) {
        speculator.emplace(config, generation.seed(), shape, model_->tokenizer, pool_,
                           std::vector<TokenId>(context.begin(), context.end()), interrupt);
    }
    std::optional<Session> unguided;
    const auto read_prompts = [&] {
        interrupt.check();
        unguided = unguided_session(config, context.back(), interrupt);
        if (truncated) {
            truncate(0);
        }
        const std::span<const TokenId> tokens = context.subspan(position());
        if (config.prompt_logprobs) {
            generation.take_prompt(read_prompt(tokens, n_prompt, config.top_logprobs, interrupt));
        } else if (!tokens.empty()) {
            extend(tokens, config.overflow, interrupt);
        }
    };
    Screening screening;
    if (generation.completes(read_prompts)) {
        screening = write(generation, config.overflow, unguided ? &*unguided : nullptr,
                          speculator ? &*speculator : nullptr, interrupt);
    }
    GenerationResult result = std::move(generation).finish();
    result.screening = screening;
    if (speculator) {
        result.speculation = speculator->finish(result.tokens);
    }
    return result;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE GenerationResult Session::continue_prompt<void>(std::span<const TokenId>,
                                                              const GenerationConfig&, const StreamCallback&);
#endif

} // namespace gpt2
