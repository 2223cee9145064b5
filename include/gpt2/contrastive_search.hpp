// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/floating_point.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/observer.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/sampler.hpp"
#include "gpt2/session.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Contrastive search: of the k most probable tokens the one that is probable and unlike what the text has
/// already,
///
///     argmax over v of (1 - alpha) p(v) - alpha max_j cos(h_v, h_j)
///
/// p: the distribution after the processors; h: the hidden states behind `ln_f`, h_v that of v after the text
/// so far, h_j those of all tokens before it, the prompt's among them. Source: Y. Su et al., "A Contrastive
/// Framework for Neural Text Generation" (2022), https://arxiv.org/abs/2202.06417; transformers,
/// `_contrastive_search`, for what it leaves open.
///
/// Each candidate is read in a session of its own, all of them in one pass. The session that writes reads the
/// token that was chosen in the pass of the next candidates, so that it is at any time as in a plain run.

namespace gpt2::detail {

/// Hidden states behind `ln_f` by position, and how much others are like them. One caller at a time.
class HiddenStates : public Observer {
public:
    explicit HiddenStates(std::size_t n_embd) : n_embd_(n_embd) {}

    /// Is told the same; null: nobody.
    void pass_on_to(std::shared_ptr<Observer> other) { other_ = std::move(other); }

    void set(std::size_t position, std::span<const float> x) {
        const FloatingPointScope scope;
        if (lengths_.size() <= position) {
            lengths_.resize(position + 1);
            rows_.resize((position + 1) * n_embd_);
        }
        std::ranges::copy(x, rows_.begin() + static_cast<std::ptrdiff_t>(position * n_embd_));
        lengths_[position] = std::sqrt(dot(x, x));
    }

    [[nodiscard]] std::span<const float> at(std::size_t position) const noexcept {
        return std::span(rows_).subspan(position * n_embd_, n_embd_);
    }

    /// The largest cosine between @p x [C] and those of the first @p n positions, at least one; 0 where one
    /// of the two has no direction.
    [[nodiscard]] double likeness(std::span<const float> x, std::size_t n) const {
        const FloatingPointScope scope;
        const double length = std::sqrt(dot(x, x));
        double largest = -1.0;
        for (std::size_t position = 0; position < n; ++position) {
            const double both = length * lengths_[position];
            largest = std::max(largest, both == 0.0 ? 0.0 : dot(x, at(position)) / both);
        }
        return largest;
    }

    void hidden_state(std::size_t layer, std::size_t position, std::span<const float> x) override {
        if (other_) {
            other_->hidden_state(layer, position, x);
        }
    }
    void last_hidden_state(std::size_t position, std::span<const float> x) override {
        set(position, x);
        if (other_) {
            other_->last_hidden_state(position, x);
        }
    }
    [[nodiscard]] bool wants_attention(std::size_t layer) const override {
        return other_ && other_->wants_attention(layer);
    }
    void attention(std::size_t layer, std::size_t head, std::size_t position,
                   std::span<const float> weights) override {
        if (other_) {
            other_->attention(layer, head, position, weights);
        }
    }
    void logits(std::size_t position, std::span<const float> logits) override {
        if (other_) {
            other_->logits(position, logits);
        }
    }

private:
    /// In 16 sums, one for each i modulo 16, and these from the first to the last. Products of floats are
    /// exact in double, so that it is all the same whether a compiler fuses them with the additions.
    [[nodiscard]] static double dot(std::span<const float> a, std::span<const float> b) noexcept {
        constexpr std::size_t lanes = 16;
        std::array<double, lanes> sums{};
        std::size_t i = 0;
        for (; i + lanes <= a.size(); i += lanes) {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
            }
        }
        for (std::size_t lane = 0; i + lane < a.size(); ++lane) {
            sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
        }
        double sum = 0.0;
        for (const double part : sums) {
            sum += part;
        }
        return sum;
    }

    std::size_t n_embd_;              ///< C
    std::vector<float> rows_;         ///< [n, C]
    std::vector<double> lengths_;     ///< [n]
    std::shared_ptr<Observer> other_; ///< null: nobody
};

/// The last hidden state that a session computed.
class LastHiddenState : public Observer {
public:
    void last_hidden_state(std::size_t /*position*/, std::span<const float> x) override {
        x_.assign(x.begin(), x.end());
    }
    [[nodiscard]] std::span<const float> get() const noexcept { return x_; }

private:
    std::vector<float> x_;
};

/// Makes a session's observer another one while it lives.
class ObserverScope {
public:
    ObserverScope(std::shared_ptr<Observer>& observer, std::shared_ptr<Observer> other)
        : observer_(observer), before_(std::exchange(observer, std::move(other))) {}
    ObserverScope(const ObserverScope&) = delete;
    ObserverScope& operator=(const ObserverScope&) = delete;
    ~ObserverScope() { observer_ = std::move(before_); }

private:
    std::shared_ptr<Observer>& observer_;
    std::shared_ptr<Observer> before_;
};

/// A token that may come next.
struct ContrastiveCandidate {
    TokenId token = 0;
    double probability = 0.0; ///< after the processors
    float logprob = 0.0f;     ///< the model's own, if it is asked for
};

/// The candidates of one step after the other. One caller at a time.
class ContrastiveCandidates {
public:
    /// @param context  all tokens before the text, for the processors
    ContrastiveCandidates(const ModelState& model, const GenerationConfig& config,
                          std::span<const TokenId> context)
        : k_(static_cast<std::size_t>(*config.top_k)), wants_logprobs_(config.logprobs),
          exp_(model.kernels->exp_shifted),
          sampler_(config,
                   vocabulary_of(config, model.transformer.config.vocab_size,
                                 eos_of(config, model.transformer.config), model.tokenizer),
                   exp_),
          n_tokens_(n_known(model.transformer.config.vocab_size, model.tokenizer)), top_k_(n_tokens_),
          weights_(n_tokens_) {
        sampler_.note(context);
    }

    /// The k most probable tokens that the processors allow, or as many as there are; of equal ones the lower
    /// ids, and in this order. Good until the next call.
    /// @param logits  [V] after the text so far
    /// @throws as Sampler::scores
    [[nodiscard]] std::span<const ContrastiveCandidate> after(std::span<const float> logits) {
        const FloatingPointScope scope;
        const std::span<const float> scores = sampler_.scores(logits.first(n_tokens_));
        top_k_.select(scores, k_);
        std::vector<TokenId>& ids = top_k_.ids();
        const auto score = [scores](TokenId id) { return scores[static_cast<std::size_t>(id)]; };
        std::erase_if(ids, [&](TokenId id) { return score(id) < std::numeric_limits<float>::lowest(); });
        std::ranges::stable_sort(ids, std::ranges::greater(), score);
        ids.resize(std::min(ids.size(), k_));
        exp_(scores.data(), score(ids.front()), weights_.data(), scores.size());
        double sum = 0.0;
        for (const float weight : weights_) {
            sum += static_cast<double>(weight);
        }
        std::optional<LogSoftmax> logprobs;
        if (wants_logprobs_) {
            scratch_.resize(logits.size());
            logprobs.emplace(logits, exp_, scratch_);
        }
        candidates_.clear();
        for (const TokenId id : ids) {
            const auto i = static_cast<std::size_t>(id);
            candidates_.push_back({id, static_cast<double>(weights_[i]) / sum,
                                   logprobs ? static_cast<float>((*logprobs)[i]) : 0.0f});
        }
        return candidates_;
    }

    /// Tells of the next token of the text.
    void accept(TokenId token) { sampler_.accept(token); }

private:
    std::size_t k_;
    bool wants_logprobs_;
    ExpShifted exp_;
    Sampler sampler_;
    std::size_t n_tokens_; ///< that may be chosen
    TopK top_k_;
    std::vector<float> weights_; ///< [n_tokens_]
    std::vector<float> scratch_;
    std::vector<ContrastiveCandidate> candidates_;
};

/// Reads a candidate.
struct ContrastiveBranch {
    Session session;
    std::shared_ptr<LastHiddenState> state; ///< the session's observer
};

/// The candidate with the largest score; of equal ones the more probable.
/// @param branches  the first of them have read a candidate each
/// @param n         tokens before it
[[nodiscard]] inline std::size_t best_branch(std::span<const ContrastiveBranch> branches,
                                             std::span<const ContrastiveCandidate> candidates,
                                             const HiddenStates& states, std::size_t n, double alpha) {
    std::size_t best = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const double likeness = states.likeness(branches[i].state->get(), n);
        const double score = std::fma(-alpha, likeness, (1.0 - alpha) * candidates[i].probability);
        if (score > largest) {
            best = i;
            largest = score;
        }
    }
    return best;
}

} // namespace gpt2::detail

namespace gpt2 {

/// Reads what the session does not hold of the context. Hidden states that nobody kept when the session read
/// its tokens are computed again.
inline std::shared_ptr<detail::HiddenStates> Session::read_hidden_states(std::span<const TokenId> context,
                                                                         std::size_t n_held,
                                                                         const Interrupt& interrupt) {
    auto states = std::make_shared<detail::HiddenStates>(model_->transformer.config.n_embd);
    interrupt.check();
    if (n_held != 0) {
        Session again(model_, pool_, profile_, states, kv_dtype());
        const BatchItem item{&again, context.first(n_held), Logits::none};
        gpt2::forward({&item, 1}, interrupt);
    }
    if (n_held < position()) {
        truncate(n_held);
    }
    if (n_held < context.size()) {
        states->pass_on_to(observer_);
        const detail::ObserverScope scope(observer_, states);
        forward(context.subspan(n_held), interrupt);
        states->pass_on_to(nullptr);
    }
    return states;
}

inline void Session::contrast(Generation& generation, const GenerationConfig& config,
                              std::span<const TokenId> context, std::size_t n_held,
                              const Interrupt& interrupt) {
    std::shared_ptr<detail::HiddenStates> states;
    if (!generation.completes([&] { states = read_hidden_states(context, n_held, interrupt); })) {
        return;
    }
    detail::ContrastiveCandidates step(*model_, config, context);
    std::vector<detail::ContrastiveBranch> branches; // the first of them has read all of the text
    std::optional<TokenId> unread;                   // by this session: the last token of it
    std::span<const float> logits = this->logits()[logit_rows_ - 1].flat();
    for (std::size_t n = context.size(); !generation.done(); ++n) {
        const std::span<const detail::ContrastiveCandidate> candidates = step.after(logits);
        std::vector<BatchItem> items;
        while (branches.size() < candidates.size()) {
            auto state = std::make_shared<detail::LastHiddenState>();
            branches.push_back({Session(model_, pool_, profile_, state, kv_dtype()), state});
        }
        if (unread) {
            items.push_back({this, {&*unread, 1}});
        }
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            branches[i].session.follow(unread ? branches[0].session : *this);
            items.push_back({&branches[i].session, {&candidates[i].token, 1}});
        }
        if (!generation.completes([&] { gpt2::forward(items, interrupt); })) {
            return;
        }
        const Profile::Span span(profile_.get(), "choose");
        const std::size_t best =
            detail::best_branch(branches, candidates, *states, n, static_cast<double>(*config.penalty_alpha));
        states->set(n, branches[best].state->get());
        std::swap(branches[0], branches[best]);
        logits = branches[0].session.logits()[0].flat();
        unread = candidates[best].token;
        step.accept(*unread);
        generation.take(*unread, candidates[best].logprob);
    }
}

} // namespace gpt2
