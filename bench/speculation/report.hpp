// SPDX-License-Identifier: MIT
#pragma once

#include "../model/statistics.hpp"
#include "../model/table.hpp"
#include "groups.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

/// @file
/// What was measured, as tables and as JSON.

namespace gpt2::bench {

/// One case, over the rounds.
struct Result {
    Case what;
    std::vector<double> rates{};   ///< tokens/s
    std::vector<double> factors{}; ///< over the plain run of the round
    Writing writing{};             ///< of the last round; the counts are those of every round

    [[nodiscard]] double factor() const { return quantile(factors, 0.5); }

    [[nodiscard]] double acceptance() const {
        const Speculation& s = writing.speculation;
        return s.proposed == 0 ? 0.0 : static_cast<double>(s.accepted) / static_cast<double>(s.proposed);
    }

    [[nodiscard]] double tokens_per_pass() const {
        return static_cast<double>(writing.tokens) / static_cast<double>(writing.speculation.passes);
    }
};

struct GroupResult {
    std::string kind, model, name;
    std::vector<double> plain{}; ///< tokens/s
    std::vector<Result> results{};
};

/// The rate from which on it pays: where the factor passes 1 for the first time, interpolated between two
/// measured rates; nothing if it never does.
[[nodiscard]] inline std::optional<double> break_even(const GroupResult& group) {
    const Result* before = nullptr;
    for (const Result& result : group.results) {
        if (result.factor() >= 1.0) {
            if (before == nullptr) {
                return result.what.rate;
            }
            const double share = (1.0 - before->factor()) / (result.factor() - before->factor());
            return std::lerp(*before->what.rate, *result.what.rate, share);
        }
        before = &result;
    }
    return std::nullopt;
}

namespace detail {

inline std::string decimals(double x, int n) {
    char text[32];
    std::snprintf(text, sizeof text, "%.*f", n, x);
    return text;
}

inline double median(const std::vector<double>& values) {
    return quantile(values, 0.5);
}

} // namespace detail

[[nodiscard]] inline Table text_table(const std::vector<GroupResult>& groups) {
    Table table = {{"model", "text", "proposals from", "at most", "plain, tok/s", "tok/s", "factor", "right",
                    "tokens/pass"}};
    for (const GroupResult& group : groups) {
        for (const Result& result : group.results) {
            table.push_back({group.model, group.name, result.what.name, std::to_string(result.what.proposals),
                             detail::number(detail::median(group.plain)),
                             detail::number(detail::median(result.rates)),
                             detail::decimals(result.factor(), 2), detail::percent(result.acceptance()),
                             detail::decimals(result.tokens_per_pass(), 2)});
        }
    }
    return table;
}

/// A row for each number of proposals and draft, a column for each rate.
[[nodiscard]] inline Table imposed_table(const std::vector<GroupResult>& groups) {
    Table table = {{"model", "draft", "at most", "plain, tok/s"}};
    for (const Result& result : groups.front().results) {
        table[0].push_back(detail::decimals(*result.what.rate, 2));
    }
    table[0].push_back("pays from");
    for (const GroupResult& group : groups) {
        std::vector<std::string> row = {group.model, group.name,
                                        std::to_string(group.results.front().what.proposals),
                                        detail::number(detail::median(group.plain))};
        for (const Result& result : group.results) {
            row.push_back(detail::decimals(result.factor(), 2));
        }
        const auto rate = break_even(group);
        row.push_back(rate ? detail::decimals(*rate, 2) : "never");
        table.push_back(std::move(row));
    }
    return table;
}

namespace detail {

inline nlohmann::ordered_json to_json(const Result& result) {
    const Speculation& s = result.writing.speculation;
    nlohmann::ordered_json json = {{"case", result.what.name},
                                   {"proposals", result.what.proposals},
                                   {"tokens_per_s", median(result.rates)},
                                   {"factor", result.factor()},
                                   {"tokens", result.writing.tokens},
                                   {"proposed", s.proposed},
                                   {"accepted", s.accepted},
                                   {"passes", s.passes},
                                   {"rounds", result.rates},
                                   {"factor_rounds", result.factors}};
    if (result.what.rate) {
        json["rate"] = *result.what.rate;
    }
    return json;
}

inline nlohmann::ordered_json to_json(const GroupResult& group) {
    nlohmann::ordered_json json = {{"kind", group.kind},
                                   {"model", group.model},
                                   {group.kind == "imposed" ? "draft" : "text", group.name},
                                   {"plain_tokens_per_s", median(group.plain)},
                                   {"plain_rounds", group.plain}};
    if (group.kind == "imposed") {
        const auto rate = break_even(group);
        json["break_even"] = rate ? nlohmann::ordered_json(*rate) : nlohmann::ordered_json();
    }
    json["results"] = nlohmann::ordered_json::array();
    for (const Result& result : group.results) {
        json["results"].push_back(to_json(result));
    }
    return json;
}

} // namespace detail

} // namespace gpt2::bench
