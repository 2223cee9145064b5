// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/sampling/processor.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Processors against repetition. s is the score of a token.

namespace gpt2::sampling {

/// s = s r where s < 0, else s / r, once for each token that occurs.
///
/// N. S. Keskar et al., "CTRL", 2019, section 4.1, with the rule for negative scores of Hugging Face's
/// RepetitionPenaltyLogitsProcessor; so does llama.cpp.
class RepetitionPenalty final : public Processor {
public:
    explicit RepetitionPenalty(float r) : r_(r) {}

    void apply(Scores& scores, const Context& context) override {
        for (const TokenId token : context.counts.seen()) {
            if (float* const s = scores.find(token)) {
                *s = detail::penalized(*s, r_);
            }
        }
    }

private:
    float r_;
};

/// s = s - a for each token that occurs. OpenAI's API reference, "presence penalty"; llama.cpp counts in the
/// prompt too, and so does this.
class PresencePenalty final : public Processor {
public:
    explicit PresencePenalty(float a) : a_(a) {}

    void apply(Scores& scores, const Context& context) override {
        for (const TokenId token : context.counts.seen()) {
            if (float* const s = scores.find(token)) {
                *s = bounded(static_cast<double>(*s) - static_cast<double>(a_));
            }
        }
    }

private:
    float a_;
};

/// s = s - a n for each token that occurs n times. OpenAI's API reference, "frequency penalty"; llama.cpp.
class FrequencyPenalty final : public Processor {
public:
    explicit FrequencyPenalty(float a) : a_(a) {}

    void apply(Scores& scores, const Context& context) override {
        for (const TokenId token : context.counts.seen()) {
            if (float* const s = scores.find(token)) {
                const auto n = static_cast<double>(context.counts.count(token));
                *s = bounded(std::fma(-static_cast<double>(a_), n, static_cast<double>(*s)));
            }
        }
    }

private:
    float a_;
};

/// Forbids each token with which the text would repeat n tokens in a row.
///
/// Hugging Face's NoRepeatNGramLogitsProcessor. The prompt counts.
class NoRepeatNgram final : public Processor {
public:
    /// @param n at least 1
    explicit NoRepeatNgram(std::size_t n) : n_(n) {}

    void apply(Scores& scores, const Context& context) override {
        const auto tokens = context.tokens;
        if (tokens.size() < n_) {
            return;
        }
        const auto last = tokens.last(n_ - 1);
        for (std::size_t i = 0; i + n_ <= tokens.size(); ++i) {
            if (std::equal(last.begin(), last.end(), tokens.begin() + static_cast<std::ptrdiff_t>(i))) {
                scores.forbid(tokens[i + n_ - 1]);
            }
        }
    }

private:
    std::size_t n_;
};

/// What the `dry` option says. A user's words for DryPenalty.
struct Dry {
    float multiplier = 0.8f;         ///< 0: off
    float base = 1.75f;              ///< at least 1
    std::int64_t allowed_length = 2; ///< repetitions shorter than this cost nothing
    /// Look for repetitions in the last so many tokens; in all if there is no value.
    std::optional<std::int64_t> penalty_last_n{};
    /// No repetition reaches over one of these texts.
    std::vector<std::string> sequence_breakers{"\n", ":", "\"", "*"};

    friend bool operator==(const Dry&, const Dry&) = default;
};

/// "Don't repeat yourself": s = s - m b^(L - a) for each token that would continue a repetition of L >= a
/// tokens, L being the longest end of the text that stands elsewhere in it before that token.
///
/// p-e-w, https://github.com/oobabooga/text-generation-webui/pull/5677; the rules at the edges are those of
/// llama.cpp's llama_sampler_dry: only the last tokens count, no repetition reaches back over the last
/// sequence breaker, and a token that is a breaker by itself is never penalized.
class DryPenalty final : public Processor {
public:
    /// @param breakers  sequences of tokens, none of them empty
    DryPenalty(const Dry& options, std::vector<std::vector<TokenId>> breakers)
        : multiplier_(static_cast<double>(options.multiplier)), base_(static_cast<double>(options.base)),
          allowed_(static_cast<std::size_t>(options.allowed_length)), breakers_(std::move(breakers)) {
        if (options.penalty_last_n) {
            last_n_ = static_cast<std::size_t>(*options.penalty_last_n);
        }
        std::sort(breakers_.begin(), breakers_.end());
    }

    void apply(Scores& scores, const Context& context) override {
        const auto tokens = context.tokens.last(std::min(context.tokens.size(), last_n_));
        const std::size_t reach = distance_to_breaker(tokens);
        if (tokens.size() <= allowed_ || reach < allowed_) {
            return;
        }
        measure_repeats(tokens);
        repeats_.clear();
        for (std::size_t i = 0; i + 1 < tokens.size(); ++i) { // the end of a repetition, and what came then
            const std::size_t length = std::min(lengths_[tokens.size() - 1 - i], reach);
            if (length >= allowed_) {
                repeats_.emplace_back(tokens[i + 1], length);
            }
        }
        std::sort(repeats_.begin(), repeats_.end());
        for (std::size_t i = 0; i < repeats_.size(); ++i) { // the longest repetition of a token comes last
            const auto& [token, length] = repeats_[i];
            if ((i + 1 == repeats_.size() || repeats_[i + 1].first != token) && !is_breaker(token)) {
                if (float* const s = scores.find(token)) {
                    const double penalty = multiplier_ * power(base_, length - allowed_);
                    *s = bounded(static_cast<double>(*s) - std::min(penalty, largest));
                }
            }
        }
    }

private:
    static constexpr double largest = std::numeric_limits<float>::max();

    /// b^n by squaring, within the range of float.
    [[nodiscard]] static double power(double b, std::size_t n) noexcept {
        double result = 1.0;
        for (; n > 0; n /= 2) {
            if (n % 2 == 1) {
                result = std::min(result * b, largest);
            }
            b = std::min(b * b, largest);
        }
        return result;
    }

    /// The sequence breakers that begin with @p token; the one of one token comes first.
    [[nodiscard]] std::span<const std::vector<TokenId>> breakers_at(TokenId token) const {
        const auto begin =
            std::lower_bound(breakers_.begin(), breakers_.end(), token,
                             [](const auto& breaker, TokenId head) { return breaker.front() < head; });
        const auto end = std::find_if(begin, breakers_.end(),
                                      [token](const auto& breaker) { return breaker.front() != token; });
        return {begin, end};
    }

    /// How many tokens follow the last sequence breaker; all of them if there is none. Of several breakers
    /// that begin at one place the longest counts.
    [[nodiscard]] std::size_t distance_to_breaker(std::span<const TokenId> tokens) const {
        for (std::size_t i = tokens.size(); i-- > 0;) {
            std::size_t longest = 0;
            for (const std::vector<TokenId>& breaker : breakers_at(tokens[i])) {
                if (breaker.size() > longest && breaker.size() <= tokens.size() - i &&
                    std::equal(breaker.begin(), breaker.end(),
                               tokens.begin() + static_cast<std::ptrdiff_t>(i))) {
                    longest = breaker.size();
                }
            }
            if (longest > 0) {
                return tokens.size() - i - longest;
            }
        }
        return tokens.size();
    }

    [[nodiscard]] bool is_breaker(TokenId token) const {
        const auto breakers = breakers_at(token);
        return !breakers.empty() && breakers.front().size() == 1;
    }

    /// lengths_[k] = how many tokens at the end of the text equal those that end k tokens before it. This is
    /// the Z-array of the reversed text (D. Gusfield, "Algorithms on Strings, Trees and Sequences", 1997,
    /// section 1.3), in time proportional to its length.
    void measure_repeats(std::span<const TokenId> tokens) {
        const std::size_t n = tokens.size();
        const auto reversed = [&](std::size_t i) { return tokens[n - 1 - i]; };
        lengths_.assign(n, 0);
        std::size_t left = 0;
        std::size_t right = 0; // reversed [left, right) equals the beginning of the reversed text
        for (std::size_t k = 1; k < n; ++k) {
            std::size_t length = k < right ? std::min(right - k, lengths_[k - left]) : 0;
            while (k + length < n && reversed(length) == reversed(k + length)) {
                ++length;
            }
            lengths_[k] = length;
            if (k + length > right) {
                left = k;
                right = k + length;
            }
        }
    }

    double multiplier_;
    double base_;
    std::size_t allowed_;
    std::size_t last_n_ = std::numeric_limits<std::size_t>::max();
    std::vector<std::vector<TokenId>> breakers_;
    std::vector<std::size_t> lengths_;
    std::vector<std::pair<TokenId, std::size_t>> repeats_;
};

} // namespace gpt2::sampling
