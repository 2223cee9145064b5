// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/byte_alphabet.hpp"
#include "gpt2/error.hpp"

#include <cstddef>
#include <string>
#include <string_view>

/// @file
/// Reads `merges.txt`: a line per merge, two tokens (spelled as in byte_alphabet.hpp) with a space between
/// them, the most urgent merge first. A first line that begins with `#version` is no merge. Lines may end
/// in CR LF; only at the end of the file may they be empty.

namespace gpt2::detail {

class MergesReader {
public:
    MergesReader(std::string_view text, std::string_view name) : rest_(text), name_(name) {}

    /// Goes to the next merge; false at the end.
    /// @throws FormatError
    [[nodiscard]] bool next() {
        if (line_ == 0 && rest_.starts_with("#version")) {
            take_line();
        }
        if (rest_.empty()) {
            return false;
        }
        const std::string_view line = take_line();
        if (line.empty() && rest_.find_first_not_of("\r\n") == std::string_view::npos) {
            return false;
        }
        const std::size_t space = line.find(' ');
        bytes_.clear();
        if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
            !append_spelled(line.substr(0, space), bytes_)) {
            fail_line(line);
        }
        left_size_ = bytes_.size();
        if (!append_spelled(line.substr(space + 1), bytes_)) { // a second space is not of the alphabet
            fail_line(line);
        }
        return true;
    }

    // The bytes of the merge that next() found.
    [[nodiscard]] std::string_view left() const noexcept { return product().substr(0, left_size_); }
    [[nodiscard]] std::string_view right() const noexcept { return product().substr(left_size_); }
    [[nodiscard]] std::string_view product() const noexcept { return bytes_; }

    /// The line of that merge, counted from 1.
    [[nodiscard]] std::size_t line() const noexcept { return line_; }

    /// @throws FormatError always
    [[noreturn]] void fail(std::size_t line, std::string_view reason) const {
        throw FormatError(concat(detail::quoted(name_, 4096), ": line ", line, ": ", reason));
    }

private:
    std::string_view take_line() noexcept {
        ++line_;
        const std::size_t end = rest_.find('\n');
        std::string_view line = rest_.substr(0, end);
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
        if (line.ends_with('\r')) {
            line.remove_suffix(1);
        }
        return line;
    }

    [[noreturn]] void fail_line(std::string_view line) const {
        fail(line_, concat("expected two tokens, spelled in the characters of byte-level vocabularies, with "
                           "one space between them, found ",
                           detail::quoted(line)));
    }

    std::string_view rest_;
    std::string_view name_;
    std::string bytes_;
    std::size_t left_size_ = 0;
    std::size_t line_ = 0;
};

} // namespace gpt2::detail
