// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/generation.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// @file
/// What gpt2-generate tells beside the text.

/// Of the run as a whole.
struct Machine {
    std::string model;
    std::string weights; ///< format, as asked for
    std::string kv_dtype;
    std::string isa;
    std::size_t threads = 0;
    double load_seconds = 0.0;
    std::size_t weight_bytes = 0; ///< that one token reads
    bool screen_head = false;
};

/// One text.
struct Sample {
    std::string_view prompt;
    std::size_t prompt_tokens = 0;
    std::uint64_t number = 0; ///< GenerationConfig::sample
    bool interrupted = false;
    bool prompt_was_read = false; ///< for an earlier text, so that its time is not in this one's TTFT
    gpt2::GenerationResult result;
    std::span<const gpt2::TokenId> context{}; ///< all tokens before the text
};

/// Several lines for a reader.
[[nodiscard]] std::string stats_text(const Machine& machine, const Sample& sample);

/// A table of tokens and their log-probabilities, and one of the prompt's.
[[nodiscard]] std::string logprobs_text(const Sample& sample, const gpt2::Tokenizer& tokenizer);

/// A text in the colour of its probability, for a terminal.
[[nodiscard]] std::string coloured(std::string_view text, float logprob);

/// One line that says what the colours mean.
[[nodiscard]] std::string colours_text();

/// One line, with its end. Bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string json_line(const Machine& machine, const Sample& sample, bool with_stats);
