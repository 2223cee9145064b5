// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/constraint.hpp"
#include "gpt2/sampling/processor.hpp"

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
        constexpr float forbidden = -std::numeric_limits<float>::infinity();
        const std::span<float> all = scores.all();
        const auto eos = static_cast<std::size_t>(eos_);
        const float end = mask.is_complete() && eos < all.size() ? all[eos] : forbidden;
        for (std::size_t i = 0; i < all.size(); ++i) { // without branches, which nobody could foresee
            const auto bit = static_cast<std::uint32_t>(mask.words()[i / 64] >> i % 64 & 1);
            const std::uint32_t kept = std::bit_cast<std::uint32_t>(all[i]) & (0 - bit);
            all[i] = std::bit_cast<float>(kept | (std::bit_cast<std::uint32_t>(forbidden) & (bit - 1)));
        }
        if (eos < all.size()) {
            all[eos] = end;
        }
    }

private:
    ConstrainedText text_;
    TokenId eos_;
};

} // namespace gpt2::sampling
