// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/io/output_file.hpp>

#include <filesystem>
#include <optional>
#include <string_view>

/// @file
/// Where results go.

/// Standard output, or a file that gets its name at the end: no part of a run passes for a whole.
class Output {
public:
    /// @param path  none: standard output
    /// @throws gpt2::FileError naming it, if it cannot be written, as do the others
    explicit Output(const std::optional<std::filesystem::path>& path);

    void write(std::string_view text);
    void finish();

private:
    std::optional<gpt2::detail::OutputFile> file_;
};

/// Writes a file in one step: whoever reads it finds the old contents or the new.
/// @throws gpt2::FileError naming it
void replace_file(const std::filesystem::path& path, std::string_view contents);
