// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/math.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// @file
/// The scores of the tokens on their way from logits to a choice.

namespace gpt2::sampling {

/// Which tokens top_k leaves where several equal the k-th largest.
enum class TopKTies {
    keep, ///< all of them: more than k tokens may remain (Hugging Face, the original scripts)
    cut,  ///< those with the lowest ids: never more than k (as llama.cpp, which leaves open which of them)
};

/// A score within the range of float; -infinity stays.
[[nodiscard]] inline float bounded(double s) noexcept {
    constexpr double limit = std::numeric_limits<float>::max();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return s == -infinity ? -std::numeric_limits<float>::infinity()
                          : static_cast<float>(std::clamp(s, -limit, limit));
}

/// The scores of all V tokens, or of those that remain with their ids, which always ascend. A score of
/// -infinity forbids its token.
///
/// A temperature is remembered, not applied: it keeps the order of the scores, so that what cuts by order may
/// go first, and the division is needed for what remains. The weights e^((s - max) / t) are computed when
/// somebody asks, and kept until a score changes. Nothing is allocated after the constructor, but by all()
/// after tokens were dropped.
class Scores {
public:
    /// @param drawn  a token will be drawn; without, there are neither weights nor dropped tokens, except by
    ///               keep_only()
    Scores(std::size_t vocab_size, ExpShifted exp, bool drawn)
        : vocab_size_(vocab_size), exp_(exp), top_k_(drawn ? vocab_size : 0) {
        values_.reserve(vocab_size);
        ids_.reserve(drawn ? vocab_size : 1);
        if (drawn) {
            weights_.reserve(vocab_size);
            scaled_.reserve(vocab_size);
        }
    }

    /// Starts again, from logits that stay where they are.
    /// @param logits [V]
    void begin(std::span<const float> logits) noexcept {
        source_ = logits;
        is_source_ = true;
        is_all_ = true;
        temperature_ = 1.0f;
        is_weighed_ = false;
    }

    /// How many tokens remain.
    [[nodiscard]] std::size_t size() const noexcept { return values().size(); }

    /// Their scores, in the order of their ids, before the temperature.
    [[nodiscard]] std::span<const float> values() const noexcept {
        return is_source_ ? source_ : std::span<const float>(values_);
    }

    /// The token of values()[i].
    [[nodiscard]] TokenId id(std::size_t i) const noexcept {
        return is_all_ ? static_cast<TokenId>(i) : ids_[i];
    }

    /// Whether a token may be chosen.
    [[nodiscard]] bool any_allowed() const noexcept {
        const auto scores = values();
        return std::any_of(scores.begin(), scores.end(), [](float s) { return s > forbidden; });
    }

    /// The score of one token, to change; null if it was dropped or is not in the vocabulary.
    [[nodiscard]] float* find(TokenId token) {
        prepare_change();
        if (is_all_) {
            const auto i = static_cast<std::size_t>(token);
            return token >= 0 && i < values_.size() ? &values_[i] : nullptr;
        }
        const auto at = std::lower_bound(ids_.begin(), ids_.end(), token);
        return at != ids_.end() && *at == token ? &values_[static_cast<std::size_t>(at - ids_.begin())]
                                                : nullptr;
    }

    /// Forbids a token.
    void forbid(TokenId token) {
        if (float* const s = find(token)) {
            *s = forbidden;
        }
    }

    /// The scores of all tokens, to change, [V]; those of dropped ones are -infinity.
    [[nodiscard]] std::span<float> all() {
        prepare_change();
        if (!is_all_) {
            spread_.assign(vocab_size_, forbidden);
            for (std::size_t i = 0; i < ids_.size(); ++i) {
                spread_[static_cast<std::size_t>(ids_[i])] = values_[i];
            }
            std::swap(values_, spread_);
            is_all_ = true;
        }
        return values_;
    }

    /// Drops every token but @p token, even if it was forbidden; its score becomes 0.
    void keep_only(TokenId token) {
        ids_.assign(1, token);
        values_.assign(1, 0.0f);
        is_source_ = false;
        is_all_ = false;
        temperature_ = 1.0f;
        is_weighed_ = false;
    }

    /// s = s / t, when the time has come. @param t above 0
    void divide_by(float t) {
        if (temperature_ != 1.0f) {
            prepare_change();
        }
        temperature_ = t;
        is_weighed_ = false;
    }

    /// Drops the tokens below the k-th largest score. @param k at least 1
    void keep_largest(std::size_t k, TopKTies ties) {
        if (k >= size()) {
            return;
        }
        if (is_all_) {
            top_k_.select(values(), k);
            std::swap(ids_, top_k_.ids());
            std::swap(values_, top_k_.values());
            is_source_ = false;
            is_all_ = false;
            is_weighed_ = false;
        } else {
            scaled_.assign(values_.begin(), values_.end());
            const auto kth = scaled_.begin() + static_cast<std::ptrdiff_t>(k - 1);
            std::nth_element(scaled_.begin(), kth, scaled_.end(), std::greater<>());
            keep_if([&, least = *kth](std::size_t i) { return values_[i] >= least; });
        }
        if (ties == TopKTies::cut && size() > k) {
            const float least = *std::min_element(values_.begin(), values_.end());
            std::size_t room =
                k - (size() - static_cast<std::size_t>(std::count(values_.begin(), values_.end(), least)));
            keep_if([&](std::size_t i) { return values_[i] != least || (room > 0 && room-- > 0); });
        }
    }

    /// Drops the tokens for which @p keep, called with i = 0 to size() - 1, answers false. It may look at
    /// values()[i] and weights()[i] of this i, not of smaller ones.
    template <class Predicate> void keep_if(Predicate keep) {
        const std::span<const float> scores = values();
        const std::size_t n = scores.size();
        if (is_all_) {
            ids_.resize(n);
        }
        if (is_source_) {
            values_.resize(n);
        }
        std::size_t kept = 0;
        for (std::size_t i = 0; i < n; ++i) {
            if (keep(i)) {
                ids_[kept] = id(i);
                values_[kept] = scores[i];
                if (is_weighed_) {
                    weights_[kept] = weights_[i];
                }
                ++kept;
            }
        }
        ids_.resize(kept);
        values_.resize(kept);
        weights_.resize(is_weighed_ ? kept : 0);
        is_source_ = false;
        is_all_ = false;
    }

    /// e^((s - max) / t) of the tokens that remain: 1 for the largest score that there was when the weights
    /// were computed. At least one token must be allowed.
    [[nodiscard]] std::span<const float> weights() {
        if (!is_weighed_) {
            const std::span<const float> scores = values();
            largest_ = detail::max_of(scores);
            weights_.resize(scores.size());
            if (temperature_ == 1.0f) {
                exp_(scores.data(), largest_, weights_.data(), scores.size());
            } else {
                scaled_.resize(scores.size());
                for (std::size_t i = 0; i < scores.size(); ++i) {
                    scaled_[i] = (scores[i] - largest_) / temperature_;
                }
                exp_(scaled_.data(), 0.0f, weights_.data(), scores.size());
            }
            is_weighed_ = true;
        }
        return weights_;
    }

    /// The sum of the weights, in the order of ids.
    [[nodiscard]] double total() {
        double sum = 0.0;
        for (const float w : weights()) {
            sum += static_cast<double>(w);
        }
        return sum;
    }

    /// (s - max) / t of values()[i], in double, after weights().
    [[nodiscard]] double log_weight(std::size_t i) const noexcept {
        return (static_cast<double>(values()[i]) - static_cast<double>(largest_)) /
               static_cast<double>(temperature_);
    }

    /// -sum of p ln p over the tokens that remain, in nats. With p = w / W: ln W - (sum of w ln w) / W.
    [[nodiscard]] double entropy() {
        const std::span<const float> w = weights();
        const double whole = total();
        double sum = 0.0;
        for (std::size_t i = 0; i < w.size(); ++i) {
            if (w[i] > 0.0f) {
                sum = std::fma(static_cast<double>(w[i]), log_weight(i), sum);
            }
        }
        return detail::portable_log(whole) - sum / whole;
    }

private:
    static constexpr float forbidden = -std::numeric_limits<float>::infinity();

    /// Scores are about to change: they need a place of their own, without a temperature that waits.
    void prepare_change() {
        if (is_source_) {
            values_.assign(source_.begin(), source_.end());
            is_source_ = false;
        }
        if (temperature_ != 1.0f) {
            for (float& s : values_) {
                s = bounded(static_cast<double>(s / temperature_));
            }
            temperature_ = 1.0f;
        }
        is_weighed_ = false;
    }

    std::size_t vocab_size_;
    ExpShifted exp_;
    detail::TopK top_k_;
    std::span<const float> source_;
    bool is_source_ = true;   ///< the scores are source_; otherwise values_
    bool is_all_ = true;      ///< they are those of all tokens; otherwise of ids_
    bool is_weighed_ = false; ///< weights_ belong to them, and largest_
    float temperature_ = 1.0f;
    float largest_ = 0.0f;
    std::vector<float> values_;
    std::vector<TokenId> ids_;
    std::vector<float> weights_;
    std::vector<float> scaled_; ///< scratch
    std::vector<float> spread_; ///< scratch of all()
};

} // namespace gpt2::sampling
