// SPDX-License-Identifier: MIT
#pragma once

#include "../common/usage_error.hpp"
#include "generation_options.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// @file
/// The command line of gpt2-generate.

struct Options : GenerationOptions {
    std::optional<std::string> prompt;      ///< as an argument
    std::optional<std::string> prompt_file; ///< "-" is standard input
    std::optional<std::filesystem::path> model;
    std::string weights;      ///< as to_string(WeightType); empty: those of the file
    std::string head_weights; ///< the same, of the output head; empty: LoadOptions::head's default
    bool screen_head = false;
    std::string kv_dtype = "auto";
    std::optional<std::int64_t> threads;
    std::vector<std::size_t> processors; ///< one thread on each; empty: wherever the system puts them
    std::optional<std::int64_t> n;       ///< texts; 0: without end
    std::int64_t batch_size = 1;         ///< how many of them, or of the jobs, at once
    std::optional<std::string> jobs;     ///< file of prompts; "-" is standard input
    std::string output = "-";            ///< of their texts; "-" is standard output
    bool overwrite = false;              ///< that file
    std::vector<WrittenOption> written;  ///< with jobs: the options of generation, which hold for all of them
    bool original = false;      ///< as the scripts of openai/gpt-2, since one of their options is given
    bool unconditional = false; ///< no prompt
    std::string models_dir;     ///< of the original's options; they become `model`
    std::string model_name;
    std::optional<std::int64_t> length; ///< max_new_tokens; none with `original`: by the context
    std::optional<std::filesystem::path> load_session; ///< file to go on from
    std::optional<std::filesystem::path> save_session; ///< file to write
    bool interactive = false;
    bool no_history = false;
    bool echo = false;
    bool json = false;
    bool stats = false;
    bool verify = false;                                 ///< and no text
    bool huge_pages = false;                             ///< Residency::huge_pages
    bool show_probabilities = false;                     ///< in colours
    std::optional<std::filesystem::path> attention_page; ///< file to write
    bool profile = false;
    std::optional<std::filesystem::path> profile_trace; ///< file to write
    std::optional<std::filesystem::path> assistant_model;
    std::string assistant_weights; ///< of that model, as weights
    std::optional<std::int64_t> num_assistant_tokens;
};

/// Reads the command line.
/// @returns nothing if it asked for help or the version, which is then printed
/// @throws UsageError, or gpt2::OptionError for values out of range
[[nodiscard]] std::optional<Options> parse(int argc, char** argv);
