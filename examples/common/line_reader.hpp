// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

/// @file
/// Lines that a user types.

class LineHistory;

/// Asks for one line after the other. At a terminal the line can be edited and earlier ones come back with
/// the arrow keys, those of earlier runs too, if the program was built with libedit.
class LineReader {
public:
    /// @param question  what stands before each line
    /// @param where     the stream it is written to
    /// @param always    ask when nobody is at a terminal, too
    /// @param keep      what is typed at a terminal, for the next run
    LineReader(std::string question, std::FILE* where, bool always, bool keep);
    ~LineReader();
    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    /// The next line without its end; nothing after the last.
    /// @throws std::runtime_error if standard input cannot be read, or the question not written
    [[nodiscard]] std::optional<std::string> next();

private:
    [[nodiscard]] std::optional<std::string> read_plain();
    void write(const std::string& text);

    std::string question_;
    std::FILE* where_;
    bool terminal_; ///< standard input is one
    bool asks_;
    std::unique_ptr<LineHistory> history_; ///< null without libedit, or without a terminal
};
