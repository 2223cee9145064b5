// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/constraint.hpp"
#include "gpt2/sampling/processor.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <utility>

/// @file
/// The processor that keeps a text to a pattern.

namespace gpt2::sampling {

/// Forbids the tokens after which the text could not become one that matches, and the end of the text until
/// it matches. Where nothing may follow, only the end is left. The text begins with the first new token.
///
/// llama.cpp's grammar sampler; Willard and Louf, Efficient Guided Generation for Large Language Models
/// (2023), for the masks by state.
class Constrained final : public Processor {
public:
    /// @param constraint  not null, for the tokens of the scores
    /// @param eos         ends the text; its bytes are then no text, whatever they are
    Constrained(std::shared_ptr<const Constraint> constraint, TokenId eos)
        : text_(std::move(constraint)), eos_(eos) {}

    /// @throws OptionError as ConstrainedText::follow
    void apply(Scores& scores, const Context& context) override {
        const TokenMask& mask = text_.follow(context.tokens.last(context.n_new));
        const std::span<float> all = scores.all();
        const auto eos = static_cast<std::size_t>(eos_);
        float end = forbidden;
        if (mask.is_complete() && eos < all.size()) {
            end = all[eos];
        }
        for (std::size_t begin = 0; begin < all.size(); begin += 64) {
            keep(mask.words()[begin / 64], all.subspan(begin, std::min<std::size_t>(64, all.size() - begin)));
        }
        if (eos < all.size()) {
            all[eos] = end;
        }
    }

private:
    static constexpr float forbidden = -std::numeric_limits<float>::infinity();

    /// Forbids those of 64 scores, or less, whose bit is 0.
    static void keep(std::uint64_t bits, std::span<float> scores) noexcept {
        if (bits == 0) {
            std::ranges::fill(scores, forbidden);
            return;
        }
        if (bits == ~std::uint64_t{0}) {
            return;
        }
        for (std::size_t i = 0; i < scores.size(); ++i) { // without branches, which nobody could foresee
            const auto bit = static_cast<std::uint32_t>(bits >> i & 1);
            const std::uint32_t kept = std::bit_cast<std::uint32_t>(scores[i]) & (0 - bit);
            scores[i] = std::bit_cast<float>(kept | (std::bit_cast<std::uint32_t>(forbidden) & (bit - 1)));
        }
    }

    ConstrainedText text_;
    TokenId eos_;
};

} // namespace gpt2::sampling
