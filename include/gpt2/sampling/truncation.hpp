// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/math.hpp"
#include "gpt2/sampling/mass_search.hpp"
#include "gpt2/sampling/processor.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// @file
/// The temperature, and processors that drop tokens before one is drawn. w is the weight of a token,
/// e^((s - max) / t), W the sum of the weights, and p = w / W. Each of them leaves at least one token.

namespace gpt2::sampling {

/// s = s / t. Hugging Face's TemperatureLogitsWarper.
class Temperature final : public Processor {
public:
    explicit Temperature(float t) : t_(t) {}

    void apply(Scores& scores, const Context&) override { scores.divide_by(t_); }

private:
    float t_;
};

/// Drops s below the k-th largest. A. Fan et al., "Hierarchical Neural Story Generation", 2018; Hugging
/// Face's TopKLogitsWarper; the original's top_k_logits (openai/gpt-2, src/sample.py).
class TopK final : public Processor {
public:
    TopK(std::size_t k, TopKTies ties) : k_(k), ties_(ties) {}

    void apply(Scores& scores, const Context&) override { scores.keep_largest(k_, ties_); }

private:
    std::size_t k_;
    TopKTies ties_;
};

/// Drops s below max - n sigma, sigma being the standard deviation of the scores that are not -infinity. The
/// same for every temperature. C. Tang et al., "Top-n sigma", 2024; llama.cpp's llama_sampler_top_n_sigma.
class TopNSigma final : public Processor {
public:
    explicit TopNSigma(float n) : n_(static_cast<double>(n)) {}

    void apply(Scores& scores, const Context&) override {
        const std::span<const float> s = scores.values();
        double count = 0.0;
        double sum = 0.0;
        for (const float x : s) {
            if (detail::is_finite(x)) {
                sum += static_cast<double>(x);
                count += 1.0;
            }
        }
        const double mean = sum / count;
        double squares = 0.0;
        for (const float x : s) {
            if (detail::is_finite(x)) {
                const double d = static_cast<double>(x) - mean;
                squares = std::fma(d, d, squares);
            }
        }
        const double sigma = std::sqrt(squares / count);
        const double least = std::fma(-n_, sigma, static_cast<double>(detail::max_of(s)));
        scores.keep_if([&](std::size_t i) { return static_cast<double>(s[i]) >= least; });
    }

private:
    double n_;
};

/// Which tokens top_p leaves.
enum class TopPRule {
    reach,  ///< the fewest that hold the share: the one that crosses it stays (Hugging Face, llama.cpp)
    within, ///< the most that hold no more than the share, and what equals the last of them (the original)
};

/// Takes tokens by falling probability, equal ones by their ids, for as long as
///   reach:   the tokens before hold less than the share p;
///   within:  the tokens up to this one hold at most p.
///
/// A. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020. Hugging Face's TopPLogitsWarper
/// drops tokens whose probability, summed from the least probable upwards, is at most 1 - p, which is `reach`
/// read from the other end. The original (openai/gpt-2, src/sample.py, top_p_logits) keeps what is at least
/// sorted[max(sum(cumsum(softmax(sorted)) <= p) - 1, 0)], which is `within`.
class TopP final : public Processor {
public:
    TopP(float p, TopPRule rule) : p_(p), rule_(rule) {}

    void apply(Scores& scores, const Context&) override {
        const std::span<const float> w = scores.weights();
        const double target = static_cast<double>(p_) * scores.total();
        const MassCut cut = search_.find(w, target, [w](std::size_t i) { return sort_key(w[i]); });
        const auto tie = static_cast<double>(std::bit_cast<float>(cut.key));
        double mass = cut.above;
        std::size_t ties = 0;
        if (cut.is_missed) {
            ties = std::numeric_limits<std::size_t>::max();
        } else if (rule_ == TopPRule::reach) {
            const auto n =
                static_cast<std::size_t>(std::count(w.begin(), w.end(), std::bit_cast<float>(cut.key)));
            while (ties < n && (mass < target || mass == 0.0)) {
                ++ties;
                mass += tie;
            }
        } else if (mass == 0.0 || mass + tie <= target) { // the first of them is within: so are its equals
            ties = std::numeric_limits<std::size_t>::max();
        }
        scores.keep_if([&](std::size_t i) {
            const std::uint32_t key = sort_key(w[i]);
            return key > cut.key || (key == cut.key && ties > 0 && ties-- > 0);
        });
    }

private:
    float p_;
    TopPRule rule_;
    MassSearch search_;
};

/// Drops p below m times the largest. M. Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024; Hugging
/// Face's MinPLogitsWarper.
class MinP final : public Processor {
public:
    explicit MinP(float m) : m_(m) {}

    void apply(Scores& scores, const Context&) override {
        const std::span<const float> w = scores.weights();
        const float least = m_ * detail::max_of(w);
        scores.keep_if([&](std::size_t i) { return w[i] >= least; });
    }

private:
    float m_;
};

/// Takes tokens whose surprise is nearest to the expected one, by rising d = |-ln p - H|, H the entropy,
/// until they hold the share m; all that equal the last of them stay.
///
/// C. Meister et al., "Locally Typical Sampling", 2022; Hugging Face's TypicalLogitsWarper.
class TypicalP final : public Processor {
public:
    TypicalP(float m, std::size_t vocab_size) : m_(m) { distances_.reserve(vocab_size); }

    void apply(Scores& scores, const Context&) override {
        const std::span<const float> w = scores.weights();
        const double total = scores.total();
        const double entropy = scores.entropy();
        const double log_total = detail::portable_log(total);
        distances_.resize(w.size());
        for (std::size_t i = 0; i < w.size(); ++i) {
            distances_[i] = bounded(std::fabs((log_total - scores.log_weight(i)) - entropy));
        }
        // The search goes down from the largest key, so small distances need large ones.
        const auto key = [this](std::size_t i) { return 0x7fffffffu - sort_key(distances_[i]); };
        const MassCut cut = search_.find(w, static_cast<double>(m_) * total, key);
        scores.keep_if([&](std::size_t i) { return w[i] > 0.0f && key(i) >= cut.key; });
    }

private:
    float m_;
    MassSearch search_;
    std::vector<float> distances_;
};

/// Drops p below a threshold; what equals the largest stays.
inline void keep_probable(Scores& scores, double threshold) {
    const std::span<const float> w = scores.weights();
    const double least = threshold * scores.total();
    const float largest = detail::max_of(w);
    scores.keep_if([&](std::size_t i) { return w[i] == largest || static_cast<double>(w[i]) >= least; });
}

/// Drops p below e. J. Hewitt et al., "Truncation Sampling as Language Model Desmoothing", 2022; Hugging
/// Face's EpsilonLogitsWarper.
class EpsilonCutoff final : public Processor {
public:
    explicit EpsilonCutoff(float e) : e_(e) {}

    void apply(Scores& scores, const Context&) override { keep_probable(scores, static_cast<double>(e_)); }

private:
    float e_;
};

/// Drops p below min(e, sqrt(e) e^-H), H the entropy. The same paper; Hugging Face's EtaLogitsWarper.
class EtaCutoff final : public Processor {
public:
    explicit EtaCutoff(float e) : e_(static_cast<double>(e)) {}

    void apply(Scores& scores, const Context&) override {
        const double by_entropy = std::sqrt(e_) * detail::portable_exp(-scores.entropy());
        keep_probable(scores, std::min(e_, by_entropy));
    }

private:
    double e_;
};

/// What the `xtc` option says.
struct Xtc {
    float probability = 0.5f; ///< how often anything happens, 0 to 1
    float threshold = 0.1f;   ///< 0 to 0.5; no two tokens can be more probable than that

    friend bool operator==(const Xtc&, const Xtc&) = default;
};

/// "Exclude top choices": with the given probability drops all tokens with p >= threshold but the least
/// probable of them, the last by id among equals.
///
/// p-e-w, https://github.com/oobabooga/text-generation-webui/pull/6335; llama.cpp's llama_sampler_xtc.
class XtcCut final : public Processor {
public:
    explicit XtcCut(const Xtc& options) : options_(options) {}

    void apply(Scores& scores, const Context& context) override {
        if (context.uniform >= static_cast<double>(options_.probability)) {
            return;
        }
        const std::span<const float> w = scores.weights();
        const double least = static_cast<double>(options_.threshold) * scores.total();
        std::size_t spared = w.size();
        for (std::size_t i = 0; i < w.size(); ++i) {
            if (is_top(w[i], least) && (spared == w.size() || w[i] <= w[spared])) {
                spared = i;
            }
        }
        scores.keep_if([&](std::size_t i) { return i == spared || !is_top(w[i], least); });
    }

private:
    [[nodiscard]] static bool is_top(float w, double least) noexcept {
        return w > 0.0f && static_cast<double>(w) >= least;
    }

    Xtc options_;
};

} // namespace gpt2::sampling
