// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/evaluation/perplexity.hpp>
#include <gpt2/model.hpp>
#include <gpt2/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

/// @file
/// Models, texts and windows as command lines name them, and what tells them from others.

/// PATH, PATH:WEIGHTS, PATH:WEIGHTS/HEAD or PATH:/HEAD: a model, and the formats to round it to while
/// loading.
struct ModelSpec {
    std::filesystem::path path;
    std::optional<gpt2::WeightType> weights; ///< none: that of the file
    std::optional<gpt2::WeightType> head;    ///< none: LoadOptions::head's default

    /// What follows the last colon is formats if it can be; a path that exists is a path.
    [[nodiscard]] static ModelSpec parse(const std::string& text);

    /// As parse() reads it.
    [[nodiscard]] std::string name() const;

    [[nodiscard]] gpt2::Gpt2Model load(const std::shared_ptr<gpt2::ThreadPool>& pool) const;
};

/// The model of a command that takes one.
struct ModelOptions {
    std::string model;
    std::string weights;
    std::string head_weights;
    std::optional<std::int64_t> threads;

    void add_to(CLI::App& app);

    /// @throws UsageError if formats are given twice
    [[nodiscard]] ModelSpec spec() const;
};

/// A pool of so many threads, or the process-wide one.
/// @throws UsageError for fewer than 1
[[nodiscard]] std::shared_ptr<gpt2::ThreadPool> pool_of(const std::optional<std::int64_t>& threads);

/// How a text is cut.
struct TextOptions {
    std::int64_t window = 0;
    std::int64_t stride = 0;
    std::int64_t limit = 0;
    bool no_start_token = false;

    void add_to(CLI::App& app);

    /// @throws UsageError for what is below 0
    [[nodiscard]] gpt2::evaluation::WindowOptions windows() const;
};

/// CRC-32 of the bytes as 8 digits.
[[nodiscard]] std::string checksum(std::string_view bytes);

/// Of a file, or of all files in a directory, in the order of their names.
[[nodiscard]] std::string checksum_of(const std::filesystem::path& path);

/// What results depend on: files by their contents, options, and whether multiply-adds are fused (they are on
/// every level but `portable`).
[[nodiscard]] nlohmann::ordered_json identity_of(const ModelSpec& spec, const gpt2::Gpt2Model& model,
                                                 std::string_view text,
                                                 const gpt2::evaluation::WindowOptions& windows);

/// @throws gpt2::FormatError  naming @p file and the first member that differs
void require_same(const std::filesystem::path& file, const nlohmann::json& found,
                  const nlohmann::json& expected);

[[nodiscard]] nlohmann::ordered_json to_json(const gpt2::evaluation::Estimate& estimate);
