// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/config.hpp>

#include <cstddef>
#include <string>
#include <vector>

/// @file
/// One source, compiled several times under different flags into one program. All copies define the same
/// inline functions, of which the linker keeps any one: each unit must work with what it gets.

struct UnitResult {
    std::vector<std::vector<float>> numbers; ///< of the kernels of each level, then logits
    std::vector<gpt2::TokenId> tokens;
    std::string text;

    friend bool operator==(const UnitResult&, const UnitResult&) = default;
};

UnitResult run_plain(const char* model);
UnitResult run_unoptimised(const char* model);
UnitResult run_native(const char* model);
