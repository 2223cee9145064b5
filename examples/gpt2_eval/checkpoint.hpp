// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/evaluation/perplexity.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>

/// @file
/// Runs that can go on later.

/// What was found so far, in a file of JSON, whose numbers read back to the same bits.
class Checkpoint {
public:
    /// @param identity  what the results depend on
    Checkpoint(std::filesystem::path path, nlohmann::ordered_json identity);

    /// What the file holds, or the beginning if there is none.
    /// @throws gpt2::FormatError  naming the file, if it is none of these or of another run
    [[nodiscard]] gpt2::evaluation::TextScore load() const;

    void save(const gpt2::evaluation::TextScore& score) const;

private:
    std::filesystem::path path_;
    nlohmann::ordered_json identity_;
};
