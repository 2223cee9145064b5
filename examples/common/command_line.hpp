// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/kernels/panel.hpp>

#include <CLI/CLI.hpp>

#include <charconv>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// @file
/// What the command lines of the programs have in common.

/// "--top_k=40" as "--top-k=40", in the order that CLI11 wants; arguments after "--" are left alone.
[[nodiscard]] std::vector<std::string> with_dashes(int argc, char** argv);

/// Whole numbers, read strictly: CLI11 takes 010 for 8, wraps -1 and cuts what is too large.
template <class Integer> [[nodiscard]] CLI::Validator integer() {
    return CLI::Validator(
        [](std::string& text) -> std::string {
            const bool plus = text.starts_with('+') && text.size() > 1 && text[1] != '-';
            const char* const begin = text.data() + (plus ? 1 : 0);
            const char* const end = text.data() + text.size();
            Integer value{};
            const auto [stop, error] = std::from_chars(begin, end, value);
            using Limits = std::numeric_limits<Integer>;
            if (error == std::errc::invalid_argument || stop != end) {
                return "expected a whole number" + std::string(Limits::is_signed ? "" : ", 0 or more") +
                       ", found " + text;
            }
            if (error == std::errc::result_out_of_range) {
                return "expected a number from " + std::to_string(Limits::min()) + " to " +
                       std::to_string(Limits::max()) + ", found " + text;
            }
            text = std::to_string(value);
            return {};
        },
        "");
}

[[nodiscard]] CLI::Validator number();

/// One of some names; a known abbreviation becomes its name.
[[nodiscard]] CLI::Validator choice(std::map<std::string, std::string> known, const std::string& expected);

/// A weight type by its name or abbreviation, f32, f16, bf16; it becomes its name.
[[nodiscard]] CLI::Validator weight_type_name();

/// By its name or abbreviation; nothing for any other text.
[[nodiscard]] std::optional<gpt2::WeightType> weight_type(std::string_view name);

/// Help without a list of what each option excludes.
class Formatter : public CLI::Formatter {
public:
    std::string make_option_opts(const CLI::Option* option) const override {
        return option->get_type_name().empty() ? "" : " " + option->get_type_name();
    }
};
