// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <optional>

/// @file
/// The commands of gpt2-eval. Each adds its options to the command line and says what to run.

/// What a program answers.
enum Status {
    success = 0,
    failure = 1,
    usage = 2,
    missed = 3,     ///< a threshold of `compare`
    unfinished = 4, ///< `perplexity` left off as told, with a checkpoint
    signalled = 128,
};

struct Command {
    CLI::App* app = nullptr;
    std::function<int()> run; ///< @returns the status of the program
};

[[nodiscard]] Command add_perplexity(CLI::App& app);
[[nodiscard]] Command add_compare(CLI::App& app);
[[nodiscard]] Command add_lambada(CLI::App& app);
[[nodiscard]] Command add_choice(CLI::App& app);
[[nodiscard]] Command add_cloze(CLI::App& app);
[[nodiscard]] Command add_score(CLI::App& app);
[[nodiscard]] Command add_report(CLI::App& app);
[[nodiscard]] Command add_report_round(CLI::App& app);

/// --threads, which all have.
void add_threads(CLI::App& app, std::optional<std::int64_t>& threads);
