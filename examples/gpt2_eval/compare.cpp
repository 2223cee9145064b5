// SPDX-License-Identifier: MIT
#include "../common/command_line.hpp"
#include "../common/terminal.hpp"
#include "command.hpp"
#include "compare_texts.hpp"
#include "format.hpp"
#include "model_spec.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace evaluation = gpt2::evaluation;

namespace {

/// A bound of the command line on one number of a Comparison.
struct Threshold {
    const char* option;
    const char* help;
    bool is_least; ///< the number may not be less; otherwise not more
    double (*number)(const evaluation::Comparison&);
};

constexpr std::array thresholds{
    Threshold{"--max-kl", "Most mean KL divergence, in nats", false,
              [](const evaluation::Comparison& c) { return c.kl().value; }},
    Threshold{"--max-kl-p99", "Most 99th percentile of the KL divergence, in nats", false,
              [](const evaluation::Comparison& c) {
                  constexpr std::array share{0.99};
                  return c.kl_percentiles(share)[0];
              }},
    Threshold{"--max-perplexity-ratio", "Most candidate's perplexity divided by the reference's", false,
              [](const evaluation::Comparison& c) { return c.perplexity_ratio().value; }},
    Threshold{"--max-probability-change", "Largest change of any token's probability, 0 to 1", false,
              [](const evaluation::Comparison& c) { return c.largest_probability_change(); }},
    Threshold{"--min-top1", "Least share of equal most likely tokens, 0 to 1", true,
              [](const evaluation::Comparison& c) { return c.top1_agreement().value; }},
    Threshold{"--min-top5", "Least share of the five most likely tokens in common, 0 to 1", true,
              [](const evaluation::Comparison& c) { return c.top5_agreement().value; }},
};

struct CompareOptions {
    std::string reference;
    std::vector<std::string> candidates;
    std::filesystem::path text;
    TextOptions windows;
    std::optional<std::int64_t> threads;
    std::optional<std::filesystem::path> cache;
    std::array<std::optional<double>, thresholds.size()> bounds;
    bool json = false;
};

/// What was asked of a candidate and not met: "--max-kl: expected at most 0.001, found 0.0287".
std::vector<std::string> misses(const CompareOptions& options, const evaluation::Comparison& comparison) {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < thresholds.size(); ++i) {
        const Threshold& threshold = thresholds[i];
        if (const auto& bound = options.bounds[i]) {
            const double found = threshold.number(comparison);
            if (!(threshold.is_least ? found >= *bound : found <= *bound)) {
                out.push_back(format("%s: expected at %s %g, found %.6g", threshold.option,
                                     threshold.is_least ? "least" : "most", *bound, found));
            }
        }
    }
    return out;
}

std::string text_of(const std::string& name, const evaluation::Comparison& c) {
    constexpr std::array shares{0.5, 0.9, 0.99, 1.0};
    const auto kl = c.kl_percentiles(shares);
    std::string out = name + "\n";
    out += "  KL divergence       " + format("%.3e ± %.1e nats", c.kl().value, c.kl().standard_error);
    out += format("; median %.2e, 90 %% %.2e, 99 %% %.2e, most %.2e\n", kl[0], kl[1], kl[2], kl[3]);
    out += "  top 1 agreement     " + percent(c.top1_agreement()) + "\n";
    out += "  top 5 agreement     " + percent(c.top5_agreement()) + "\n";
    out += format("  probability change  %.4f at most, ", c.largest_probability_change()) +
           with_error(c.mean_probability_change(), 5) + " on average\n";
    out += "  perplexity          " + with_error(c.candidate_perplexity(), 4) + ", " +
           with_error(c.perplexity_ratio(), 6) + " times the reference's\n";
    return out;
}

class CompareRun {
public:
    explicit CompareRun(const CompareOptions& options)
        : options_(options), pool_(pool_of(options.threads)), file_(gpt2::MappedFile::open(options.text)),
          reference_(ModelSpec::parse(options.reference)) {
        add(reference_);
        for (const std::string& candidate : options.candidates) {
            add(ModelSpec::parse(candidate));
        }
    }

    int run() {
        TextComparison job{.reference = scorers_.front().get(),
                           .candidates = {},
                           .text = file_.text(),
                           .windows = options_.windows.windows()};
        for (std::size_t i = 1; i < scorers_.size(); ++i) {
            job.candidates.push_back(scorers_[i].get());
        }
        if (options_.cache) {
            open_cache(job);
        }
        const auto found = compare_on_text(job);
        if (job.writer) {
            job.writer->finish();
        }
        return options_.json ? print_json(found) : print_text(found);
    }

private:
    void add(const ModelSpec& spec) {
        scorers_.push_back(std::make_unique<evaluation::Scorer>(
            spec.load(pool_), gpt2::SessionOptions{.pool = pool_, .kv_dtype = {}, .profile = {}}));
        names_.push_back(spec.name());
    }

    void open_cache(TextComparison& job) const {
        const gpt2::Gpt2Model& model = job.reference->model();
        const auto identity = identity_of(reference_, model, job.text, job.windows);
        if (std::filesystem::exists(*options_.cache)) {
            job.cached.emplace(*options_.cache, identity, model.config().vocab_size);
        } else {
            job.writer = std::make_unique<LogitsWriter>(*options_.cache, identity);
        }
    }

    [[nodiscard]] bool has_thresholds() const {
        return std::ranges::any_of(options_.bounds, [](const auto& bound) { return bound.has_value(); });
    }

    int print_text(const std::vector<evaluation::Comparison>& found) const {
        std::string out = "reference             " + names_[0] + "\n  perplexity          " +
                          with_error(found[0].reference_perplexity(), 4) +
                          format(" on %llu tokens\n", static_cast<unsigned long long>(found[0].tokens()));
        bool good = true;
        for (std::size_t i = 0; i < found.size(); ++i) {
            out += text_of(names_[i + 1], found[i]);
            const auto missed_here = misses(options_, found[i]);
            for (const std::string& miss : missed_here) {
                out += "  missed              " + miss + "\n";
            }
            if (has_thresholds()) {
                out +=
                    std::string("  verdict             ") + (missed_here.empty() ? "good\n" : "not good\n");
            }
            good = good && missed_here.empty();
        }
        print(out);
        return good ? success : missed;
    }

    int print_json(const std::vector<evaluation::Comparison>& found) const {
        nlohmann::ordered_json out{{"reference", names_[0]}, {"text", options_.text.string()}};
        bool good = true;
        for (std::size_t i = 0; i < found.size(); ++i) {
            nlohmann::ordered_json candidate{{"model", names_[i + 1]}};
            candidate.update(to_json(found[i]));
            candidate["missed"] = misses(options_, found[i]);
            good = good && candidate["missed"].empty();
            out["candidates"].push_back(candidate);
        }
        if (has_thresholds()) {
            out["good"] = good;
        }
        print(out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
        return good ? success : missed;
    }

    const CompareOptions& options_;
    std::shared_ptr<gpt2::ThreadPool> pool_;
    gpt2::MappedFile file_;
    ModelSpec reference_;
    std::vector<std::unique_ptr<evaluation::Scorer>> scorers_; ///< the reference's first
    std::vector<std::string> names_;
};

} // namespace

Command add_compare(CLI::App& app) {
    const auto o = std::make_shared<CompareOptions>();
    CLI::App* const command = app.add_subcommand("compare", "How far models are from a reference on a text");
    command->add_option("reference", o->reference, "The model that is right")->type_name("REF")->required();
    command->add_option("candidates", o->candidates, "Models of the same vocabulary")
        ->type_name("CANDIDATE")
        ->required()
        ->expected(1, -1)
        ->take_all();
    command->add_option("--text", o->text, "A file of text")->type_name("FILE")->required();
    o->windows.add_to(*command);
    add_threads(*command, o->threads);
    command
        ->add_option("--cache-logits", o->cache,
                     "Keep the reference's logits in this file, or take them from it: 4 bytes for each\n"
                     "token of the text and of the vocabulary. For the same model, text and options only")
        ->type_name("FILE");
    for (std::size_t i = 0; i < thresholds.size(); ++i) {
        command->add_option(thresholds[i].option, o->bounds[i], thresholds[i].help)
            ->type_name("X")
            ->transform(number())
            ->group("Thresholds (status 3 if a candidate misses one)");
    }
    command->add_flag("--json", o->json, "Print one JSON object");
    return {command, [o] { return CompareRun(*o).run(); }};
}
