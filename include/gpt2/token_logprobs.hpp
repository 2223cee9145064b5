// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/logits.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// @file
/// What a result tells of probabilities: of the tokens that came, and of the most probable ones.

namespace gpt2 {

/// A token and the natural logarithm of its probability.
struct TokenLogprob {
    TokenId id = 0;
    float logprob = 0.0f;

    friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

/// Of consecutive tokens.
struct TokenLogprobs {
    std::vector<float> logprobs;                         ///< of each
    std::vector<std::vector<TokenLogprob>> top_logprobs; ///< for each the most probable; empty if not wanted
};

/// Reads them out of rows of logits. Keeps its memory for the next row: one caller at a time.
class LogprobReader {
public:
    /// What a row says.
    struct Place {
        float logprob = std::numeric_limits<float>::quiet_NaN(); ///< of the token that came
        std::vector<TokenLogprob> top;                           ///< the most probable, the best first
    };

    /// @param n_tokens  of the tokenizer: no other is among the most probable
    /// @param n_top     how many of these are wanted
    LogprobReader(ExpShifted exp, std::size_t n_tokens, std::int64_t n_top)
        : exp_(exp), n_tokens_(n_tokens), n_top_(static_cast<std::size_t>(n_top)) {}

    /// @param logits  [V], as in log_softmax()
    [[nodiscard]] Place read(std::span<const float> logits, TokenId token) {
        scratch_.resize(logits.size());
        const LogSoftmax log_p(logits, exp_, scratch_);
        const auto of = [&](TokenId id) { return static_cast<float>(log_p[static_cast<std::size_t>(id)]); };
        Place place{of(token), {}};
        for (const TokenId id : most_likely(logits.first(std::min(n_tokens_, logits.size())), n_top_)) {
            place.top.push_back({id, of(id)});
        }
        return place;
    }

    /// Appends a place to a list.
    void append(Place place, TokenLogprobs& list) const {
        list.logprobs.push_back(place.logprob);
        if (n_top_ > 0) {
            list.top_logprobs.push_back(std::move(place.top));
        }
    }

private:
    ExpShifted exp_;
    std::size_t n_tokens_;
    std::size_t n_top_;
    std::vector<float> scratch_;
};

} // namespace gpt2
