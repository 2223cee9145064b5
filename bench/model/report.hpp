// SPDX-License-Identifier: MIT
#pragma once

#include "run.hpp"
#include "statistics.hpp"
#include "system.hpp"
#include "table.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

/// @file
/// What was measured, as tables and as JSON.

namespace gpt2::bench {

/// The rounds of one case, summarised.
struct Line {
    const Result* result;
    Summary value;
    double limit = 0.0; ///< tokens/s, median; 0: there is none
    Summary share{};    ///< of the limit, round by round
    bool by_memory = true;
    double bandwidth = 0.0, fma = 0.0;               ///< medians
    double quiet = 0.0, file = 0.0, anonymous = 0.0; ///< medians, where the case has them
};

namespace detail {

template <class Member> std::vector<double> column(const Result& result, Member member) {
    std::vector<double> values;
    for (const Sample& sample : result.samples) {
        values.push_back(member(sample));
    }
    return values;
}

template <class Member> double median(const Result& result, Member member) {
    return quantile(column(result, member), 0.5);
}

} // namespace detail

[[nodiscard]] inline Line summarize(const Result& result) {
    using detail::column;
    using detail::median;
    Line line{.result = &result, .value = summarize(column(result, [](const Sample& s) { return s.value; }))};
    line.limit = median(result, [](const Sample& s) { return s.limit(); });
    if (line.limit > 0.0) {
        line.share = summarize(column(result, [](const Sample& s) { return s.value / s.limit(); }));
        const double memory = median(result, [](const Sample& s) { return s.by_memory; });
        const double fma = median(result, [](const Sample& s) { return s.by_fma; });
        line.by_memory = fma == 0.0 || (memory != 0.0 && memory < fma);
    }
    line.quiet = median(result, [](const Sample& s) { return s.quiet; });
    if (line.quiet > 0.0) {
        line.share = summarize(column(result, [](const Sample& s) { return s.value / s.quiet; }));
    }
    line.bandwidth = median(result, [](const Sample& s) { return s.bandwidth; });
    line.fma = median(result, [](const Sample& s) { return s.fma; });
    line.file = median(result, [](const Sample& s) { return s.file; });
    line.anonymous = median(result, [](const Sample& s) { return s.anonymous; });
    return line;
}

[[nodiscard]] inline std::vector<Line> summarize(const Measurements& measurements) {
    std::vector<Line> lines;
    for (const Result& result : measurements.results) {
        lines.push_back(summarize(result));
    }
    return lines;
}

/// What a threads' share of the processors would be if all threads got as much.
[[nodiscard]] inline double fair_share(const Machine& machine, std::size_t busy) {
    return std::min(1.0, static_cast<double>(machine.hardware_threads) /
                             static_cast<double>(machine.threads + busy));
}

/// Beside the median: the limit and what it comes from, or what else there is to compare with.
[[nodiscard]] inline std::string remark(const Line& line, const Machine& machine) {
    const Case& what = line.result->what;
    if (what.kind == Kind::busy) {
        return detail::percent(line.share.median) + " of the " + detail::number(line.quiet) +
               " without; a fair share is " + detail::percent(fair_share(machine, what.busy));
    }
    if (what.kind == Kind::memory) {
        return detail::number(line.value.median - line.file) + " more than the file's " +
               detail::number(line.file);
    }
    if (line.limit == 0.0) {
        return {};
    }
    const double rate = line.by_memory ? line.bandwidth * 1e-9 : line.fma * 1e-9;
    return detail::number(rate) + (line.by_memory ? " GB/s" : " GFLOP/s");
}

namespace detail {

inline nlohmann::ordered_json to_json(const Summary& summary) {
    return {{"median", summary.median},
            {"min", summary.min},
            {"lower_quartile", summary.lower_quartile},
            {"upper_quartile", summary.upper_quartile},
            {"max", summary.max}};
}

inline const char* kind_name(const Case& what) {
    constexpr const char* names[] = {"prefill", "decode", "busy", "generate", "cold-start", "memory"};
    return names[static_cast<std::size_t>(what.kind)];
}

inline nlohmann::ordered_json to_json(const Line& line) {
    const Result& result = *line.result;
    const Case& what = result.what;
    nlohmann::ordered_json json = {{"engine", "gpt2"},
                                   {"size", result.size},
                                   {"format", result.format},
                                   {"case", what.name},
                                   {"kind", kind_name(what)},
                                   {"tokens", what.tokens},
                                   {"depth", what.depth},
                                   {"sequences", what.sequences},
                                   {"busy", what.busy},
                                   {"unit", what.unit()},
                                   {"median", line.value.median},
                                   {"min", line.value.min},
                                   {"max", line.value.max},
                                   {"lower_quartile", line.value.lower_quartile},
                                   {"upper_quartile", line.value.upper_quartile}};
    json["rounds"] = column(result, [](const Sample& s) { return s.value; });
    json["weight_bytes"] = result.weight_bytes;
    if (line.limit > 0.0) {
        json["limit"] = line.limit;
        json["bound"] = line.by_memory ? "bandwidth" : "fma";
        json["share"] = to_json(line.share);
        json["limit_rounds"] = column(result, [](const Sample& s) { return s.limit(); });
    }
    if (line.bandwidth > 0.0) {
        json["bandwidth"] = line.bandwidth;
        json["reader"] = result.reader;
    }
    if (line.fma > 0.0) {
        json["fma"] = line.fma;
    }
    if (line.quiet > 0.0) {
        json["quiet"] = line.quiet;
        json["kept"] = to_json(line.share);
    }
    if (line.file > 0.0) {
        json["file"] = line.file;
        json["anonymous"] = line.anonymous;
    }
    return json;
}

} // namespace detail

/// Everything. "results" has the members that bench/compare writes too, and more.
[[nodiscard]] inline nlohmann::ordered_json to_json(const Options& options, const Machine& machine,
                                                    const Measurements& measurements,
                                                    const std::string& command) {
    nlohmann::ordered_json json = {{"program", "bench-model"}, {"command", command}};
    json["machine"] = to_json(machine);
    json["kv_dtype"] = !options.kv_dtype ? "auto" : *options.kv_dtype == KvDtype::float16 ? "f16" : "f32";
    json["results"] = nlohmann::ordered_json::array();
    for (const Result& result : measurements.results) {
        json["results"].push_back(detail::to_json(summarize(result)));
    }
    json["skipped"] = nlohmann::ordered_json::array();
    for (const Skipped& each : measurements.skipped) {
        json["skipped"].push_back(
            {{"size", each.size}, {"format", each.format}, {"case", each.name}, {"reason", each.reason}});
    }
    return json;
}

} // namespace gpt2::bench
