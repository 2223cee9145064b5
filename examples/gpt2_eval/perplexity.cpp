// SPDX-License-Identifier: MIT
#include "../common/command_line.hpp"
#include "../common/progress.hpp"
#include "../common/terminal.hpp"
#include "../common/usage_error.hpp"
#include "checkpoint.hpp"
#include "command.hpp"
#include "format.hpp"
#include "model_spec.hpp"

#include <gpt2/evaluation/perplexity.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

namespace evaluation = gpt2::evaluation;

namespace {

struct PerplexityOptions {
    ModelOptions model;
    std::filesystem::path text;
    TextOptions windows;
    std::optional<std::filesystem::path> checkpoint;
    std::optional<std::int64_t> stop_after;
    bool json = false;
};

struct Found {
    std::string model;
    std::string text;
    evaluation::TextScore score;
    std::uint64_t new_tokens = 0; ///< of this run
    double seconds = 0.0;
    bool complete = false;
};

std::string text_of(const Found& found) {
    const evaluation::TextScore& s = found.score;
    std::string out = "model        " + found.model + "\n";
    out += "text         " + found.text +
           format(": %llu bytes, %llu words, %llu tokens scored in %llu windows%s\n",
                  static_cast<unsigned long long>(s.bytes), static_cast<unsigned long long>(s.words),
                  static_cast<unsigned long long>(s.nll.count), static_cast<unsigned long long>(s.windows),
                  found.complete ? "" : " so far");
    out += "nll          " + with_error(s.nll.estimate(), 5) + " nats per token\n";
    out += "perplexity   " + with_error(s.perplexity(), 4) + " per token\n";
    out += "             " + with_error(s.word_perplexity(), 2) + " per word\n";
    out += "bits         " + with_error(s.bits_per_byte(), 5) + " per byte\n";
    out += format("time         %.2f s, %.0f tokens/s\n", found.seconds,
                  static_cast<double>(found.new_tokens) / found.seconds);
    return out;
}

std::string json_of(const Found& found) {
    const evaluation::TextScore& s = found.score;
    const nlohmann::ordered_json json{{"model", found.model},
                                      {"text", found.text},
                                      {"complete", found.complete},
                                      {"tokens", s.nll.count},
                                      {"words", s.words},
                                      {"bytes", s.bytes},
                                      {"windows", s.windows},
                                      {"total_nll", s.nll.total()},
                                      {"nll", to_json(s.nll.estimate())},
                                      {"perplexity", to_json(s.perplexity())},
                                      {"word_perplexity", to_json(s.word_perplexity())},
                                      {"bits_per_byte", to_json(s.bits_per_byte())},
                                      {"seconds", found.seconds}};
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// One run over a text, or the rest of one.
class PerplexityRun {
public:
    PerplexityRun(const PerplexityOptions& options, const ModelSpec& spec)
        : options_(options), text_(gpt2::MappedFile::open(options.text)),
          pool_(pool_of(options.model.threads)),
          scorer_(spec.load(pool_), {.pool = pool_, .kv_dtype = {}, .profile = {}}),
          windows_(options.windows.windows()) {
        if (options.checkpoint) {
            checkpoint_.emplace(*options.checkpoint,
                                identity_of(spec, scorer_.model(), text_.text(), windows_));
            found_.score = checkpoint_->load();
        }
        found_.model = spec.name();
        found_.text = options.text.string();
    }

    int run() {
        const auto start = Clock::now();
        const std::uint64_t tokens_before = found_.score.nll.count;
        const int signal = score_windows();
        found_.new_tokens = found_.score.nll.count - tokens_before;
        found_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
        if (checkpoint_) {
            checkpoint_->save(found_.score);
        }
        if (signal != 0) {
            return signalled + signal;
        }
        if (found_.score.nll.count == 0) {
            throw gpt2::FormatError(gpt2::detail::quoted(found_.text, 4096) +
                                    ": expected at least one token to score, found none");
        }
        print(options_.json ? json_of(found_) : text_of(found_));
        return found_.complete ? success : unfinished;
    }

private:
    using Clock = std::chrono::steady_clock;

    /// @returns the signal that ended it early, or 0
    int score_windows() {
        evaluation::SlidingWindows windows(scorer_.model(), text_.text(), windows_, found_.score.windows);
        const std::uint64_t first_window = found_.score.windows;
        const InterruptScope interrupt;
        Progress progress;
        auto saved = Clock::now();
        while (InterruptScope::signal() == 0) {
            if (options_.stop_after &&
                found_.score.windows - first_window >= static_cast<std::uint64_t>(*options_.stop_after)) {
                return 0;
            }
            if (!evaluation::score_next(scorer_, windows, found_.score)) {
                found_.complete = true;
                return 0;
            }
            progress.show(done(), format("perplexity %.3f", found_.score.perplexity().value));
            if (checkpoint_ && Clock::now() - saved > std::chrono::seconds(10)) {
                checkpoint_->save(found_.score);
                saved = Clock::now();
            }
        }
        return InterruptScope::signal();
    }

    [[nodiscard]] double done() const {
        const evaluation::TextScore& s = found_.score;
        return windows_.limit != 0 ? static_cast<double>(s.nll.count) / static_cast<double>(windows_.limit)
                                   : static_cast<double>(s.bytes) / static_cast<double>(text_.text().size());
    }

    const PerplexityOptions& options_;
    gpt2::MappedFile text_;
    std::shared_ptr<gpt2::ThreadPool> pool_;
    evaluation::Scorer scorer_;
    evaluation::WindowOptions windows_;
    std::optional<Checkpoint> checkpoint_;
    Found found_;
};

} // namespace

Command add_perplexity(CLI::App& app) {
    const auto o = std::make_shared<PerplexityOptions>();
    CLI::App* const command = app.add_subcommand("perplexity", "How well a model foresees a text");
    o->model.add_to(*command);
    command->add_option("text", o->text, "A file of text, of any size")->type_name("TEXT")->required();
    o->windows.add_to(*command);
    auto* const checkpoint =
        command
            ->add_option("--checkpoint", o->checkpoint,
                         "Keep what was found so far in this file, every ten seconds and after Ctrl-C, and\n"
                         "go on from it; the result is that of one run. For the same model, text and\n"
                         "options only")
            ->type_name("FILE");
    command
        ->add_option("--stop-after", o->stop_after,
                     "Leave off after N windows, or a few more that share a pass, with status 4")
        ->type_name("N")
        ->transform(integer<std::int64_t>())
        ->needs(checkpoint);
    command->add_flag("--json", o->json, "Print one JSON object");
    return {command, [o] {
                if (o->stop_after && *o->stop_after < 1) {
                    throw UsageError("--stop-after is " + std::to_string(*o->stop_after) +
                                     ", expected 1 or more");
                }
                return PerplexityRun(*o, o->model.spec()).run();
            }};
}
