// SPDX-License-Identifier: MIT
#pragma once

#include "words.hpp"

#include <gpt2/generation_config.hpp>

#include <CLI/CLI.hpp>

#include <memory>
#include <span>
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

/// An option as it was written.
struct WrittenOption {
    std::string name;                ///< its first one, as in --help, without the dashes
    std::vector<std::string> values; ///< none for a flag
    bool is_off = false;             ///< as if it were not written
};

/// As another program does it; what else is given changes it.
void add_preset(CLI::App& app, GenerationOptions& o);

/// All but the preset, which comes before them.
void add_generation_options(CLI::App& app, GenerationOptions& o);

/// What the options mean together, when @p app has read them.
/// @param original  as the scripts of openai/gpt-2: nothing is set that was not given
void complete_generation(const CLI::App& app, GenerationOptions& o, bool original);

/// The options of generation alone.
class GenerationApp {
public:
    GenerationApp();
    GenerationApp(const GenerationApp&) = delete; // app_ refers to options_
    GenerationApp& operator=(const GenerationApp&) = delete;

    /// Reads options. Once. @throws CLI::ParseError; OptionError for a preset that there is not
    [[nodiscard]] GenerationOptions parse(std::span<const WrittenOption> written);

    /// By its name with underscores; null if there is none.
    [[nodiscard]] const CLI::Option* find(const std::string& key) const;

    /// Those that another command line has.
    [[nodiscard]] std::vector<WrittenOption> written_in(const CLI::App& app) const;

    /// @p own, and of @p defaults what is not the same and not excluded by them.
    [[nodiscard]] std::vector<WrittenOption> overridden(std::span<const WrittenOption> defaults,
                                                        std::vector<WrittenOption> own) const;

private:
    GenerationOptions options_;
    std::unique_ptr<CLI::App> app_;
};

[[nodiscard]] bool is_flag(const CLI::Option& option);
[[nodiscard]] bool takes_several(const CLI::Option& option);
