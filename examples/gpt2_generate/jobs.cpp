// SPDX-License-Identifier: MIT
#include "jobs.hpp"

#include "../common/format.hpp"
#include "../common/progress.hpp"
#include "../common/terminal.hpp"
#include "job.hpp"
#include "job_output.hpp"
#include "result_json.hpp"

#include <gpt2/io/crc32.hpp>
#include <gpt2/session_file.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

/// A job and its text.
struct Work {
    Job job;
    gpt2::GenerationResult result{};
};

std::string checksum(std::string_view text) {
    return gpt2::detail::hexadecimal(gpt2::detail::crc32(std::as_bytes(std::span(text))));
}

/// What all texts depend on beside their lines: "12345678".
std::string checksum_of(const Options& options, const gpt2::Gpt2Model& model,
                        const gpt2::SessionOptions& how) {
    std::string text = model.identity(how.pool) + ' ' + options.kv_dtype;
    for (const WrittenOption& option : options.written) {
        text += '\n' + option.name;
        for (const std::string& value : option.values) {
            text += '\0' + value;
        }
    }
    return checksum(text);
}

/// How far the jobs are, on standard error.
class JobProgress {
public:
    JobProgress(std::size_t done, std::size_t n) : done_(done), n_(n) {}

    void token() {
        ++tokens_;
        show();
    }
    void line() {
        ++done_;
        show();
    }

private:
    using Clock = std::chrono::steady_clock;

    void show() {
        const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
        progress_.show(static_cast<double>(done_) / static_cast<double>(n_),
                       format("%zu of %zu jobs, %.1f tokens/s", done_, n_,
                              static_cast<double>(tokens_) / std::max(seconds, 1e-3)));
    }

    Progress progress_;
    std::size_t done_;
    std::size_t n_;
    std::size_t tokens_ = 0;
    Clock::time_point start_ = Clock::now();
};

/// Writes the texts of some jobs at a time.
class JobWriter {
public:
    JobWriter(const gpt2::Gpt2Model& model, gpt2::SessionOptions how, std::stop_token end,
              JobProgress* progress)
        : model_(model), how_(std::move(how)), end_(std::move(end)), progress_(progress) {}

    /// Those together that can share forward passes, which changes nothing of them.
    void write(std::span<Work> all) const {
        std::vector<Work*> together;
        for (Work& work : all) {
            gpt2::GenerationConfig& config = work.job.request.config;
            config.cancellation = end_;
            if (!work.job.error.empty()) {
                continue;
            }
            if (config.num_beams > 1 || config.max_time) { // a search, or a time of its own
                write_alone(work);
            } else {
                together.push_back(&work);
            }
        }
        write_together(together);
    }

private:
    void write_together(std::span<Work* const> all) const {
        std::vector<gpt2::BatchRequest> requests;
        for (const Work* const work : all) {
            requests.push_back(work->job.request);
        }
        try {
            auto results = model_.generate_batch(
                requests,
                [this](std::size_t, const gpt2::GeneratedToken&) {
                    count();
                    return gpt2::Flow::proceed;
                },
                how_);
            for (std::size_t i = 0; i < results.size(); ++i) {
                all[i]->result = std::move(results[i]);
            }
        } catch (const gpt2::Error&) { // of one of them, which the others shall not suffer from
            for (Work* const work : all) {
                write_alone(*work);
            }
        }
    }

    void write_alone(Work& work) const {
        try {
            const gpt2::BatchRequest& request = work.job.request;
            const auto results = model_.generate_batch(
                std::span(&request.prompt, 1), request.config,
                [this](std::size_t, const gpt2::GeneratedToken&) {
                    count();
                    return gpt2::Flow::proceed;
                },
                how_);
            work.result = results.front();
        } catch (const gpt2::Error& e) {
            work.job.error = work.job.where + ": " + e.what();
        }
    }

    void count() const {
        if (progress_ != nullptr) {
            progress_->token();
        }
    }

    const gpt2::Gpt2Model& model_;
    gpt2::SessionOptions how_;
    std::stop_token end_;
    JobProgress* progress_;
};

std::string line_of(const Work& work, std::size_t index, const std::string& digest) {
    nlohmann::ordered_json line;
    line["index"] = index;
    if (!work.job.id.is_null()) {
        line["id"] = work.job.id;
    }
    line["digest"] = digest;
    if (work.job.error.empty()) {
        add_result(line, work.result, to_string(work.result.finish_reason), work.job.request.prompt.size(),
                   work.job.request.config.sample);
    } else {
        line["error"] = work.job.error;
    }
    return to_line(line);
}

void require_two_files(const Options& options) {
    std::error_code ignored;
    if (*options.jobs != "-" && options.output != "-" &&
        std::filesystem::equivalent(*options.jobs, options.output, ignored)) {
        throw UsageError("--output is the file of --jobs, expected another: " + options.output);
    }
}

} // namespace

JobsOutcome run_jobs(const Options& options, const gpt2::Gpt2Model& model, const gpt2::SessionOptions& how) {
    require_two_files(options);
    const bool from_input = *options.jobs == "-";
    const std::string text = from_input ? read_input_bytes() : read_file(*options.jobs);
    const std::vector<JobLine> lines = job_lines(text);
    const std::string settings = checksum_of(options, model, how);
    std::vector<std::string> digests;
    for (const JobLine& line : lines) {
        digests.push_back(settings + '-' + checksum(line.text));
    }
    JobOutput output(options.output);
    std::size_t done = 0;
    if (options.overwrite) {
        output.overwrite();
    } else {
        done = output.resume(digests);
    }
    JobsOutcome outcome{.n_failed = output.failed_before(), .n_jobs = lines.size()};
    std::optional<JobProgress> progress;
    if (!output.is_standard_output() || !standard_output_is_terminal()) {
        progress.emplace(done, lines.size());
    }
    const InterruptScope scope;
    const StopOnSignal stop;
    const JobReader reader(model, options.written, from_input ? "standard input" : *options.jobs);
    const JobWriter writer(model, how, stop.token(), progress ? &*progress : nullptr);
    while (done < lines.size() && InterruptScope::signal() == 0) {
        std::vector<Work> some;
        for (std::size_t i = done;
             i < std::min(lines.size(), done + static_cast<std::size_t>(options.batch_size)); ++i) {
            some.push_back({reader.read(lines[i])});
        }
        writer.write(some);
        for (const Work& work : some) {
            if (work.job.error.empty() && work.result.finish_reason == gpt2::FinishReason::cancelled) {
                break; // this and what follows is for the next run
            }
            output.write(line_of(work, done, digests[done]));
            outcome.n_failed += work.job.error.empty() ? 0 : 1;
            ++done;
            if (progress) {
                progress->line();
            }
        }
    }
    outcome.signal = done < lines.size() ? InterruptScope::signal() : 0;
    return outcome;
}
