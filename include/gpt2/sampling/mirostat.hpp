// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/math.hpp"
#include "gpt2/sampling/processor.hpp"

#include <cmath>
#include <cstddef>
#include <span>

/// @file
/// Sampling that steers the surprise of a text.

namespace gpt2::sampling {

/// What the `mirostat` option says.
struct Mirostat {
    float tau = 5.0f; ///< the surprise to aim at, in bits a token; above 0
    float eta = 0.1f; ///< how fast a miss is made up for, 0 or more

    friend bool operator==(const Mirostat&, const Mirostat&) = default;
};

/// Drops tokens with a surprise -log2 p above mu; the most probable token, the first by id among equals,
/// stays. After a token is drawn with probability q among the rest, mu = mu - eta (-log2 q - tau). In the
/// beginning mu = 2 tau.
///
/// S. Basu et al., "Mirostat", 2021, algorithm 2 (version 2.0); llama.cpp's llama_sampler_mirostat_v2. Keeps
/// its state from one token to the next; nothing may come after it.
class MirostatCut final : public Processor {
public:
    explicit MirostatCut(const Mirostat& options)
        : tau_(static_cast<double>(options.tau)), eta_(static_cast<double>(options.eta)), mu_(2.0 * tau_) {}

    void apply(Scores& scores, const Context&) override {
        const std::span<const float> w = scores.weights();
        const double least = scores.total() * detail::portable_exp(-mu_ * ln2);
        const auto first = static_cast<std::size_t>(detail::argmax(w));
        scores.keep_if([&](std::size_t i) { return i == first || static_cast<double>(w[i]) >= least; });
    }

    void chosen(double share) override {
        const double surprise = -detail::portable_log(share) / ln2;
        mu_ = std::fma(-eta_, surprise - tau_, mu_);
    }

private:
    static constexpr double ln2 = 0x1.62e42fefa39efp-1;

    double tau_;
    double eta_;
    double mu_;
};

} // namespace gpt2::sampling
