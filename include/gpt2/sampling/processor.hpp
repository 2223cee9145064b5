// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/sampling/scores.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// @file
/// What a processor is: one step on the way from logits to a choice.

namespace gpt2::sampling {

/// How often each token occurs in the prompt and the text so far, or in the last of it.
class TokenCounts {
public:
    TokenCounts() = default;

    /// @param last_n  count in so many tokens at the end only, at least 1; all if there is no value
    explicit TokenCounts(std::size_t vocab_size, std::optional<std::size_t> last_n = std::nullopt)
        : counts_(vocab_size), last_n_(last_n) {}

    /// @param token  of the vocabulary
    void note(TokenId token) {
        if (counts_.empty()) {
            return;
        }
        if (last_n_ && window_.size() == *last_n_) {
            forget(window_[oldest_]);
            window_[oldest_] = token;
            oldest_ = (oldest_ + 1) % *last_n_;
        } else if (last_n_) {
            window_.push_back(token);
        }
        if (counts_[static_cast<std::size_t>(token)]++ == 0) {
            seen_.push_back(token);
        }
    }

    /// Forgets all tokens.
    void clear() noexcept {
        for (const TokenId token : seen_) {
            counts_[static_cast<std::size_t>(token)] = 0;
        }
        seen_.clear();
        window_.clear();
        oldest_ = 0;
    }

    /// The tokens that occur, each once.
    [[nodiscard]] std::span<const TokenId> seen() const noexcept { return seen_; }

    /// How often one of seen() occurs.
    [[nodiscard]] std::uint32_t count(TokenId token) const {
        return counts_[static_cast<std::size_t>(token)];
    }

private:
    void forget(TokenId token) {
        if (--counts_[static_cast<std::size_t>(token)] == 0) {
            seen_.erase(std::find(seen_.begin(), seen_.end(), token));
        }
    }

    std::vector<std::uint32_t> counts_; ///< [V]; empty: nobody wants to know
    std::optional<std::size_t> last_n_;
    std::vector<TokenId> window_; ///< a ring of the last tokens
    std::size_t oldest_ = 0;      ///< in a full window_
    std::vector<TokenId> seen_;
};

/// What a processor may look at. The views are good during the call.
struct Context {
    std::span<const TokenId> tokens; ///< of the prompt and the text so far; empty if no processor reads them
    std::size_t n_new = 0;           ///< how many of them are the text
    const TokenCounts& counts;
    double uniform = 0.0; ///< a random number in [0, 1), another than the one that draws the token
    std::span<const float> unguided{}; ///< logits [V] after the negative prompt; empty without guidance
};

/// One step: changes scores or drops tokens. It computes with one result: float and double arithmetic in a
/// fixed order, explicit fused multiply-adds, and exp and log from math.hpp. One caller at a time.
class Processor {
public:
    Processor() = default;
    Processor(const Processor&) = delete;
    Processor& operator=(const Processor&) = delete;
    virtual ~Processor() = default;

    /// Does not change the processor in a way that matters for the next call.
    virtual void apply(Scores& scores, const Context& context) = 0;

    /// A token was drawn. @param share  its probability among the tokens that remained
    virtual void chosen(double share) { (void)share; }
};

} // namespace gpt2::sampling
