// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// Lines that a user typed in earlier runs.

/// Where they are: `gpt2/history` in $XDG_STATE_HOME, or in ~/.local/state (freedesktop.org, "XDG Base
/// Directory Specification", version 0.8). Empty if the environment names neither.
[[nodiscard]] std::filesystem::path default_history_file();

/// A file of lines, the oldest first, that only its owner may read. What cannot be read or written is told on
/// standard error, once, and no more tried: nobody loses a text for the sake of a history.
class LineHistory {
public:
    static constexpr std::size_t most = 1000; ///< lines; older ones are dropped when a run begins

    /// @param path  empty: nothing is kept
    explicit LineHistory(std::filesystem::path path);

    /// Those of earlier runs.
    [[nodiscard]] const std::vector<std::string>& lines() const noexcept { return lines_; }

    /// Keeps a line, if it is not that of the time before.
    void add(const std::string& line);

private:
    void read();
    void write(const std::filesystem::path& path, int how, std::string_view text);
    void give_up(const char* what, int error);

    std::filesystem::path path_;
    std::vector<std::string> lines_;
    std::string last_;
};
