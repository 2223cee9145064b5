// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/evaluation.hpp>
#include <gpt2/gpt2.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// @file
/// How far an engine's logits are from a reference's on a text, by the library's own metrics
/// (docs/evaluation.md), which are so the same for every engine. A folder holds the text as ids in the file
/// "tokens" (int32) and the reference's logits in the file "logits" (float32, [tokens - 1, V]). The text is
/// read in windows that follow each other, as gpt2-eval does unless told otherwise: each begins with an empty
/// context, and what follows each of its tokens is scored. Little-endian. Not thread-safe.

namespace compare {

using TokenId = gpt2::TokenId;

/// The logits [n, V] after each of n tokens, the first of which begins an empty context.
using LogitsOf = std::function<std::vector<float>(std::span<const TokenId>)>;

/// All numbers of a file.
template <class Number> [[nodiscard]] std::vector<Number> read_numbers(const std::filesystem::path& path) {
    std::vector<Number> numbers(static_cast<std::size_t>(std::filesystem::file_size(path)) / sizeof(Number));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(numbers.data()),
              static_cast<std::streamsize>(numbers.size() * sizeof(Number)));
    if (!file) {
        throw std::runtime_error("cannot read " + path.string());
    }
    return numbers;
}

/// Calls @p body with the tokens of each window and those that follow each of them.
template <class Body> void for_each_window(std::span<const TokenId> tokens, std::size_t window, Body&& body) {
    for (std::size_t begin = 0; begin + 1 < tokens.size(); begin += window) {
        const std::size_t n = std::min(window, tokens.size() - begin - 1);
        body(tokens.subspan(begin, n), tokens.subspan(begin + 1, n));
    }
}

/// Writes the reference's logits into the folder. @returns JSON: the number of "tokens" that are scored
[[nodiscard]] inline std::string keep_reference(const LogitsOf& logits_of, std::size_t window,
                                                const std::filesystem::path& folder) {
    const auto tokens = read_numbers<TokenId>(folder / "tokens");
    std::ofstream file(folder / "logits", std::ios::binary | std::ios::trunc);
    for_each_window(tokens, window, [&](std::span<const TokenId> ids, std::span<const TokenId>) {
        const std::vector<float> rows = logits_of(ids);
        file.write(reinterpret_cast<const char*>(rows.data()),
                   static_cast<std::streamsize>(rows.size() * sizeof(float)));
    });
    file.close();
    if (!file) {
        throw std::runtime_error("cannot write " + (folder / "logits").string());
    }
    return nlohmann::json{{"tokens", tokens.size() - 1}}.dump();
}

/// Rows of logits [targets, V] of the two, in parallel.
[[nodiscard]] inline std::vector<gpt2::evaluation::RowComparison>
compare_rows(gpt2::ThreadPool& pool, std::span<const float> reference, std::span<const float> candidate,
             std::span<const TokenId> targets) {
    const gpt2::ExpShifted exp = gpt2::kernels::kernels_for(gpt2::choose_isa()).exp_shifted;
    const std::size_t vocab_size = reference.size() / targets.size();
    std::vector<gpt2::evaluation::RowComparison> out(targets.size());
    pool.parallel_for(out.size(), 4, [&](std::size_t begin, std::size_t end) {
        gpt2::evaluation::LogitsComparison comparison(exp);
        std::vector<float> scratch;
        for (std::size_t i = begin; i < end; ++i) {
            const auto p = reference.subspan(i * vocab_size, vocab_size);
            const auto q = candidate.subspan(i * vocab_size, vocab_size);
            out[i] = {comparison.compare(p, q), -gpt2::log_softmax(p, targets[i], exp, scratch),
                      -gpt2::log_softmax(q, targets[i], exp, scratch)};
        }
    });
    return out;
}

[[nodiscard]] inline nlohmann::json to_json(const gpt2::evaluation::Estimate& x) {
    return {{"value", x.value}, {"standard_error", x.standard_error}};
}

/// Compares an engine with the reference in the folder. @returns JSON, under the names of `gpt2-eval compare`
[[nodiscard]] inline std::string compare_with_reference(const LogitsOf& logits_of, std::size_t window,
                                                        const std::filesystem::path& folder,
                                                        gpt2::ThreadPool& pool) {
    const auto tokens = read_numbers<TokenId>(folder / "tokens");
    std::ifstream file(folder / "logits", std::ios::binary);
    gpt2::evaluation::Comparison found;
    for_each_window(tokens, window, [&](std::span<const TokenId> ids, std::span<const TokenId> targets) {
        const std::vector<float> candidate = logits_of(ids);
        std::vector<float> reference(candidate.size());
        file.read(reinterpret_cast<char*>(reference.data()),
                  static_cast<std::streamsize>(reference.size() * sizeof(float)));
        if (!file) {
            throw std::runtime_error((folder / "logits").string() + ": expected the logits of " +
                                     std::to_string(tokens.size() - 1) + " tokens, found fewer");
        }
        for (const auto& row : compare_rows(pool, reference, candidate, targets)) {
            found.add(row);
        }
    });
    return nlohmann::json{{"tokens", found.tokens()},
                          {"kl", to_json(found.kl())},
                          {"top1_agreement", to_json(found.top1_agreement())},
                          {"perplexity", to_json(found.candidate_perplexity())},
                          {"perplexity_ratio", to_json(found.perplexity_ratio())}}
        .dump();
}

} // namespace compare
