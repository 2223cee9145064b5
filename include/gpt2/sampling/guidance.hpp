// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/math.hpp"
#include "gpt2/sampling/processor.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

/// @file
/// Classifier-free guidance.

namespace gpt2::sampling {

/// s = g (c - u) + u, where c is the log-probability of a token after the prompt and u that after the
/// negative prompt, each followed by the text so far. g = 1 takes no notice of the negative prompt, more than
/// 1 draws away from it, 0 follows it alone.
///
/// G. Sanchez et al., "Stay on Topic with Classifier-Free Guidance", 2023; Hugging Face's
/// UnbatchedClassifierFreeGuidanceLogitsProcessor.
class Guidance final : public Processor {
public:
    Guidance(float g, std::size_t vocab_size, ExpShifted exp)
        : g_(static_cast<double>(g)), exp_(exp), weights_(vocab_size) {}

    /// @throws OptionError  unless the context has logits after the negative prompt
    /// @throws NumericError if one of these is not finite
    void apply(Scores& scores, const Context& context) override {
        const std::span<const float> unguided = context.unguided;
        const std::span<float> s = scores.all();
        if (unguided.size() != s.size()) {
            throw OptionError(detail::concat("guidance_scale is set: expected ", s.size(),
                                             " logits after the negative prompt, found ", unguided.size()));
        }
        detail::require_finite(unguided);
        const double log_sum = log_of_sum(s);
        const double unguided_log_sum = log_of_sum(unguided);
        for (std::size_t i = 0; i < s.size(); ++i) {
            const double c = static_cast<double>(s[i]) - log_sum;
            const double u = static_cast<double>(unguided[i]) - unguided_log_sum;
            const bool is_forbidden = s[i] < std::numeric_limits<float>::lowest();
            s[i] = is_forbidden ? s[i] : bounded(std::fma(g_, c - u, u));
        }
    }

private:
    /// The natural logarithm of the sum of e^x.
    [[nodiscard]] double log_of_sum(std::span<const float> x) {
        const float largest = detail::max_of(x);
        exp_(x.data(), largest, weights_.data(), x.size());
        double sum = 0.0;
        for (const float w : weights_) {
            sum += static_cast<double>(w);
        }
        return static_cast<double>(largest) + detail::portable_log(sum);
    }

    double g_;
    ExpShifted exp_;
    std::vector<float> weights_; ///< scratch
};

} // namespace gpt2::sampling
