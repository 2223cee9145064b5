// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/evaluation/divergence.hpp"
#include "gpt2/evaluation/scorer.hpp"
#include "gpt2/logits.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

/// @file
/// All that a row of logits says of the token that came.

namespace gpt2::evaluation {

struct TokenProbability {
    TokenId token = 0;
    double log_probability = 0.0; ///< natural
};

/// Of one token, given those before it.
struct TokenDetails {
    double log_probability = 0.0; ///< natural, that of log_softmax()
    std::size_t rank = 1;         ///< 1: the most likely; of equal logits the lower id comes first
    double entropy = 0.0;         ///< of the distribution, in nats: the mean of -ln p
    std::vector<TokenProbability> most_likely{}; ///< the most likely first, as most_likely() orders them
};

/// @param logits   [V]
/// @param n_likely how many of the most likely tokens are wanted
/// @param scratch  resized to V; pass the same one again to avoid allocations
/// @throws as log_softmax()
[[nodiscard]] inline TokenDetails token_details(std::span<const float> logits, TokenId token,
                                                std::size_t n_likely, ExpShifted exp,
                                                std::vector<float>& scratch) {
    TokenDetails details;
    details.log_probability = log_softmax(logits, token, exp, scratch);
    const auto id = static_cast<std::size_t>(token);
    const float logit = logits[id];
    for (std::size_t i = 0; i < logits.size(); ++i) {
        details.rank += logits[i] > logit || (logits[i] == logit && i < id) ? 1 : 0;
    }
    // With e_i = e^(x_i - m), which log_softmax() leaves in scratch, S their sum and m the largest logit:
    // the entropy is ln S - sum of e_i (x_i - m) / S.
    const double largest = static_cast<double>(detail::max_of(logits));
    double sum = 0.0;
    double weighted = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const auto e = static_cast<double>(scratch[i]);
        sum += e;
        weighted += e * (static_cast<double>(logits[i]) - largest);
    }
    const double log_sum = static_cast<double>(logit) - largest - details.log_probability;
    details.entropy = std::max(0.0, log_sum - weighted / sum);
    for (const TokenId likely : most_likely(logits, n_likely)) {
        const double x = static_cast<double>(logits[static_cast<std::size_t>(likely)]);
        details.most_likely.push_back({likely, details.log_probability + (x - static_cast<double>(logit))});
    }
    return details;
}

/// Those of all rows that Scorer::run() visits, on the scorer's threads.
/// @throws NumericError  for a logit that is not finite
[[nodiscard]] inline std::vector<TokenDetails> token_details(const Scorer& scorer, const ScoredRows& rows,
                                                             std::size_t n_likely = top_size) {
    std::vector<TokenDetails> details(rows.targets.size());
    scorer.pool().parallel_for(details.size(), 4, [&](std::size_t begin, std::size_t end) {
        std::vector<float> scratch;
        for (std::size_t i = begin; i < end; ++i) {
            details[i] =
                token_details(rows.logits[i].flat(), rows.targets[i], n_likely, scorer.exp(), scratch);
        }
    });
    return details;
}

} // namespace gpt2::evaluation
