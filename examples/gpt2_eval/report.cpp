// SPDX-License-Identifier: MIT
#include "report.hpp"

#include "../common/command_line.hpp"
#include "../common/progress.hpp"
#include "../common/terminal.hpp"
#include "../common/usage_error.hpp"
#include "command.hpp"
#include "compare_texts.hpp"
#include "format.hpp"
#include "output.hpp"
#include "report_round.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <filesystem>
#include <memory>
#include <utility>

namespace evaluation = gpt2::evaluation;
using gpt2::WeightType;

namespace {

struct ReportOptions {
    std::vector<std::string> models;
    bool all_formats = false;
    std::filesystem::path text;
    TextOptions windows;
    std::optional<std::int64_t> threads;
    std::int64_t rounds = 5;
    double seconds = 0.3;
    std::optional<std::filesystem::path> json;
    std::optional<std::filesystem::path> svg;
    std::string title;
};

/// What a model is rounded to that stands for all formats; the first is the reference.
constexpr std::pair<WeightType, std::optional<WeightType>> all_formats[] = {
    {WeightType::float32, {}},
    {WeightType::float16, {}},
    {WeightType::bfloat16, {}},
    {WeightType::int8, {}},
    {WeightType::int4, WeightType::int8},
    {WeightType::int4, WeightType::int4},
};

std::vector<ModelSpec> specs_of(const ReportOptions& options) {
    std::vector<ModelSpec> specs;
    for (const std::string& model : options.models) {
        specs.push_back(ModelSpec::parse(model));
    }
    const ModelSpec first = specs.front();
    const bool has_format = first.weights || first.head;
    if (options.all_formats && has_format) {
        throw UsageError("--all-formats: expected a first MODEL without formats, found " + first.name());
    }
    if (options.all_formats || (specs.size() == 1 && !has_format)) {
        specs.erase(specs.begin());
        std::vector<ModelSpec> formats;
        for (const auto& [weights, head] : all_formats) {
            formats.push_back({.path = first.path, .weights = weights, .head = head});
        }
        specs.insert(specs.begin(), formats.begin(), formats.end());
    }
    if (specs.size() < 2) {
        throw UsageError("report: expected a reference and at least one more model, found " + first.name() +
                         " alone");
    }
    return specs;
}

void check(const ReportOptions& options) {
    if (options.rounds < 0) {
        throw UsageError("--rounds is " + std::to_string(options.rounds) + ", expected 0 or more");
    }
    if (!(options.seconds > 0.0 && options.seconds <= 3600.0)) {
        throw UsageError(format("--seconds is %g, expected more than 0 and at most 3600", options.seconds));
    }
    if (options.svg && options.rounds == 0) {
        throw UsageError("--svg: expected speeds to draw, found --rounds 0");
    }
}

/// Of a file, or of all files in a directory; none for a model that is rounded while loading.
std::optional<std::uint64_t> file_bytes(const ModelSpec& spec) {
    if (spec.weights || spec.head) {
        return std::nullopt;
    }
    if (!std::filesystem::is_directory(spec.path)) {
        return std::filesystem::file_size(spec.path);
    }
    std::uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(spec.path)) {
        bytes += entry.is_regular_file() ? entry.file_size() : 0;
    }
    return bytes;
}

class ReportRun {
public:
    explicit ReportRun(const ReportOptions& options)
        : options_(options), windows_(options.windows.windows()) {
        check(options);
        const std::vector<ModelSpec> specs = specs_of(options);
        const std::vector<std::string> labels = labels_of(specs);
        for (std::size_t i = 0; i < specs.size(); ++i) {
            Candidate candidate;
            candidate.spec = specs[i];
            candidate.label = labels[i];
            report_.candidates.push_back(std::move(candidate));
        }
        report_.text = options.text.string();
        report_.rounds = static_cast<std::size_t>(options.rounds);
        report_.seconds = options.seconds;
    }

    int run() {
        measure_quality(); // first, as it is what finds fault with models and text
        measure_speed();
        const std::string drawing = options_.svg ? to_svg(report_, title()) : std::string();
        print(to_markdown(report_));
        if (options_.json) {
            constexpr auto replace = nlohmann::json::error_handler_t::replace;
            replace_file(*options_.json, to_json(report_).dump(1, ' ', false, replace) + "\n");
        }
        if (options_.svg) {
            replace_file(*options_.svg, drawing);
        }
        return success;
    }

private:
    void measure_quality() {
        const gpt2::MappedFile text = gpt2::MappedFile::open(options_.text);
        const auto pool = pool_of(options_.threads);
        std::vector<std::unique_ptr<evaluation::Scorer>> scorers;
        TextComparison job{.reference = nullptr, .candidates = {}, .text = text.text(), .windows = windows_};
        for (Candidate& candidate : report_.candidates) {
            scorers.push_back(std::make_unique<evaluation::Scorer>(
                candidate.spec.load(pool),
                gpt2::SessionOptions{.pool = pool, .kv_dtype = {}, .profile = {}}));
            candidate.file_bytes = file_bytes(candidate.spec);
            candidate.weight_bytes = scorers.back()->model().bytes_read();
            if (job.reference == nullptr) {
                job.reference = scorers.back().get();
            } else {
                job.candidates.push_back(scorers.back().get());
            }
        }
        report_.isa = std::string(to_string(job.reference->model().isa()));
        report_.threads = pool->size();
        std::vector<evaluation::Comparison> found = compare_on_text(job);
        report_.tokens = found.front().tokens();
        report_.reference_perplexity = found.front().reference_perplexity();
        for (std::size_t i = 0; i < found.size(); ++i) {
            report_.candidates[i + 1].quality = std::move(found[i]);
        }
    }

    /// Round by round, so that all see the same machine.
    void measure_speed() {
        Progress progress;
        const std::size_t models = report_.candidates.size();
        for (std::size_t i = 0; i < report_.rounds * models; ++i) {
            Candidate& candidate = report_.candidates[i % models];
            progress.show(static_cast<double>(i) / static_cast<double>(report_.rounds * models),
                          format("round %zu of %zu, ", i / models + 1, report_.rounds) + candidate.label);
            const Round round = run_round(candidate.spec, options_.threads, options_.seconds);
            candidate.prefill.push_back(round.prefill);
            candidate.decode.push_back(round.decode);
            candidate.memory.push_back(round.memory);
        }
    }

    [[nodiscard]] std::string title() const {
        return options_.title.empty() ? report_.candidates.front().spec.path.filename().string()
                                      : options_.title;
    }

    const ReportOptions& options_;
    evaluation::WindowOptions windows_;
    Report report_;
};

} // namespace

Command add_report(CLI::App& app) {
    const auto o = std::make_shared<ReportOptions>();
    CLI::App* const command =
        app.add_subcommand("report", "Size, memory, speed and quality of models side by side");
    command
        ->add_option("models", o->models,
                     "Models of the same vocabulary, the reference first. A single one without formats\n"
                     "stands for itself in all formats")
        ->type_name("MODEL")
        ->required()
        ->expected(1, -1)
        ->take_all();
    command->add_option("--text", o->text, "A file of text")->type_name("FILE")->required();
    command->add_flag("--all-formats", o->all_formats,
                      "Take the first MODEL rounded to float32 (the reference), float16, bfloat16, int8,\n"
                      "int4/int8 and int4/int4 while loading, before the others");
    o->windows.add_to(*command);
    add_threads(*command, o->threads);
    command
        ->add_option("--rounds", o->rounds,
                     "Rounds of measuring speed and memory, each model in a process of its own\n"
                     "(default: 5); 0 leaves them out")
        ->type_name("N")
        ->transform(integer<std::int64_t>());
    command->add_option("--seconds", o->seconds, "Of each measurement of speed (default: 0.3)")
        ->type_name("S")
        ->transform(number());
    command->add_option("--json", o->json, "Write all figures there")->type_name("FILE");
    command->add_option("--svg", o->svg, "Draw KL divergence against decoding speed there")
        ->type_name("FILE");
    command->add_option("--title", o->title, "Of the drawing (default: the first file's name)")
        ->type_name("TEXT");
    return {command, [o] { return ReportRun(*o).run(); }};
}
