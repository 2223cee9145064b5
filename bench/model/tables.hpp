// SPDX-License-Identifier: MIT
#pragma once

#include "report.hpp"

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

/// @file
/// Text for people.

namespace gpt2::bench {

/// Rows of cells, the first the headings.
using Table = std::vector<std::vector<std::string>>;

/// Columns padded to one width, the first @p n_left to the left, the others to the right.
[[nodiscard]] inline std::string aligned(const Table& table, std::size_t n_left) {
    std::vector<std::size_t> widths;
    for (const auto& row : table) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], row[i].size());
        }
    }
    std::string text;
    for (const auto& row : table) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string space(widths[i] - row[i].size(), ' ');
            line += (i == 0 ? "" : "  ") + (i < n_left ? row[i] + space : space + row[i]);
        }
        text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return text;
}

/// The same in Markdown.
[[nodiscard]] inline std::string markdown(const Table& table, std::size_t n_left) {
    std::string text;
    for (std::size_t i = 0; i < table.size(); ++i) {
        text += "|";
        for (const std::string& cell : table[i]) {
            text += " " + cell + " |";
        }
        text += "\n";
        if (i == 0) {
            text += "|";
            for (std::size_t column = 0; column < table[0].size(); ++column) {
                text += column < n_left ? "---|" : "---:|";
            }
            text += "\n";
        }
    }
    return text;
}

[[nodiscard]] inline std::string to_text(const Machine& machine) {
    std::ostringstream out;
    out << machine.cpu << ", " << machine.cores << " cores, " << machine.hardware_threads
        << " hardware threads; " << machine.caches << "; " << detail::number(machine.memory * 1e-9)
        << " GB of memory, transparent huge pages: " << machine.huge_pages << "\n"
        << machine.kernel << "; " << machine.compiler << ", gpt2 " << version_string << " with "
        << machine.isa << " kernels on " << machine.threads << " threads\n"
        << "at the start: load average " << detail::number(machine.load_average) << ", reading "
        << detail::number(machine.bandwidth * 1e-9) << " GB/s from memory, multiply-adds "
        << detail::number(machine.fma * 1e-9) << " GFLOP/s (float32)\n";
    return out.str();
}

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
