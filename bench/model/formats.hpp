// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/model.hpp>

#include <string>
#include <string_view>
#include <vector>

/// @file
/// The weight formats that benchmarks know by name.

namespace gpt2::bench {

/// A way to load a model.
struct Format {
    std::string_view name;
    std::string_view converter; ///< what convert_weights.py --dtype calls it; empty: it cannot write this
    LoadOptions load{};
};

/// A new format is a new line here.
[[nodiscard]] inline const std::vector<Format>& formats() {
    static const std::vector<Format> list = {
        {"f32", "f32", {.weights = WeightType::float32}},
        {"f16", "f16", {.weights = WeightType::float16}},
        {"bf16", "bf16", {.weights = WeightType::bfloat16}},
        {"int8", "int8", {.weights = WeightType::int8}},
        {"int4", "int4", {.weights = WeightType::int4}}, // with an output head in int8
        {"int4-head4", "", {.weights = WeightType::int4, .head = WeightType::int4}},
        {"file", "", {}}, // as they are in the file of --model
    };
    return list;
}

} // namespace gpt2::bench
