// SPDX-License-Identifier: MIT
#pragma once

#include "generation_options.hpp"

#include <gpt2/io/json.hpp>
#include <gpt2/model.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// The lines of --jobs. docs/jobs.md defines their members.

/// A line that is not empty.
struct JobLine {
    std::size_t number; ///< in the file, counted from 1
    std::string_view text;
};

/// @param text  must outlive the lines
[[nodiscard]] std::vector<JobLine> job_lines(std::string_view text);

/// What a line asks for.
struct Job {
    std::string where;   ///< `"file": line 7`, for messages
    nlohmann::json id{}; ///< null if it has none
    gpt2::BatchRequest request{};
    std::string error{}; ///< what is wrong with it; empty: nothing
};

/// Reads lines, for one model.
class JobReader {
public:
    /// @param defaults  what was written on the command line
    /// @param name      of the file, for messages
    JobReader(const gpt2::Gpt2Model& model, std::vector<WrittenOption> defaults, std::string name);

    /// Throws nothing for a bad line: that is in Job::error.
    [[nodiscard]] Job read(const JobLine& line) const;

private:
    void read(const gpt2::detail::JsonObject& object, Job& job) const;
    void read_prompt(const gpt2::detail::JsonObject& object, Job& job) const;
    [[nodiscard]] std::vector<WrittenOption> options(const gpt2::detail::JsonObject& object) const;

    const gpt2::Gpt2Model& model_;
    std::vector<WrittenOption> defaults_;
    std::string name_;
    GenerationApp known_;
};
