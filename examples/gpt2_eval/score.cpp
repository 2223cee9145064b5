// SPDX-License-Identifier: MIT
#include "../common/command_line.hpp"
#include "../common/progress.hpp"
#include "../common/terminal.hpp"
#include "../common/usage_error.hpp"
#include "command.hpp"
#include "format.hpp"
#include "model_spec.hpp"
#include "output.hpp"
#include "score_writer.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace evaluation = gpt2::evaluation;

namespace {

struct ScoreOptions {
    ModelOptions model;
    std::filesystem::path text;
    TextOptions windows;
    std::string format;
    std::optional<std::filesystem::path> output;
};

/// The one that is named, or that the name of the output ends in.
ScoreFormat format_of(const ScoreOptions& options) {
    std::string name = options.format;
    if (name.empty() && options.output) {
        const std::string extension = options.output->extension().string();
        name = extension == ".html" || extension == ".htm" ? "html" : extension == ".json" ? "json" : "tsv";
    }
    return name == "html" ? ScoreFormat::html : name == "json" ? ScoreFormat::json : ScoreFormat::tsv;
}

/// A file, mapped, or all of standard input.
class Text {
public:
    explicit Text(const std::filesystem::path& path) {
        if (path == "-") {
            input_ = read_input_bytes();
        } else {
            file_ = gpt2::MappedFile::open(path);
        }
    }

    [[nodiscard]] std::string_view bytes() const { return file_ ? file_->text() : input_; }

private:
    std::optional<gpt2::MappedFile> file_;
    std::string input_;
};

class ScoreRun {
public:
    ScoreRun(const ScoreOptions& options, const ModelSpec& spec)
        : name_(options.text == "-" ? "standard input" : options.text.string()), text_(options.text),
          pool_(pool_of(options.model.threads)),
          scorer_(spec.load(pool_), {.pool = pool_, .kv_dtype = {}, .profile = {}}),
          windows_(options.windows.windows()),
          writer_(ScoreWriter::make(format_of(options), {spec.name(), name_}, scorer_.model().tokenizer())) {}

    int run(const std::optional<std::filesystem::path>& path) {
        evaluation::SlidingWindows windows(scorer_.model(), text_.bytes(), windows_);
        std::vector<evaluation::Passage> passages = windows.next();
        if (passages.empty()) {
            throw gpt2::FormatError(gpt2::detail::quoted(name_, 4096) +
                                    ": expected at least one token to score, found none");
        }
        Output output(path);
        std::optional<Progress> progress;
        if (path || !standard_output_is_terminal()) {
            progress.emplace();
        }
        if (!windows_.start_token) {
            add(passages.front().tokens.front(), std::nullopt);
        }
        const InterruptScope interrupt;
        for (; !passages.empty(); passages = windows.next()) {
            score(passages);
            output.write(writer_->take());
            if (progress) {
                progress->show(done(), format("perplexity %.3f", score_.perplexity().value));
            }
            if (InterruptScope::signal() != 0) {
                return signalled + InterruptScope::signal();
            }
        }
        writer_->end(score_);
        output.write(writer_->take());
        output.finish();
        return success;
    }

private:
    void score(std::span<const evaluation::Passage> passages) {
        evaluation::Scorer* const scorer = &scorer_;
        try {
            evaluation::Scorer::run({&scorer, 1}, passages,
                                    [&](std::span<const evaluation::ScoredRows> rows) {
                                        auto details = evaluation::token_details(scorer_, rows[0]);
                                        for (std::size_t i = 0; i < details.size(); ++i) {
                                            const gpt2::TokenId token = rows[0].targets[i];
                                            score_.add(scorer_.model().tokenizer().token_bytes(token),
                                                       -details[i].log_probability);
                                            add(token, std::move(details[i]));
                                        }
                                    });
        } catch (const gpt2::NumericError& e) {
            throw gpt2::NumericError(gpt2::detail::concat("after ", next_.index, " tokens (", next_.offset,
                                                          " bytes) of the text: ", e.what()));
        }
    }

    void add(gpt2::TokenId token, std::optional<evaluation::TokenDetails> details) {
        next_.id = token;
        next_.bytes = scorer_.model().tokenizer().token_bytes(token);
        next_.details = std::move(details);
        writer_->add(next_);
        ++next_.index;
        next_.offset += next_.bytes.size();
    }

    [[nodiscard]] double done() const {
        return windows_.limit != 0
                   ? static_cast<double>(score_.nll.count) / static_cast<double>(windows_.limit)
                   : static_cast<double>(next_.offset) / static_cast<double>(text_.bytes().size());
    }

    std::string name_;
    Text text_;
    std::shared_ptr<gpt2::ThreadPool> pool_;
    evaluation::Scorer scorer_;
    evaluation::WindowOptions windows_;
    std::unique_ptr<ScoreWriter> writer_;
    evaluation::TextScore score_;
    TextToken next_; ///< index and offset of the token that comes
};

} // namespace

Command add_score(CLI::App& app) {
    const auto o = std::make_shared<ScoreOptions>();
    CLI::App* const command = app.add_subcommand("score", "What a model thinks of each token of a text");
    o->model.add_to(*command);
    command->add_option("text", o->text, "A file of text, of any size, or - for standard input")
        ->type_name("TEXT")
        ->required();
    o->windows.add_to(*command);
    command
        ->add_option("--format", o->format,
                     "tsv: a line for each token; json: one object; html: a page that shades each\n"
                     "token by its surprise (default: as FILE ends, else tsv)")
        ->type_name("FORMAT")
        ->transform(choice({{"tsv", "tsv"}, {"json", "json"}, {"html", "html"}}, "tsv, json or html"));
    command->add_option("-o,--output", o->output, "Write there (default: standard output)")
        ->type_name("FILE");
    return {command, [o] { return ScoreRun(*o, o->model.spec()).run(o->output); }};
}
