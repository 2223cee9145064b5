// SPDX-License-Identifier: MIT
#pragma once

#include "model_spec.hpp"

#include <gpt2/evaluation/data_set.hpp>
#include <gpt2/evaluation/tasks.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

/// @file
/// What the commands for data sets have in common.

/// The command line of such a command.
struct DataSetOptions {
    ModelOptions model;
    std::filesystem::path file;
    std::int64_t limit = 0;
    std::optional<std::filesystem::path> details;
    bool json = false;

    /// @param file_help  what FILE is
    void add_to(CLI::App& app, const std::string& file_help);
};

/// What a command does with the examples.
struct DataSetTask {
    gpt2::evaluation::ReadExample read;

    /// For a file whose first line is no JSON object; null: there are none.
    gpt2::evaluation::ReadExample read_plain = nullptr;

    /// Takes in one example. @returns what --details has of it, besides its place
    std::function<nlohmann::ordered_json(const gpt2::evaluation::Example&,
                                         std::span<const gpt2::evaluation::ChoiceScore>)>
        add;

    std::function<std::string()> running_value;   ///< for the progress bar
    std::function<nlohmann::ordered_json()> json; ///< the results
    std::function<std::string()> text;            ///< the same, as lines
};

/// Runs it over the file and prints the results.
/// @returns the status of the program
[[nodiscard]] int run_data_set(const DataSetOptions& options, const DataSetTask& task);

/// The members of --details that a task with several choices has: label, scores.
[[nodiscard]] nlohmann::ordered_json scores_of(const gpt2::evaluation::Example& example,
                                               std::span<const gpt2::evaluation::ChoiceScore> choices);
