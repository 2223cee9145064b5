// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/math.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

/// @file
/// Passes over one row of logits [V]: is it finite, where is its largest, which are its k largest,
/// how probable is a token. Plain loops over blocks of fixed size, which compilers turn into vector
/// instructions without being asked. All functions are thread-safe.

namespace gpt2 {

/// out[i] = e^(x[i] - shift) for i < n, each element computed alone, so that a value does not depend
/// on its place. Exactly 1 where x[i] == shift and 0 for x[i] = -infinity. @p out may be @p x.
using ExpShifted = void (*)(const float* x, float shift, float* out, std::size_t n);

/// What of a row of logits decides a token: the `k` largest of the first `n_tokens`, after the
/// repetition penalty, and all that equal the last of these. Whatever is below has no influence.
struct Candidates {
    std::size_t k = 1;
    std::size_t n_tokens = 0;                ///< the tokens that may be chosen; more than k
    float repetition_penalty = 1.0f;         ///< detail::penalized()
    std::span<const TokenId> penalized = {}; ///< which tokens it is for, each once; with a penalty of 1 any
};

namespace detail {

inline constexpr std::size_t logit_block = 16;

/// An ExpShifted without vector instructions: the double exp, rounded.
inline void exp_shifted_portable(const float* x, float shift, float* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = static_cast<float>(portable_exp(static_cast<double>(x[i]) - static_cast<double>(shift)));
    }
}

[[nodiscard]] inline bool is_finite(float x) noexcept {
    return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

/// A logit of a token that the repetition penalty @p r is for: s r where s < 0, else s / r. A result beyond
/// the range of float becomes the largest float; what is not finite stays. A larger s never gives a smaller
/// one.
[[nodiscard]] inline float penalized(float s, float r) noexcept {
    constexpr float limit = std::numeric_limits<float>::max();
    return is_finite(s) ? std::clamp(s < 0.0f ? s * r : s / r, -limit, limit) : s;
}

/// Whether @p good, without a branch, holds for all.
template <class Good> [[nodiscard]] bool all_are(std::span<const float> x, Good good) noexcept {
    std::uint32_t bad[logit_block] = {};
    std::size_t i = 0;
    for (; i + logit_block <= x.size(); i += logit_block) {
        for (std::size_t j = 0; j < logit_block; ++j) {
            bad[j] |= good(x[i + j]) ? 0u : 1u;
        }
    }
    bool all = std::all_of(std::begin(bad), std::end(bad), [](std::uint32_t b) { return b == 0; });
    for (; i < x.size(); ++i) {
        all = all && good(x[i]);
    }
    return all;
}

[[nodiscard]] inline bool all_finite(std::span<const float> x) noexcept {
    return all_are(x, [](float value) { return is_finite(value); });
}

/// Whether each is finite or -infinity.
[[nodiscard]] inline bool all_below_infinity(std::span<const float> x) noexcept {
    return all_are(x, [](float value) { return value <= std::numeric_limits<float>::max(); });
}

/// @throws NumericError naming the first logit that is not finite
inline void require_finite(std::span<const float> logits) {
    if (!all_finite(logits)) {
        const auto bad = std::find_if_not(logits.begin(), logits.end(), is_finite);
        throw NumericError(
            concat("the logit of token ", bad - logits.begin(), " is ", *bad, ", expected a finite number"));
    }
}

/// The largest of 16 numbers, none of them NaN.
[[nodiscard]] inline float max_of_block(const float* x) noexcept {
    float m[4] = {x[0], x[1], x[2], x[3]};
    for (std::size_t i = 4; i < logit_block; i += 4) {
        for (std::size_t j = 0; j < 4; ++j) {
            m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
        }
    }
    return std::max(std::max(m[0], m[1]), std::max(m[2], m[3]));
}

/// The largest number, none being NaN; -infinity for no numbers.
[[nodiscard]] inline float max_of(std::span<const float> x) noexcept {
    float m[logit_block];
    std::fill(std::begin(m), std::end(m), -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + logit_block <= x.size(); i += logit_block) {
        for (std::size_t j = 0; j < logit_block; ++j) {
            m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
        }
    }
    float largest = max_of_block(m);
    for (; i < x.size(); ++i) {
        largest = std::max(largest, x[i]);
    }
    return largest;
}

/// The token with the largest logit, the lowest id on ties. @p logits is not empty and without NaN.
[[nodiscard]] inline TokenId argmax(std::span<const float> logits) noexcept {
    return static_cast<TokenId>(std::find(logits.begin(), logits.end(), max_of(logits)) - logits.begin());
}

/// The tokens with the k largest logits, in the order of their ids, and all that equal the k-th.
/// One pass with a rising threshold: a block whose largest logit is below the k-th largest so far
/// is skipped. No allocation once the buffers have room for V.
class TopK {
public:
    explicit TopK(std::size_t vocab_size) {
        ids_.reserve(vocab_size);
        values_.reserve(vocab_size);
        scratch_.reserve(vocab_size);
    }

    /// @p k >= 1
    void select(std::span<const float> logits, std::size_t k) {
        ids_.clear();
        values_.clear();
        threshold_ = -std::numeric_limits<float>::infinity();
        std::size_t limit = std::max<std::size_t>(1024, k <= logits.size() ? 4 * k : 0);
        std::size_t i = 0;
        for (; i + logit_block <= logits.size(); i += logit_block) {
            if (max_of_block(&logits[i]) < threshold_) {
                continue;
            }
            collect(logits, i, i + logit_block);
            if (ids_.size() >= limit) {
                shrink(k);
                limit = std::max(limit, 2 * ids_.size()); // many ties: keep the pass linear
            }
        }
        collect(logits, i, logits.size());
        shrink(k);
    }

    [[nodiscard]] std::vector<TokenId>& ids() noexcept { return ids_; }
    [[nodiscard]] std::vector<float>& values() noexcept { return values_; }

private:
    void collect(std::span<const float> logits, std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            if (logits[i] >= threshold_) {
                ids_.push_back(static_cast<TokenId>(i));
                values_.push_back(logits[i]);
            }
        }
    }

    /// Raises the threshold to the k-th largest value and drops what is below.
    void shrink(std::size_t k) {
        if (ids_.size() <= k) {
            return;
        }
        scratch_.assign(values_.begin(), values_.end());
        const auto kth = scratch_.begin() + static_cast<std::ptrdiff_t>(k - 1);
        std::nth_element(scratch_.begin(), kth, scratch_.end(), std::greater<>());
        threshold_ = *kth;
        std::size_t kept = 0;
        for (std::size_t i = 0; i < ids_.size(); ++i) {
            if (values_[i] >= threshold_) {
                ids_[kept] = ids_[i];
                values_[kept++] = values_[i];
            }
        }
        ids_.resize(kept);
        values_.resize(kept);
    }

    std::vector<TokenId> ids_;
    std::vector<float> values_;
    std::vector<float> scratch_;
    float threshold_ = 0.0f;
};

/// log of the sum of e^(x_i - largest).
/// @param scratch  [V]
[[nodiscard]] inline double log_sum(std::span<const float> x, float largest, ExpShifted exp, float* scratch) {
    exp(x.data(), largest, scratch, x.size());
    double sum = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        sum += static_cast<double>(scratch[i]);
    }
    return portable_log(sum);
}

} // namespace detail

/// The log-probabilities of a row of logits: x - m - log(sum of e^(x_i - m)), m the largest logit. The
/// exponentials are floats from the kernel, everything else is double: they are good to about 3e-7.
class LogSoftmax {
public:
    /// @param logits  [V], finite; good as long as this is used
    /// @param scratch [V], gets the exponentials; no part of the logits
    /// @throws NumericError if a logit is not finite
    LogSoftmax(std::span<const float> logits, ExpShifted exp, std::span<float> scratch) : logits_(logits) {
        detail::require_finite(logits);
        const float largest = detail::max_of(logits);
        largest_ = static_cast<double>(largest);
        log_sum_ = detail::log_sum(logits, largest, exp, scratch.data());
    }

    [[nodiscard]] double operator[](std::size_t token) const noexcept {
        return static_cast<double>(logits_[token]) - largest_ - log_sum_;
    }

private:
    std::span<const float> logits_;
    double largest_;
    double log_sum_;
};

/// LogSoftmax of one token.
/// @param logits  [V], finite
/// @param exp     see ExpShifted
/// @param scratch resized to V; pass the same one again to avoid allocations
/// @throws NumericError if a logit is not finite, OptionError if @p token is not in the vocabulary
[[nodiscard]] inline double log_softmax(std::span<const float> logits, TokenId token, ExpShifted exp,
                                        std::vector<float>& scratch) {
    if (token < 0 || static_cast<std::size_t>(token) >= logits.size()) {
        throw OptionError(detail::concat("token ", token, ": expected an id below ", logits.size()));
    }
    scratch.resize(logits.size());
    return LogSoftmax(logits, exp, scratch)[static_cast<std::size_t>(token)];
}

/// LogSoftmax of all tokens, rounded to float.
/// @param out  [V], no part of the logits
/// @throws NumericError if a logit is not finite
inline void log_softmax(std::span<const float> logits, ExpShifted exp, std::span<float> out) {
    const LogSoftmax log_p(logits, exp, out);
    for (std::size_t i = 0; i < logits.size(); ++i) {
        out[i] = static_cast<float>(log_p[i]);
    }
}

/// The k most likely tokens, the most likely first, the lower id on ties; all of them if there are fewer.
/// @param logits  [V], without NaN
[[nodiscard]] inline std::vector<TokenId> most_likely(std::span<const float> logits, std::size_t k) {
    const auto logit = [&](TokenId id) { return logits[static_cast<std::size_t>(id)]; };
    const auto before = [&](TokenId a, TokenId b) {
        return logit(a) > logit(b) || (logit(a) == logit(b) && a < b);
    };
    std::vector<TokenId> found; // a heap, the last in this order at its front
    for (std::size_t i = 0; i < logits.size() && k > 0; ++i) {
        if (found.size() == k) {
            if (!(logits[i] > logit(found.front()))) {
                continue;
            }
            std::ranges::pop_heap(found, before);
            found.pop_back();
        }
        found.push_back(static_cast<TokenId>(i));
        std::ranges::push_heap(found, before);
    }
    std::ranges::sort_heap(found, before);
    return found;
}

} // namespace gpt2
