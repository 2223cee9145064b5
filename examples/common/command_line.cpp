// SPDX-License-Identifier: MIT
#include "command_line.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace {

const std::map<std::string, std::string>& weight_type_names() {
    static const std::map<std::string, std::string> names{
        {"f32", "float32"},   {"float32", "float32"},   {"f16", "float16"}, {"float16", "float16"},
        {"bf16", "bfloat16"}, {"bfloat16", "bfloat16"}, {"int8", "int8"},   {"int4", "int4"}};
    return names;
}

} // namespace

std::vector<std::string> with_dashes(int argc, char** argv) {
    std::vector<std::string> out(argv + std::min(argc, 1), argv + argc);
    for (std::string& argument : out) {
        if (argument == "--") {
            break;
        }
        if (argument.starts_with("--")) {
            const auto end =
                argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size()));
            std::replace(argument.begin(), end, '_', '-');
        }
    }
    std::reverse(out.begin(), out.end());
    return out;
}

CLI::Validator number() {
    return CLI::Validator(
        [](std::string& text) -> std::string {
            float value = 0.0f;
            return CLI::detail::lexical_cast(text, value) ? "" : "expected a number, found " + text;
        },
        "");
}

CLI::Validator choice(std::map<std::string, std::string> known, const std::string& expected) {
    return CLI::Validator(
        [known = std::move(known), expected](std::string& value) -> std::string {
            const auto found = known.find(value);
            if (found == known.end()) {
                return "expected " + expected + ", found " + value;
            }
            value = found->second;
            return {};
        },
        "");
}

CLI::Validator weight_type_name() {
    return choice(weight_type_names(), "float32, float16, bfloat16, int8 or int4");
}

std::optional<gpt2::WeightType> weight_type(std::string_view name) {
    const auto found = weight_type_names().find(std::string(name));
    for (std::size_t i = 0; found != weight_type_names().end() && i < gpt2::n_weight_types; ++i) {
        if (const auto type = static_cast<gpt2::WeightType>(i); to_string(type) == found->second) {
            return type;
        }
    }
    return std::nullopt;
}
