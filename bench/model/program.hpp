// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/error.hpp>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

/// @file
/// What the programs do besides measuring.

namespace gpt2::bench {

/// Opened before anything is measured, so that no measurement is lost to a name that cannot be written.
[[nodiscard]] inline std::optional<std::ofstream> open(const std::filesystem::path& path) {
    if (path.empty()) {
        return std::nullopt;
    }
    std::ofstream file(path, std::ios::trunc);
    if (!file) {
        throw gpt2::FileError(path.string() + ": cannot be written");
    }
    return file;
}

inline void close(std::ofstream& file, const std::filesystem::path& path) {
    file.close();
    if (!file) {
        throw gpt2::FileError(path.string() + ": writing failed");
    }
}

/// As it would be typed, but without folders.
[[nodiscard]] inline std::string command_line(const std::string& program, int argc, char** argv) {
    std::string text = program;
    for (int i = 1; i < argc; ++i) {
        text += std::string(" ") + argv[i];
    }
    return text;
}

} // namespace gpt2::bench
