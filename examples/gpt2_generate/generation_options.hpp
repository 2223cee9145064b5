// SPDX-License-Identifier: MIT
#pragma once

#include "words.hpp"

#include <gpt2/generation_config.hpp>

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

/// @file
/// The options of gpt2-generate that say how a text is chosen.

struct GenerationOptions {
    gpt2::GenerationConfig generation{.max_new_tokens = 100};
    bool logprobs = false;
    std::string overflow = "error"; ///< slide or truncate_left
    // Parts of it that count if one of their options was given.
    gpt2::sampling::Dry dry;
    std::vector<std::string> dry_breakers; ///< instead of its own
    gpt2::sampling::Xtc xtc;
    gpt2::sampling::Mirostat mirostat;
    std::string top_k_ties;     ///< keep, cut or, if it was not given, empty
    std::string top_p_rule;     ///< reach, within or empty
    std::string early_stopping; ///< false, true, never or empty
    Words words;                ///< what of it needs a tokenizer
};

/// As another program does it; what else is given changes it.
void add_preset(CLI::App& app, GenerationOptions& o);

/// All but the preset, which comes before them.
void add_generation_options(CLI::App& app, GenerationOptions& o);

/// What the options mean together, when @p app has read them.
/// @param original  as the scripts of openai/gpt-2: nothing is set that was not given
void complete_generation(const CLI::App& app, GenerationOptions& o, bool original);
