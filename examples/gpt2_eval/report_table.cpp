// SPDX-License-Identifier: MIT
#include "compare_texts.hpp"
#include "format.hpp"
#include "report.hpp"

#include <gpt2/version.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace {

constexpr double megabyte = 1e6;

using Row = std::vector<std::string>;

/// Characters, as far as a table needs to know.
std::size_t width_of(const std::string& text) {
    return static_cast<std::size_t>(
        std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// Markdown whose columns stand below each other as text too; the first row holds the headings, the first
/// column names.
std::string table(const std::vector<Row>& rows) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const Row& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max({widths[i], width_of(row[i]), std::size_t{4}});
        }
    }
    std::string out;
    for (const Row& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string space(widths[i] - width_of(row[i]), ' ');
            out += "| " + (i == 0 ? row[i] + space : space + row[i]) + " ";
        }
        out += "|\n";
        for (std::size_t i = 0; &row == &rows.front() && i < row.size(); ++i) {
            out +=
                i == 0 ? "|" + std::string(widths[i] + 2, '-') : "|" + std::string(widths[i] + 1, '-') + ":";
        }
        out += &row == &rows.front() ? "|\n" : "";
    }
    return out;
}

std::string with_range(const Rounds& rounds) {
    return three_digits(median_of(rounds)) + " (" + three_digits(median_of(rounds, 0.0)) + " to " +
           three_digits(median_of(rounds, 1.0)) + ")";
}

Row headings(const Report& report) {
    Row row{"", "file, MB", "weights, MB"};
    if (report.rounds != 0) {
        row.insert(row.end(), {"memory, MB", "prefill, tokens/s", "decode, tokens/s"});
    }
    row.insert(row.end(), {"perplexity", "change, %", "KL, nats", "top 1, %"});
    return row;
}

Row row_of(const Report& report, const Candidate& candidate) {
    Row row{candidate.label,
            candidate.file_bytes ? three_digits(static_cast<double>(*candidate.file_bytes) / megabyte) : "",
            three_digits(static_cast<double>(candidate.weight_bytes) / megabyte)};
    if (report.rounds != 0) {
        row.insert(row.end(), {three_digits(median_of(candidate.memory) / megabyte),
                               with_range(candidate.prefill), with_range(candidate.decode)});
    }
    if (!candidate.quality) {
        row.insert(row.end(), {with_error(report.reference_perplexity, 3), "reference", "", ""});
        return row;
    }
    const auto& quality = *candidate.quality;
    const gpt2::evaluation::Estimate ratio = quality.perplexity_ratio();
    const gpt2::evaluation::Estimate top1 = quality.top1_agreement();
    row.insert(row.end(), {with_error(quality.candidate_perplexity(), 3),
                           format("%+.4f ± %.4f", 100.0 * (ratio.value - 1.0), 100.0 * ratio.standard_error),
                           format("%.2e ± %.0e", quality.kl().value, quality.kl().standard_error),
                           format("%.2f ± %.2f", 100.0 * top1.value, 100.0 * top1.standard_error)});
    return row;
}

nlohmann::ordered_json json_of(const Rounds& rounds) {
    return {{"median", median_of(rounds)},
            {"min", median_of(rounds, 0.0)},
            {"max", median_of(rounds, 1.0)},
            {"rounds", rounds}};
}

nlohmann::ordered_json json_of(const Report& report, const Candidate& candidate) {
    nlohmann::ordered_json json{{"label", candidate.label}, {"model", candidate.spec.name()}};
    json["file_bytes"] =
        candidate.file_bytes ? nlohmann::ordered_json(*candidate.file_bytes) : nlohmann::ordered_json();
    json["weight_bytes"] = candidate.weight_bytes;
    if (report.rounds != 0) {
        json["memory"] = json_of(candidate.memory);
        json["prefill"] = json_of(candidate.prefill);
        json["decode"] = json_of(candidate.decode);
    }
    if (candidate.quality) {
        json.update(to_json(*candidate.quality));
    } else {
        json["tokens"] = report.tokens;
        json["perplexity"] = to_json(report.reference_perplexity);
    }
    return json;
}

/// A file's name without its ending, or a directory's.
std::string name_of(const std::filesystem::path& path) {
    const auto last = path.has_filename() ? path : path.parent_path();
    return std::filesystem::is_directory(last) ? last.filename().string() : last.stem().string();
}

} // namespace

double median_of(Rounds rounds, double share) {
    std::ranges::sort(rounds);
    return gpt2::evaluation::percentile(rounds, share);
}

std::string three_digits(double x) {
    const double size = std::fabs(x);
    return format("%.*f", size >= 99.95 || size == 0.0 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3, x);
}

std::vector<std::string> labels_of(const std::vector<ModelSpec>& specs) {
    const bool same_path =
        std::ranges::all_of(specs, [&](const ModelSpec& spec) { return spec.path == specs.front().path; });
    std::vector<std::string> labels;
    for (const ModelSpec& spec : specs) {
        const std::string formats = spec.name().substr(spec.path.string().size());
        const bool only_formats = same_path && !formats.empty();
        labels.push_back(only_formats ? formats.substr(1) : name_of(spec.path) + formats);
    }
    if (std::set<std::string>(labels.begin(), labels.end()).size() < labels.size()) {
        std::ranges::transform(specs, labels.begin(), [](const ModelSpec& spec) { return spec.name(); });
    }
    return labels;
}

std::string to_markdown(const Report& report) {
    std::vector<Row> rows{headings(report)};
    for (const Candidate& candidate : report.candidates) {
        rows.push_back(row_of(report, candidate));
    }
    std::string out =
        table(rows) + "\n" + format("%llu tokens", static_cast<unsigned long long>(report.tokens));
    out += " of " + report.text + format("; %s, %zu threads", report.isa.c_str(), report.threads);
    if (report.rounds != 0) {
        out += format(
            "; prefill of 512 tokens, decode without context: medians of %zu rounds, range in brackets",
            report.rounds);
    }
    return out + ".\n";
}

nlohmann::ordered_json to_json(const Report& report) {
    nlohmann::ordered_json json{{"program", std::string("gpt2-eval report ") + gpt2::version_string},
                                {"text", report.text},
                                {"tokens", report.tokens},
                                {"isa", report.isa},
                                {"threads", report.threads},
                                {"rounds", report.rounds},
                                {"seconds", report.seconds},
                                {"reference", report.candidates.front().label}};
    for (const Candidate& candidate : report.candidates) {
        json["models"].push_back(json_of(report, candidate));
    }
    return json;
}
