// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/math.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

/// @file
/// How far one distribution of the next token is from another.

namespace gpt2::evaluation {

inline constexpr std::size_t top_size = 5;

/// A candidate's distribution q beside the reference's p.
struct Divergence {
    double kl = 0.0;             ///< sum of p ln(p / q), in nats, never below 0
    double largest_change = 0.0; ///< of a token's probability: max |q - p|
    bool same_first = false;     ///< the same token is the most likely
    std::size_t shared_top = 0;  ///< of the reference's top_size most likely tokens, how many are so in both
};

/// Compares rows of logits. Keeps the memory of one comparison for the next: one caller at a time.
class LogitsComparison {
public:
    /// @param exp  the machine's kernel, `kernels::kernels_for(model.isa()).exp_shifted`, or the slower one
    ///             that needs no machine
    explicit LogitsComparison(ExpShifted exp = detail::exp_shifted_portable) : exp_(exp) {}

    /// Exponentials are floats, the rest is double. The divergence is summed as q - p - p ln(q / p): as p and
    /// q both add up to 1 it is the same, but no term is below 0, and the rounding of the exponentials enters
    /// in proportion to the term. So divergences far below float's 6e-8 are still right to six digits.
    /// @param reference, candidate  logits [V] of the same position, finite
    /// @throws OptionError   if they differ in size or are empty
    /// @throws NumericError  for a logit that is not finite
    [[nodiscard]] Divergence compare(std::span<const float> reference, std::span<const float> candidate) {
        if (reference.empty() || reference.size() != candidate.size()) {
            throw OptionError(
                detail::concat("comparison of logits: expected two rows of one vocabulary, found ",
                               reference.size(), " and ", candidate.size(), " logits"));
        }
        const Normalizer p = normalize(reference, reference_);
        const Normalizer q = normalize(candidate, candidate_);
        Divergence result;
        for (std::size_t i = 0; i < reference.size(); ++i) {
            const double pi = static_cast<double>(reference_[i]) * p.scale;
            const double change = static_cast<double>(candidate_[i]) * q.scale - pi;
            const double log_ratio = (static_cast<double>(candidate[i]) - static_cast<double>(reference[i])) -
                                     (q.log_sum - p.log_sum);
            result.kl += term(pi, change, log_ratio);
            result.largest_change = std::max(result.largest_change, std::fabs(change));
        }
        const auto top_p = most_likely(reference, top_size);
        const auto top_q = most_likely(candidate, top_size);
        result.same_first = top_p.front() == top_q.front();
        result.shared_top = static_cast<std::size_t>(std::ranges::count_if(
            top_p, [&](TokenId id) { return std::find(top_q.begin(), top_q.end(), id) != top_q.end(); }));
        return result;
    }

private:
    struct Normalizer {
        double scale;   ///< 1 / sum of e^(x - max x)
        double log_sum; ///< ln of the sum of e^x
    };

    Normalizer normalize(std::span<const float> logits, std::vector<float>& exponentials) const {
        detail::require_finite(logits);
        const float largest = detail::max_of(logits);
        exponentials.resize(logits.size());
        exp_(logits.data(), largest, exponentials.data(), logits.size());
        double sum = 0.0;
        for (const float e : exponentials) {
            sum += static_cast<double>(e);
        }
        return {1.0 / sum, static_cast<double>(largest) + detail::portable_log(sum)};
    }

    /// q - p - p d with d = ln(q / p), which is p (e^d - 1 - d): by its series where that would cancel; what
    /// follows the last term is below 1e-8 of the whole.
    [[nodiscard]] static double term(double p, double change, double d) noexcept {
        if (std::fabs(d) > 0.25) {
            return std::max(0.0, change - p * d);
        }
        double series = 1.0 / 40320.0;
        for (const double factorial : {5040.0, 720.0, 120.0, 24.0, 6.0, 2.0}) {
            series = series * d + 1.0 / factorial;
        }
        return p * d * d * series;
    }

    ExpShifted exp_;
    std::vector<float> reference_;
    std::vector<float> candidate_;
};

} // namespace gpt2::evaluation
