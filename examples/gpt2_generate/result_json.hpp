// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/generation.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// A text as JSON, for --json and --jobs.

/// Adds its members to a line.
/// @param sample  GenerationConfig::sample
void add_result(nlohmann::ordered_json& line, const gpt2::GenerationResult& result,
                std::string_view finish_reason, std::size_t prompt_tokens, std::uint64_t sample);

/// The line with its end. Bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string to_line(const nlohmann::ordered_json& line);
