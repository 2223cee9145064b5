// SPDX-License-Identifier: MIT
#pragma once

#include "report.hpp"
#include "table.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

/// @file
/// Text for people.

namespace gpt2::bench {

/// A row for each case of each model.
[[nodiscard]] inline Table detailed_table(const std::vector<Line>& lines, const Machine& machine) {
    Table table = {{"size", "format", "case", "median", "min", "max", "unit", "limit", "share", "beside it"}};
    for (const Line& line : lines) {
        const Result& result = *line.result;
        const bool limited = line.limit > 0.0;
        table.push_back({result.size, result.format, result.what.name, detail::number(line.value.median),
                         detail::number(line.value.min), detail::number(line.value.max), result.what.unit(),
                         limited ? detail::number(line.limit) : "",
                         limited ? detail::percent(line.share.median) : "", remark(line, machine)});
    }
    return table;
}

/// A row for each case, a column for each format of one size.
[[nodiscard]] inline Table overview_table(const std::vector<Line>& lines, const std::string& size) {
    std::vector<std::string> formats;
    std::vector<std::string> cases;
    const auto add = [](std::vector<std::string>& list, const std::string& name) {
        if (std::find(list.begin(), list.end(), name) == list.end()) {
            list.push_back(name);
        }
    };
    for (const Line& line : lines) {
        if (line.result->size == size) {
            add(formats, line.result->format);
            add(cases, line.result->what.name + " (" + line.result->what.unit() + ")");
        }
    }
    Table table(1 + cases.size(), std::vector<std::string>(1 + formats.size()));
    table[0][0] = size;
    std::copy(formats.begin(), formats.end(), table[0].begin() + 1);
    for (std::size_t row = 0; row < cases.size(); ++row) {
        table[row + 1][0] = cases[row];
    }
    for (const Line& line : lines) {
        const Case& what = line.result->what;
        if (line.result->size == size) {
            const auto place = [](const std::vector<std::string>& list, const std::string& name) {
                return static_cast<std::size_t>(std::find(list.begin(), list.end(), name) - list.begin());
            };
            std::string& cell = table[1 + place(cases, what.name + " (" + what.unit() + ")")]
                                     [1 + place(formats, line.result->format)];
            cell = detail::number(line.value.median);
            cell += line.share.median > 0.0 ? " (" + detail::percent(line.share.median) + ")" : "";
        }
    }
    return table;
}

inline constexpr const char* caption =
    "Medians over the rounds; in brackets the share of what the machine allows, as measured in the same\n"
    "rounds. decode: bandwidth over the bytes of weights and KV cache that a token reads. prefill: float32\n"
    "multiply-adds over two operations for each weight of the blocks and token, causal attention, and the\n"
    "head once. batch: the lower of the two. Integer formats are held against float32 multiply-adds as "
    "well,\n"
    "and may exceed 100 %. busy: the share of the speed without busy threads.\n";

/// Sizes in the order in which they were measured.
[[nodiscard]] inline std::vector<std::string> sizes_of(const std::vector<Line>& lines) {
    std::vector<std::string> sizes;
    for (const Line& line : lines) {
        if (sizes.empty() || sizes.back() != line.result->size) {
            sizes.push_back(line.result->size);
        }
    }
    return sizes;
}

[[nodiscard]] inline std::string to_markdown(const std::vector<Line>& lines, const Machine& machine,
                                             const std::string& command) {
    std::string text = "```\n" + command + "\n\n" + to_text(machine) + "```\n\n";
    for (const std::string& size : sizes_of(lines)) {
        text += markdown(overview_table(lines, size), 1) + "\n";
    }
    text += std::string(caption) + "\n<details><summary>Spread and limits</summary>\n\n";
    text += markdown(detailed_table(lines, machine), 3) + "\n</details>\n";
    return text;
}

} // namespace gpt2::bench
