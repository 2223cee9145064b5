// SPDX-License-Identifier: MIT
#pragma once

#include "logits_cache.hpp"
#include "model_spec.hpp"

#include <gpt2/evaluation/comparison.hpp>
#include <gpt2/evaluation/scorer.hpp>

#include <nlohmann/json.hpp>

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

/// @file
/// Candidates beside a reference on one text.

struct TextComparison {
    gpt2::evaluation::Scorer* reference = nullptr;
    std::vector<gpt2::evaluation::Scorer*> candidates;
    std::string_view text;
    gpt2::evaluation::WindowOptions windows;
    std::optional<CachedLogits> cached{};   ///< the reference's logits, which are then not computed
    std::unique_ptr<LogitsWriter> writer{}; ///< gets them
};

/// One Comparison for each candidate. All models go through the text side by side.
/// @throws gpt2::OptionError  for a candidate with another vocabulary or tokenizer
[[nodiscard]] std::vector<gpt2::evaluation::Comparison> compare_on_text(TextComparison& job);

/// The numbers of one candidate, its percentiles of KL by name.
[[nodiscard]] nlohmann::ordered_json to_json(const gpt2::evaluation::Comparison& comparison);
