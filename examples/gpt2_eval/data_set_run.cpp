// SPDX-License-Identifier: MIT
#include "data_set_run.hpp"

#include "../common/command_line.hpp"
#include "../common/progress.hpp"
#include "../common/terminal.hpp"
#include "../common/usage_error.hpp"
#include "command.hpp"
#include "format.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <chrono>
#include <cstddef>
#include <fstream>
#include <limits>
#include <memory>
#include <vector>

namespace evaluation = gpt2::evaluation;

namespace {

std::string line_of(const nlohmann::ordered_json& json) {
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// --details: a line of JSON for each example.
class DetailsFile {
public:
    explicit DetailsFile(const std::filesystem::path& path)
        : path_(path), out_(path, std::ios::binary | std::ios::trunc) {
        check();
    }

    void write(const nlohmann::ordered_json& json) {
        out_ << line_of(json);
        check();
    }

    void close() {
        out_.close();
        check();
    }

private:
    void check() const {
        if (!out_) {
            throw gpt2::FileError("cannot write " + gpt2::detail::quoted(path_.string(), 4096));
        }
    }

    std::filesystem::path path_;
    std::ofstream out_;
};

/// One run over a data set.
class DataSetRun {
public:
    DataSetRun(const DataSetOptions& options, const DataSetTask& task)
        : options_(options), task_(task), spec_(options.model.spec()),
          file_(gpt2::MappedFile::open(options.file)), lines_(file_.text(), options.file.string()),
          limit_(limit_of(options)), pool_(pool_of(options.model.threads)),
          scorer_(spec_.load(pool_), {.pool = pool_, .kv_dtype = {}, .profile = {}}) {
        if (options.details) {
            details_.emplace(*options.details);
        }
    }

    int run() {
        const auto start = Clock::now();
        const int signal = score();
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        if (details_) {
            details_->close();
        }
        if (signal != 0) {
            return signalled + signal;
        }
        if (count_ == 0) {
            throw gpt2::FormatError(gpt2::detail::quoted(options_.file.string(), 4096) +
                                    ": expected at least one example, found none");
        }
        print(options_.json ? json_of(seconds) : text_of(seconds));
        return success;
    }

private:
    using Clock = std::chrono::steady_clock;

    [[nodiscard]] static std::size_t limit_of(const DataSetOptions& options) {
        if (options.limit < 0) {
            throw UsageError("--limit is " + std::to_string(options.limit) + ", expected 0 or more");
        }
        return options.limit == 0 ? std::numeric_limits<std::size_t>::max()
                                  : static_cast<std::size_t>(options.limit);
    }

    /// @returns the signal that ended it early, or 0
    int score() {
        const bool plain = task_.read_plain != nullptr && !lines_.are_json();
        const InterruptScope interrupt;
        Progress progress;
        while (InterruptScope::signal() == 0) {
            const auto examples =
                evaluation::next_examples(lines_, plain ? task_.read_plain : task_.read, limit_ - count_);
            if (examples.empty()) {
                return 0;
            }
            const auto scores = evaluation::score_examples(scorer_, examples);
            for (std::size_t i = 0; i < examples.size(); ++i) {
                add(examples[i], scores[i]);
            }
            progress.show(done(), task_.running_value());
        }
        return InterruptScope::signal();
    }

    void add(const evaluation::Example& example, const std::vector<evaluation::ChoiceScore>& scores) {
        nlohmann::ordered_json found = task_.add(example, scores);
        if (details_) {
            nlohmann::ordered_json line{{"index", count_}, {"line", example.line}};
            line.update(found);
            details_->write(line);
        }
        ++count_;
    }

    [[nodiscard]] double done() const {
        return options_.limit != 0
                   ? static_cast<double>(count_) / static_cast<double>(limit_)
                   : static_cast<double>(lines_.bytes_read()) / static_cast<double>(file_.text().size());
    }

    [[nodiscard]] std::string text_of(double seconds) const {
        return "model        " + spec_.name() + "\ndata         " + options_.file.string() +
               format(": %zu examples\n", count_) + task_.text() +
               format("time         %.2f s, %.1f examples/s\n", seconds,
                      static_cast<double>(count_) / seconds);
    }

    [[nodiscard]] std::string json_of(double seconds) const {
        nlohmann::ordered_json json{
            {"model", spec_.name()}, {"data", options_.file.string()}, {"examples", count_}};
        json.update(task_.json());
        json["seconds"] = seconds;
        return line_of(json);
    }

    const DataSetOptions& options_;
    const DataSetTask& task_;
    ModelSpec spec_;
    gpt2::MappedFile file_;
    evaluation::DataLines lines_;
    std::size_t limit_;
    std::shared_ptr<gpt2::ThreadPool> pool_;
    evaluation::Scorer scorer_;
    std::optional<DetailsFile> details_;
    std::size_t count_ = 0;
};

} // namespace

void DataSetOptions::add_to(CLI::App& app, const std::string& file_help) {
    model.add_to(app);
    app.add_option("file", file, file_help)->type_name("FILE")->required();
    app.add_option("--limit", limit, "Take the first N examples only (default: all)")
        ->type_name("N")
        ->transform(integer<std::int64_t>());
    app.add_option("--details", details, "Write a line of JSON for each example to this file")
        ->type_name("FILE");
    app.add_flag("--json", json, "Print one JSON object");
}

int run_data_set(const DataSetOptions& options, const DataSetTask& task) {
    return DataSetRun(options, task).run();
}

nlohmann::ordered_json scores_of(const evaluation::Example& example,
                                 std::span<const evaluation::ChoiceScore> choices) {
    nlohmann::ordered_json out{{"label", example.label}};
    for (const evaluation::ChoiceScore& choice : choices) {
        out["scores"].push_back(choice.log_probability);
        out["tokens"].push_back(choice.tokens);
        out["characters"].push_back(choice.characters);
    }
    return out;
}
