// SPDX-License-Identifier: MIT
#include "common/command_line.hpp"
#include "common/line_reader.hpp"
#include "common/terminal.hpp"
#include "gpt2_generate/attention_page.hpp"
#include "gpt2_generate/jobs.hpp"
#include "gpt2_generate/options.hpp"
#include "gpt2_generate/report.hpp"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

// gpt2-generate: continues a text on the command line. See --help.

namespace {

enum Status { success = 0, failure = 1, usage = 2, signalled = 128 };

/// The default model: below the current directory, below one that this program is in, or installed.
std::filesystem::path find_model() {
    const std::filesystem::path name = std::filesystem::path("models") / "novella-f16.safetensors";
    std::error_code ignored;
    if (std::filesystem::exists(name, ignored)) {
        return name;
    }
    for (std::filesystem::path directory = program_directory(); !directory.empty();
         directory = directory.parent_path()) {
        for (const std::filesystem::path& found : {directory / name, directory / "share" / "gpt2" / name}) {
            if (std::filesystem::exists(found, ignored)) {
                return found;
            }
        }
        if (directory == directory.root_path()) {
            break;
        }
    }
    throw UsageError("found no models/novella-f16.safetensors in the current directory or above the program; "
                     "name a model with --model PATH");
}

std::string prompt_from(const Options& options) {
    if (options.prompt) {
        return *options.prompt;
    }
    if (options.prompt_file && *options.prompt_file != "-") {
        return read_file(*options.prompt_file);
    }
    if (!options.prompt_file && standard_input_is_terminal()) {
        throw UsageError("no prompt: give it as an argument, with --prompt-file or on standard input, or use "
                         "--interactive (an empty one is \"\"; see --help)");
    }
    return read_standard_input();
}

gpt2::LoadOptions load_options(const Options& options, const std::shared_ptr<gpt2::ThreadPool>& pool) {
    gpt2::LoadOptions out;
    out.pool = pool;
    out.residency = options.huge_pages ? gpt2::Residency::huge_pages : gpt2::Residency::mapped;
    out.screen_head = options.screen_head;
    out.weights = weight_type(options.weights);
    out.head = weight_type(options.head_weights);
    return out;
}

/// What makes proposals: the assistant model, if there is one.
std::shared_ptr<const gpt2::Drafter> make_assistant(const Options& options,
                                                    const std::shared_ptr<gpt2::ThreadPool>& pool) {
    if (!options.assistant_model) {
        return nullptr;
    }
    gpt2::LoadOptions how;
    how.pool = pool;
    how.residency = options.huge_pages ? gpt2::Residency::huge_pages : gpt2::Residency::mapped;
    how.weights = weight_type(options.assistant_weights);
    return std::make_shared<gpt2::DraftModel>(gpt2::Gpt2Model::load(*options.assistant_model, how));
}

/// The threads that the options ask for, this one among them.
std::shared_ptr<gpt2::ThreadPool> make_pool(const Options& options) {
    if (!options.processors.empty()) {
        auto pool = std::make_shared<gpt2::ThreadPool>(options.processors.size(), options.processors);
        gpt2::bind_this_thread(options.processors.front());
        return pool;
    }
    return options.threads ? std::make_shared<gpt2::ThreadPool>(static_cast<std::size_t>(*options.threads))
                           : gpt2::ThreadPool::process_wide();
}

/// Writes texts from prompts with one model.
class Writer {
public:
    Writer(const Options& options, const std::filesystem::path& directory)
        : options_(options), pool_(make_pool(options)), start_(Clock::now()),
          model_(gpt2::Gpt2Model::load(directory, load_options(options, pool_))),
          config_(options.generation) {
        machine_ = {.model = directory.string(),
                    .weights = options.weights.empty() ? "as in the file" : options.weights,
                    .kv_dtype = {},
                    .isa = std::string(gpt2::to_string(model_.isa())),
                    .threads = pool_->size(),
                    .load_seconds = std::chrono::duration<double>(Clock::now() - start_).count(),
                    .weight_bytes = model_.bytes_read(),
                    .screen_head = options.screen_head};
        if (options.profile || options.profile_trace) {
            profile_ = std::make_shared<gpt2::Profile>();
        }
        if (options.original && !options.length) {
            const std::size_t n = model_.config().n_positions; // an empty prompt takes one
            config_.max_new_tokens = static_cast<std::int64_t>(options.unconditional ? n - 1 : n / 2);
        }
        config_.assistant_model = make_assistant(options, pool_);
        config_.num_assistant_tokens = options.num_assistant_tokens;
        resolve(options.words, model_.tokenizer(), config_);
        gpt2::validate(config_, model_.config());
        if (options.screen_head && !screening_helps()) {
            throw UsageError(
                "--screen-head is set but has no effect: what chooses the tokens needs all logits "
                "(see docs/generation.md)");
        }
        if (config_.do_sample && config_.temperature != 0.0f && !config_.seed) {
            config_.seed = gpt2::fresh_seed(); // one for all texts
        }
    }

    /// Prints what was checked. @throws gpt2::Error for what is wrong
    void verify() const {
        const gpt2::Verification found = model_.verify(pool_);
        std::ostringstream out;
        out << machine_.model << ": all weights are finite";
        if (found.has_self_test) {
            out << ", the checksum is right, logits are within " << found.largest_difference
                << " of the self-test's (" << found.bound << " is the most that rounding explains)\n";
        } else {
            out << " (a Hugging Face directory has no checksum and no self-test)\n";
        }
        print(out.str());
    }

    /// What --profile and --profile-trace asked for.
    void write_profile() const {
        if (options_.profile) {
            std::cerr << profile_->table();
        }
        if (options_.profile_trace) {
            std::ostringstream trace;
            profile_->write_chrome_trace(trace);
            write_file(*options_.profile_trace, trace.str());
        }
    }

    /// @returns 0, or the signal that ended it early
    int write(std::string_view prompt) {
        gpt2::SessionOptions how = session_options();
        std::shared_ptr<gpt2::Recorder> recorder;
        if (options_.attention_page) {
            recorder = std::make_shared<gpt2::Recorder>(gpt2::Recorder::What{.attention = true});
            how.observer = recorder;
        }
        gpt2::Session session = options_.load_session
                                    ? gpt2::Session::restore(model_, *options_.load_session, how)
                                    : gpt2::Session(model_, how);
        loaded_ = session.position();
        const std::vector<gpt2::TokenId> tokens = context(session, prompt);
        if (options_.attention_page) {
            require_page(tokens.size());
        }
        machine_.kv_dtype = to_string(session.kv_dtype());
        if (config_.num_return_sequences > 1 || config_.num_beams > 1) {
            return write_together(prompt, tokens, how, 0, config_.num_return_sequences);
        }
        const std::int64_t n = options_.n.value_or(1);
        for (std::int64_t i = 0; i < n || n == 0; i += options_.batch_size) {
            const std::uint64_t number = options_.generation.sample + static_cast<std::uint64_t>(i);
            int signal = 0;
            if (options_.batch_size == 1) {
                announce(i + 1, n);
                signal = write_one(session, prompt, tokens, number);
            } else {
                config_.sample = number;
                config_.num_return_sequences = options_.batch_size;
                signal = write_together(prompt, tokens, how, i, n);
                config_.num_return_sequences = 1;
            }
            if (signal != 0) {
                return signal;
            }
        }
        if (options_.original && !options_.unconditional && !options_.json) {
            print(std::string(80, '=') + "\n");
        }
        if (options_.attention_page) {
            write_file(*options_.attention_page,
                       attention_page(machine_.model, model_.config(), model_.tokenizer(), session.tokens(),
                                      *recorder));
        }
        return 0;
    }

    /// The texts of --jobs. @returns the status of the program
    [[nodiscard]] int write_jobs() const {
        const JobsOutcome outcome = run_jobs(options_, model_, session_options());
        if (outcome.n_failed > 0) {
            std::cerr << "gpt2-generate: error: " << outcome.n_failed << " of " << outcome.n_jobs
                      << " jobs failed; their lines say why in \"error\"\n";
        }
        return outcome.signal != 0 ? signalled + outcome.signal : outcome.n_failed > 0 ? failure : success;
    }

private:
    using Clock = std::chrono::steady_clock;

    [[nodiscard]] gpt2::SessionOptions session_options() const {
        gpt2::SessionOptions how{.pool = pool_, .kv_dtype = {}, .profile = profile_};
        if (options_.kv_dtype != "auto") {
            how.kv_dtype = options_.kv_dtype == "float16" ? gpt2::KvDtype::float16 : gpt2::KvDtype::float32;
        }
        return how;
    }

    /// Texts at once, each printed when all are complete.
    /// @param first  number of the first among all @p n
    int write_together(std::string_view prompt, const std::vector<gpt2::TokenId>& tokens,
                       const gpt2::SessionOptions& how, std::int64_t first, std::int64_t n) {
        std::vector<gpt2::GenerationResult> results;
        int signal = 0;
        const bool has_beams = config_.num_beams > 1;
        {
            const InterruptScope scope;
            const StopOnSignal stop;
            config_.cancellation = stop.token();
            results = model_.generate_batch(std::span(&tokens, 1), config_, {}, how);
            signal = InterruptScope::signal();
        }
        for (std::size_t i = 0; i < results.size(); ++i) {
            announce(first + static_cast<std::int64_t>(i) + 1, n);
            Sample sample{.prompt = prompt,
                          .prompt_tokens = tokens.size(),
                          .number = config_.sample + (has_beams ? 0 : i),
                          .interrupted =
                              signal != 0 && results[i].finish_reason == gpt2::FinishReason::cancelled,
                          .result = std::move(results[i]),
                          .context = tokens};
            if (options_.echo) {
                print(prompt);
            }
            if (!options_.json) {
                print(sample.result.text);
            }
            report(sample);
        }
        return signal;
    }

    /// The line before a text.
    void announce(std::int64_t i, std::int64_t n) const {
        if (options_.json) {
            return;
        }
        if (options_.original) {
            const std::string bar(40, '=');
            print(bar + " SAMPLE " + std::to_string(i) + " " + bar + "\n");
        } else if (n > 1) {
            print("=== " + std::to_string(i) + " of " + std::to_string(n) + " ===\n");
        }
    }

    static void write_file(const std::filesystem::path& path, std::string_view text) {
        std::ofstream file(path, std::ios::binary | std::ios::trunc);
        file << text;
        if (!file.flush()) {
            throw gpt2::FileError("cannot write \"" + path.string() + '"');
        }
    }

    void require_page(std::size_t prompt_tokens) const {
        const std::size_t most = most_tokens_of_page(model_.config());
        const std::size_t n = prompt_tokens + static_cast<std::size_t>(config_.max_new_tokens);
        if (n > most) {
            throw UsageError("--attention-html: expected at most " + std::to_string(most) +
                             " tokens of this model, found a prompt of " + std::to_string(prompt_tokens) +
                             " and --max-new-tokens " + std::to_string(config_.max_new_tokens));
        }
    }

    /// All tokens before the text.
    [[nodiscard]] std::vector<gpt2::TokenId> context(const gpt2::Session& session,
                                                     std::string_view prompt) const {
        if (session.position() == 0) {
            return model_.encode_prompt(prompt);
        }
        std::vector<gpt2::TokenId> tokens(session.tokens().begin(), session.tokens().end());
        const std::vector<gpt2::TokenId> more = model_.tokenizer().encode(prompt);
        tokens.insert(tokens.end(), more.begin(), more.end());
        return tokens;
    }

    [[nodiscard]] bool screening_helps() const {
        return gpt2::Sampler(config_, {.size = model_.config().vocab_size, .eos = gpt2::TokenId{0}})
            .candidates()
            .has_value();
    }

    int write_one(gpt2::Session& session, std::string_view prompt, std::span<const gpt2::TokenId> tokens,
                  std::uint64_t number) {
        Sample sample{.prompt = prompt, .prompt_tokens = tokens.size(), .number = number, .result = {}};
        // What the session holds of the prompt, from the text before or from a file, need not be read again,
        // but for the last token, whose logits are needed.
        const auto held = session.tokens();
        const auto same = std::mismatch(tokens.begin(), tokens.end(), held.begin(), held.end()).first;
        auto known = static_cast<std::size_t>(same - tokens.begin());
        if (config_.prompt_logprobs) { // all that the user gave, each time
            known = options_.load_session ? std::min(known, loaded_) : 0;
        }
        sample.prompt_was_read = known == tokens.size();
        session.truncate(std::min(known, tokens.size() - 1));
        sample.context = tokens;
        config_.sample = config_.do_sample ? number : 0;
        if (options_.echo) {
            print(prompt);
        }
        int signal = 0;
        {
            const InterruptScope scope;
            const StopOnSignal stop;
            config_.cancellation = stop.token();
            sample.result = session.generate(tokens.subspan(session.position()), config_, callback());
            signal = InterruptScope::signal();
        }
        sample.interrupted = signal != 0;
        report(sample);
        if (options_.save_session) {
            save(session, sample.result);
        }
        return signal;
    }

    /// With the last token, which no pass has read.
    void save(gpt2::Session& session, const gpt2::GenerationResult& result) const {
        if (!result.tokens.empty()) {
            session.forward(std::span(result.tokens).last(1));
        }
        session.save(*options_.save_session);
    }

    [[nodiscard]] gpt2::StreamCallback callback() const {
        return [this](const gpt2::GeneratedToken& token) {
            if (!options_.json && !token.text.empty()) {
                print(options_.show_probabilities ? coloured(token.text, *token.logprob)
                                                  : std::string(token.text));
            }
            return gpt2::Flow::proceed;
        };
    }

    void report(const Sample& sample) const {
        if (options_.json) {
            print(json_line(machine_, sample, options_.stats));
            return;
        }
        print("\n");
        if (options_.show_probabilities) {
            std::cerr << colours_text();
        }
        if (options_.logprobs || config_.top_logprobs > 0 || config_.prompt_logprobs) {
            print(logprobs_text(sample, model_.tokenizer()));
        }
        if (options_.stats) {
            std::cerr << stats_text(machine_, sample);
        }
    }

    const Options& options_;
    std::shared_ptr<gpt2::ThreadPool> pool_;
    Clock::time_point start_;
    gpt2::Gpt2Model model_;
    gpt2::GenerationConfig config_;
    Machine machine_;
    std::size_t loaded_ = 0;                 ///< tokens of the session before the prompt
    std::shared_ptr<gpt2::Profile> profile_; ///< of all texts; null if nobody wants it
};

/// Prompts line by line. At a terminal an interrupt ends the text, not the conversation.
int converse(Writer& writer, const Options& options) {
    const bool original = options.original;
    LineReader lines(original ? "Model prompt >>> " : "> ", original ? stdout : stderr, original,
                     !options.no_history);
    while (const std::optional<std::string> line = lines.next()) {
        if (original && line->empty()) {
            print("Prompt should not be empty!\n");
            continue;
        }
        try {
            if (const int signal = writer.write(*line); signal != 0 && !standard_input_is_terminal()) {
                return signalled + signal;
            }
        } catch (const gpt2::ContextError& e) { // the next prompt may be shorter
            std::cerr << "gpt2-generate: error: " << e.what() << '\n';
        }
    }
    return success;
}

int run(int argc, char** argv) {
    const std::optional<Options> options = parse(argc, argv);
    if (!options) {
        return success;
    }
    const bool without =
        options->interactive || options->verify || options->unconditional || options->jobs.has_value();
    const std::string prompt = without ? std::string() : prompt_from(*options);
    Writer writer(*options, options->model ? *options->model : find_model());
    if (options->verify) {
        writer.verify();
        return success;
    }
    if (options->jobs) {
        const int status = writer.write_jobs();
        writer.write_profile();
        return status;
    }
    if (options->interactive) {
        const int status = converse(writer, *options);
        writer.write_profile();
        return status;
    }
    const int signal = writer.write(prompt);
    writer.write_profile();
    return signal == 0 ? success : signalled + signal;
}

int complain(const std::exception& e, int status) {
    std::cerr << "gpt2-generate: error: " << e.what() << '\n';
    return status;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const UsageError& e) {
        return complain(e, usage);
    } catch (const gpt2::OptionError& e) {
        return complain(e, usage);
    } catch (const std::exception& e) {
        return complain(e, failure);
    }
}
