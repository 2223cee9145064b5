// SPDX-License-Identifier: MIT
#pragma once

#include "model_spec.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>

/// @file
/// One round of measurements of one model, in a process of its own: this program starts itself.

struct Round {
    double prefill = 0.0; ///< tokens/s of prompts of prefill_tokens
    double decode = 0.0;  ///< tokens/s, from no context on
    double memory = 0.0;  ///< bytes in memory after all that, pages of mapped files included
};

/// What bench-model's cases prefill/512 and decode/0 take.
inline constexpr std::size_t prefill_tokens = 512;
inline constexpr std::size_t decode_tokens = 32;

/// @param seconds  of each measurement, after a pass that does not count
/// @throws gpt2::Error if the process fails, or on a system without /proc
[[nodiscard]] Round run_round(const ModelSpec& spec, const std::optional<std::int64_t>& threads,
                              double seconds);
