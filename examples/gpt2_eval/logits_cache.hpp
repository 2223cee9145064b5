// SPDX-License-Identifier: MIT
#pragma once

#include "output.hpp"

#include <gpt2/io/mapped_file.hpp>
#include <gpt2/tensor.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <filesystem>

/// @file
/// A reference's logits in a file: a line of JSON that says of what they are, filled up with spaces to a
/// multiple of 64 bytes, and rows of V floats, little-endian, in the order of the tokens.

/// Reads the rows of a complete file.
class CachedLogits {
public:
    /// @throws gpt2::FormatError  naming the file, if it is none of these, of another run, or damaged in size
    CachedLogits(const std::filesystem::path& path, const nlohmann::ordered_json& identity,
                 std::size_t vocab_size);

    /// The next @p n rows, in the mapped file.
    /// @throws gpt2::FormatError  if there are fewer
    [[nodiscard]] gpt2::TensorView<const float, 2> next(std::size_t n);

private:
    gpt2::MappedFile file_;
    std::size_t vocab_size_;
    std::size_t begin_ = 0; ///< of the rows, in bytes
    std::size_t rows_ = 0;
    std::size_t read_ = 0;
};

/// Writes one. Only finish() gives it its name, so that no part of a run passes for a whole.
class LogitsWriter {
public:
    /// @throws gpt2::FileError naming the file, as all of these do, if it cannot be written
    LogitsWriter(const std::filesystem::path& path, const nlohmann::ordered_json& identity);

    void write(gpt2::TensorView<const float, 2> rows);
    void finish();

private:
    Output out_;
};
