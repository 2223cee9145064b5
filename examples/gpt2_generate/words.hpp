// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/generation_config.hpp>
#include <gpt2/tokenizer.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// @file
/// The options of gpt2-generate that name tokens: what was written, and what it means.

/// As written. A token is its id or its text; a text is any, or the ids of its tokens with commas between.
struct Words {
    std::vector<std::string> bad_words;             ///< texts
    std::vector<std::string> suppress_tokens;       ///< tokens
    std::vector<std::string> begin_suppress_tokens; ///< tokens
    std::vector<std::string> logit_bias;            ///< TOKEN=BIAS
    std::vector<std::string> sequence_bias;         ///< TEXT=BIAS
    std::optional<std::string> negative_prompt;     ///< text
    std::optional<std::string> forced_bos_token;
    std::optional<std::string> forced_eos_token;
    std::optional<std::string> exponential_decay; ///< START,FACTOR
    std::optional<std::string> regex;             ///< of these three at most one
    std::optional<std::string> grammar;
    std::optional<std::filesystem::path> grammar_file;
};

/// Says in @p config what the words mean.
/// @throws UsageError naming the option, for a token that is none or a number that is none; OptionError for a
///         pattern that is none; std::exception if the file cannot be read
void resolve(const Words& words, const gpt2::Tokenizer& tokenizer, gpt2::GenerationConfig& config);
