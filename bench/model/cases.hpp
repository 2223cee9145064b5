// SPDX-License-Identifier: MIT
#pragma once

#include "options.hpp"

#include <gpt2/config.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

/// @file
/// What is done with a model.

namespace gpt2::bench {

enum class Kind { prefill, decode, busy, generate, cold_start, memory };

/// The founding report's text: a prompt of 13 tokens and 100 in all.
inline constexpr std::size_t founding_prompt = 13;
inline constexpr std::size_t founding_new = 87;

/// Steps of a decoding case from its depth on, before it starts there again.
inline constexpr std::size_t decode_steps = 32;

struct Case {
    std::string name; ///< kind, slash, number
    Kind kind = Kind::decode;
    std::size_t tokens = 0;    ///< prefill: length of the prompt
    std::size_t depth = 0;     ///< decode: tokens before the first
    std::size_t sequences = 1; ///< decode: tokens in a pass, each of a sequence of its own
    std::size_t busy = 0;      ///< threads of somebody else

    [[nodiscard]] std::string unit() const {
        switch (kind) {
        case Kind::generate:
            return "s";
        case Kind::cold_start:
            return "ms";
        case Kind::memory:
            return "MB";
        default:
            return "tok/s";
        }
    }

    /// Positions that a session needs.
    [[nodiscard]] std::size_t positions() const {
        if (kind == Kind::prefill) {
            return tokens;
        }
        return kind == Kind::decode || kind == Kind::busy ? depth + decode_steps
                                                          : founding_prompt + founding_new;
    }
};

/// All that the options give rise to, the filter aside.
[[nodiscard]] inline std::vector<Case> all_cases(const Options& options) {
    std::vector<Case> list;
    for (const std::size_t n : options.prompts) {
        list.push_back({.name = "prefill/" + std::to_string(n), .kind = Kind::prefill, .tokens = n});
    }
    for (const std::size_t depth : options.depths) {
        list.push_back({.name = "decode/" + std::to_string(depth), .kind = Kind::decode, .depth = depth});
    }
    for (const std::size_t n : options.batches) {
        list.push_back({.name = "batch/" + std::to_string(n), .kind = Kind::decode, .sequences = n});
    }
    if (options.busy != 0) {
        list.push_back(
            {.name = "busy/" + std::to_string(options.busy), .kind = Kind::busy, .busy = options.busy});
    }
    const std::string text = std::to_string(founding_prompt) + "+" + std::to_string(founding_new);
    list.push_back({.name = "generate/" + text, .kind = Kind::generate});
#if defined(__linux__)
    list.push_back({.name = "cold-start", .kind = Kind::cold_start});
    list.push_back({.name = "memory/" + text, .kind = Kind::memory});
#endif
    return list;
}

/// Those of all_cases() that `--cases` names.
/// @throws OptionError for a name that is none
[[nodiscard]] inline std::vector<Case> chosen_cases(const Options& options) {
    const std::vector<Case> all = all_cases(options);
    if (options.cases.empty()) {
        return all;
    }
    std::string known;
    for (const Case& each : all) {
        known += " " + each.name;
    }
    const auto matches = [](const Case& each, const std::string& name) {
        return each.name == name || each.name.starts_with(name + "/");
    };
    for (const std::string& name : options.cases) {
        if (std::ranges::none_of(all, [&](const Case& each) { return matches(each, name); })) {
            throw OptionError("--cases: expected names, or their parts before the slash, out of" + known +
                              ", found \"" + name + "\"");
        }
    }
    std::vector<Case> chosen;
    std::ranges::copy_if(all, std::back_inserter(chosen), [&](const Case& each) {
        return std::ranges::any_of(options.cases,
                                   [&](const std::string& name) { return matches(each, name); });
    });
    return chosen;
}

} // namespace gpt2::bench
