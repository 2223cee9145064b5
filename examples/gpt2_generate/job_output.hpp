// SPDX-License-Identifier: MIT
#pragma once

#include "job.hpp"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

/// @file
/// Where the results of --jobs go.

/// A file to which complete lines are appended, one for each job, or standard output. However a run ends, the
/// file holds the results of the first jobs, and at most a part of one line behind them.
class JobOutput {
public:
    /// @param path  "-": standard output
    explicit JobOutput(std::string path);

    /// Opens the file to append to what is there of the same jobs, which it checks; a part of a line at the
    /// end is cut off.
    /// @param digests  of all jobs, see digest_of()
    /// @returns how many of them are done
    /// @throws gpt2::FormatError  naming file and line, for another result than that of the job
    [[nodiscard]] std::size_t resume(std::span<const std::string> digests);

    /// Opens the file without what is there.
    void overwrite();

    /// Of the lines that resume() found: with the member "error".
    [[nodiscard]] std::size_t failed_before() const noexcept { return failed_before_; }

    [[nodiscard]] bool is_standard_output() const noexcept { return path_ == "-"; }

    /// @param line  with its end
    /// @throws gpt2::FileError naming the file
    void write(std::string_view line);

private:
    void open(std::ios::openmode mode);
    void check_line(std::string_view line, std::size_t index, std::span<const std::string> digests);

    std::string path_;
    std::ofstream file_;
    std::size_t failed_before_ = 0;
};
