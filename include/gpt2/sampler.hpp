// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/logits.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

/// @file
/// From a row of logits to one token. The processors, their order and their meaning are those of
/// Hugging Face's `generate()` (transformers/generation/logits_process.py):
///
///   1. repetition_penalty r: s = s r where s < 0, else s / r, for each token seen so far
///   2. temperature t:        s = s / t
///   3. top_k:                drop s below the k-th largest; what equals it stays
///   4. top_p:                drop tokens whose probability, summed from the least probable upwards,
///                            is at most 1 - top_p; the most probable one stays
///   5. min_p:                drop tokens less probable than min_p times the most probable one
///
/// Then one of the rest is drawn in proportion to e^s. Everything that decides a token is arithmetic
/// with one result: float subtraction, division and ExpShifted for e^((s - max) / t), sums in double.

namespace gpt2 {

/// What a Sampler does; a neutral value switches a processor off. The ranges are checked by
/// gpt2::validate, not here.
struct SamplerOptions {
    bool do_sample = false;   ///< false: the largest logit, the lowest id on ties
    float temperature = 1.0f; ///< 0 means greedy too
    std::size_t top_k = 0;    ///< 0: all
    float top_p = 1.0f;
    float min_p = 0.0f;
    float repetition_penalty = 1.0f;
};

namespace detail {

/// Says which weights top_p keeps: those above `weight`, and the first `ties` that equal it.
struct MassCut {
    std::uint32_t weight = 0; ///< the bits of a float; for floats >= 0 they sort as the numbers do
    std::size_t ties = std::numeric_limits<std::size_t>::max();
};

/// Finds the smallest set of largest weights that holds the share p of the whole. Hugging Face's rule
/// read from the other end: a token stays if those before it, in falling order, hold less than p.
/// Equal weights fall in the order of their ids. Nothing is sorted: a radix search over the bits of
/// the weights sums what lies in each range, from the top, and goes into the range where p is reached.
class MassSearch {
public:
    MassSearch() : mass_(std::size_t{1} << widest) {}

    /// @param weights >= 0, at least one above 0
    /// @param p       in [0, 1)
    [[nodiscard]] MassCut find(std::span<const float> weights, float p) {
        double total = 0.0;
        for (const float w : weights) {
            total += static_cast<double>(w);
        }
        const double target = static_cast<double>(p) * total;
        double above = 0.0;
        std::uint32_t prefix = 0;
        // 31 bits below the sign: 8 of the exponent and 3 of the fraction, then 10 and 10.
        for (const auto& [shift, width] : {Level{20, widest}, Level{10, 10}, Level{0, 10}}) {
            sum_ranges(weights, prefix, shift, width);
            std::uint32_t range = std::uint32_t{1} << width;
            while (range > 0 && !(mass_[range - 1] > 0.0 && above + mass_[range - 1] >= target)) {
                above += mass_[--range];
            }
            if (range == 0) { // rounding: the parts came out smaller than the whole; all of them stay
                return {prefix << (shift + width)};
            }
            prefix = (prefix << width) | (range - 1);
        }
        MassCut cut{prefix, 0};
        const auto tie = static_cast<double>(std::bit_cast<float>(prefix));
        const auto count = static_cast<std::size_t>(
            std::count(weights.begin(), weights.end(), std::bit_cast<float>(prefix)));
        while (cut.ties < count && (above < target || above == 0.0)) {
            ++cut.ties;
            above += tie;
        }
        return cut;
    }

private:
    struct Level {
        unsigned shift;
        unsigned width;
    };
    static constexpr unsigned widest = 11;

    /// mass_[i] = sum of the weights, in the order of ids, whose bits above `shift` are (prefix, i).
    void sum_ranges(std::span<const float> weights, std::uint32_t prefix, unsigned shift, unsigned width) {
        const std::uint32_t ranges = std::uint32_t{1} << width;
        std::fill_n(mass_.begin(), ranges, 0.0);
        for (const float w : weights) {
            const std::uint32_t key = std::bit_cast<std::uint32_t>(w) >> shift;
            if ((key >> width) == prefix) {
                mass_[key & (ranges - 1)] += static_cast<double>(w);
            }
        }
    }

    std::vector<double> mass_;
};

} // namespace detail

/// Chooses tokens for one text. Holds the buffers that this needs, so nothing is allocated per token.
/// One caller at a time.
class Sampler {
public:
    /// @param exp the vector kernel of the machine, see ExpShifted
    Sampler(const SamplerOptions& options, std::size_t vocab_size,
            ExpShifted exp = detail::exp_shifted_portable)
        : options_(options), vocab_size_(vocab_size), exp_(exp), top_k_(greedy() ? 0 : vocab_size) {
        if (!greedy()) {
            weights_.reserve(vocab_size);
            scaled_.reserve(vocab_size);
        }
        if (options_.repetition_penalty != 1.0f) {
            penalized_.resize(vocab_size);
            is_seen_.resize(vocab_size);
        }
    }

    /// True if the tokens do not depend on random numbers.
    [[nodiscard]] bool greedy() const noexcept { return !options_.do_sample || options_.temperature == 0.0f; }

    /// Tells which tokens, of the prompt and of the text, the repetition penalty holds for.
    /// @throws OptionError on an id outside the vocabulary
    void note(std::span<const TokenId> tokens) {
        for (const TokenId token : tokens) {
            if (token < 0 || static_cast<std::size_t>(token) >= vocab_size_) {
                throw OptionError(detail::concat("token ", token, ": expected an id below ", vocab_size_));
            }
            if (!is_seen_.empty() && !is_seen_[static_cast<std::size_t>(token)]) {
                is_seen_[static_cast<std::size_t>(token)] = true;
                seen_.push_back(token);
            }
        }
    }

    /// What of the logits decides the next token; nothing if all of them do. Whoever gives next() -infinity
    /// for the others gets the same token: a greedy choice is the first of the largest, and top_k, the first
    /// processor that looks at more than one logit, drops the others. Good until the next note().
    [[nodiscard]] std::optional<Candidates> candidates() const noexcept {
        const bool all = options_.top_k == 0 || options_.top_k >= vocab_size_;
        const std::size_t k = greedy() ? 1 : options_.top_k;
        if ((all && !greedy()) || k >= vocab_size_) {
            return std::nullopt;
        }
        return Candidates{k, vocab_size_, options_.repetition_penalty, seen_};
    }

    /// The next token.
    /// @param logits [V]; -infinity forbids a token
    /// @param u      a random number in [0, 1), for instance gpt2::uniform; not used when greedy()
    /// @throws NumericError if a logit is NaN or +infinity or all are -infinity
    [[nodiscard]] TokenId next(std::span<const float> logits, double u) {
        const std::span<const float> scores = penalize(logits);
        if (greedy()) {
            return detail::argmax(scores);
        }
        filter(scores);
        return draw(u);
    }

    /// The distribution that next() draws from, [V], for a look inside; it allocates. When greedy,
    /// everything is on one token.
    [[nodiscard]] std::vector<double> probabilities(std::span<const float> logits) {
        std::vector<double> out(vocab_size_);
        const std::span<const float> scores = penalize(logits);
        if (greedy()) {
            out[static_cast<std::size_t>(detail::argmax(scores))] = 1.0;
            return out;
        }
        filter(scores);
        const double whole = total();
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            out[static_cast<std::size_t>(id(i))] = static_cast<double>(weights_[i]) / whole;
        }
        return out;
    }

private:
    /// Processor 1, and the checks.
    [[nodiscard]] std::span<const float> penalize(std::span<const float> logits) {
        check(logits);
        if (penalized_.empty()) {
            return logits;
        }
        std::copy(logits.begin(), logits.end(), penalized_.begin());
        for (const TokenId token : seen_) {
            const auto i = static_cast<std::size_t>(token);
            penalized_[i] = detail::penalized(logits[i], options_.repetition_penalty);
        }
        return penalized_;
    }

    void check(std::span<const float> logits) const {
        if (logits.size() != vocab_size_ || logits.empty()) {
            throw OptionError(detail::concat("expected ", vocab_size_, " logits, found ", logits.size()));
        }
        if (detail::all_finite(logits)) {
            return;
        }
        constexpr float largest = std::numeric_limits<float>::max();
        if (!detail::all_below_infinity(logits)) {
            const auto bad =
                std::find_if_not(logits.begin(), logits.end(), [&](float x) { return x <= largest; });
            throw NumericError(detail::concat("the logit of token ", bad - logits.begin(), " is ", *bad,
                                              ", expected a finite number or -infinity"));
        }
        if (detail::max_of(logits) < -largest) {
            throw NumericError("all logits are -infinity: no token is allowed");
        }
    }

    /// Processors 2 to 5. Leaves the weights e^((s - max) / t) of the tokens that remain, in the order
    /// of their ids. Temperature keeps the order of the scores, so top_k may go first and the division
    /// is needed for k tokens only.
    void filter(std::span<const float> scores) {
        all_ = options_.top_k == 0 || options_.top_k >= vocab_size_;
        if (!all_) {
            top_k_.select(scores, options_.top_k);
            scores = top_k_.values();
        }
        const float largest = detail::max_of(scores);
        weights_.resize(scores.size());
        if (options_.temperature == 1.0f) {
            exp_(scores.data(), largest, weights_.data(), scores.size());
        } else {
            scaled_.resize(scores.size());
            for (std::size_t i = 0; i < scores.size(); ++i) {
                scaled_[i] = (scores[i] - largest) / options_.temperature;
            }
            exp_(scaled_.data(), 0.0f, weights_.data(), scores.size());
        }
        if (options_.top_p < 1.0f) {
            const detail::MassCut cut = mass_.find(weights_, options_.top_p);
            std::size_t ties = 0;
            keep_if([&](float w) {
                const auto bits = std::bit_cast<std::uint32_t>(w);
                return bits > cut.weight || (bits == cut.weight && ties++ < cut.ties);
            });
        }
        if (options_.min_p > 0.0f) {
            const float least = options_.min_p * detail::max_of(weights_);
            keep_if([&](float w) { return w >= least; });
        }
    }

    template <class Predicate> void keep_if(Predicate keep) {
        std::vector<TokenId>& ids = top_k_.ids();
        std::size_t kept = 0;
        if (all_) {
            ids.resize(weights_.size());
        }
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            const float w = weights_[i];
            if (keep(w)) {
                ids[kept] = all_ ? static_cast<TokenId>(i) : ids[i];
                weights_[kept++] = w;
            }
        }
        ids.resize(kept);
        weights_.resize(kept);
        all_ = false;
    }

    [[nodiscard]] double total() const noexcept {
        double sum = 0.0;
        for (const float w : weights_) {
            sum += static_cast<double>(w);
        }
        return sum;
    }

    /// The first token at which the sum of weights passes u times their total.
    [[nodiscard]] TokenId draw(double u) {
        const double target = u * total();
        double sum = 0.0;
        std::size_t last = 0;
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            if (weights_[i] > 0.0f) {
                sum += static_cast<double>(weights_[i]);
                last = i;
                if (sum > target) {
                    break;
                }
            }
        }
        return id(last);
    }

    [[nodiscard]] TokenId id(std::size_t i) { return all_ ? static_cast<TokenId>(i) : top_k_.ids()[i]; }

    SamplerOptions options_;
    std::size_t vocab_size_;
    ExpShifted exp_;
    bool all_ = true; ///< the weights are those of all tokens; otherwise of top_k_.ids()
    detail::TopK top_k_;
    detail::MassSearch mass_;
    std::vector<float> weights_;
    std::vector<float> scaled_;
    std::vector<float> penalized_; ///< [V], empty without a repetition penalty
    std::vector<bool> is_seen_;    ///< [V]
    std::vector<TokenId> seen_;
};

} // namespace gpt2
