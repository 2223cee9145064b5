// SPDX-License-Identifier: MIT
#pragma once

#include "model_spec.hpp"

#include <gpt2/evaluation/comparison.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// @file
/// What `gpt2-eval report` finds, and its outputs.

/// A number for each round.
using Rounds = std::vector<double>;

/// @returns the median, or another share's percentile; the rounds must not be empty
[[nodiscard]] double median_of(Rounds rounds, double share = 0.5);

/// One model, loaded one way.
struct Candidate {
    ModelSpec spec;
    std::string label;                                   ///< short, of no other candidate
    std::optional<std::uint64_t> file_bytes;             ///< none if it is rounded while loading
    std::uint64_t weight_bytes = 0;                      ///< that a decoding step reads
    Rounds memory;                                       ///< bytes in memory after the work
    Rounds prefill;                                      ///< tokens/s
    Rounds decode;                                       ///< tokens/s
    std::optional<gpt2::evaluation::Comparison> quality; ///< none of the reference
};

struct Report {
    std::string text;
    std::string isa;
    std::size_t threads = 0;
    std::size_t rounds = 0; ///< 0: memory and speed were left out
    double seconds = 0.0;   ///< of each measurement
    gpt2::evaluation::Estimate reference_perplexity;
    std::uint64_t tokens = 0;
    std::vector<Candidate> candidates; ///< the reference first
};

/// Names that tell the models apart: formats where the path is always the same, else the file's name with the
/// formats.
[[nodiscard]] std::vector<std::string> labels_of(const std::vector<ModelSpec>& specs);

[[nodiscard]] std::string to_markdown(const Report& report);
[[nodiscard]] nlohmann::ordered_json to_json(const Report& report);

/// KL divergence over decoding speed, for light and dark pages.
/// @throws gpt2::OptionError if there is no candidate with a divergence above 0
[[nodiscard]] std::string to_svg(const Report& report, const std::string& title);

/// Three significant digits, but all digits of whole numbers.
[[nodiscard]] std::string three_digits(double x);
