// SPDX-License-Identifier: MIT
#include "common/command_line.hpp"
#include "common/terminal.hpp"
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
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

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
            std::ofstream file(*options_.profile_trace, std::ios::binary | std::ios::trunc);
            profile_->write_chrome_trace(file);
            if (!file.flush()) {
                throw gpt2::FileError("cannot write \"" + options_.profile_trace->string() + '"');
            }
        }
    }

    /// @returns 0, or the signal that ended it early
    int write(std::string_view prompt) {
        const std::vector<gpt2::TokenId> tokens = model_.encode_prompt(prompt);
        gpt2::SessionOptions how{.pool = pool_, .kv_dtype = {}, .profile = profile_};
        if (options_.kv_dtype != "auto") {
            how.kv_dtype = options_.kv_dtype == "float16" ? gpt2::KvDtype::float16 : gpt2::KvDtype::float32;
        }
        gpt2::Session session(model_, how);
        machine_.kv_dtype = to_string(session.kv_dtype());
        for (std::int64_t i = 0; i < options_.n; ++i) {
            if (!options_.json && options_.n > 1) {
                print("=== " + std::to_string(i + 1) + " of " + std::to_string(options_.n) + " ===\n");
            }
            if (const int signal = write_one(session, prompt, tokens,
                                             options_.generation.sample + static_cast<std::uint64_t>(i))) {
                return signal;
            }
        }
        return 0;
    }

private:
    using Clock = std::chrono::steady_clock;

    [[nodiscard]] bool screening_helps() const {
        return gpt2::Sampler(config_, {.size = model_.config().vocab_size, .eos = gpt2::TokenId{0}})
            .candidates()
            .has_value();
    }

    int write_one(gpt2::Session& session, std::string_view prompt, std::span<const gpt2::TokenId> tokens,
                  std::uint64_t number) {
        Sample sample{.prompt = prompt, .prompt_tokens = tokens.size(), .number = number, .result = {}};
        // Keys and values of the prompt are those of the text before, but for its last token, whose logits
        // are needed; unless that text slid out of the context.
        const auto held = session.tokens();
        sample.prompt_was_read =
            held.size() >= tokens.size() && std::equal(tokens.begin(), tokens.end(), held.begin());
        session.truncate(sample.prompt_was_read ? tokens.size() - 1 : 0);
        config_.sample = config_.do_sample ? number : 0;
        if (options_.echo) {
            print(prompt);
        }
        int signal = 0;
        {
            const InterruptScope scope;
            sample.result = session.generate(tokens.subspan(session.position()), config_, callback());
            signal = InterruptScope::signal();
        }
        sample.interrupted = signal != 0;
        report(sample);
        return signal;
    }

    [[nodiscard]] gpt2::StreamCallback callback() const {
        return [this](const gpt2::GeneratedToken& token) {
            if (!options_.json && !token.text.empty()) {
                print(token.text);
            }
            return InterruptScope::signal() != 0 ? gpt2::Flow::stop : gpt2::Flow::proceed;
        };
    }

    void report(const Sample& sample) const {
        if (options_.json) {
            print(json_line(machine_, sample, options_.stats));
            return;
        }
        print("\n");
        if (config_.logprobs) {
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
    std::shared_ptr<gpt2::Profile> profile_; ///< of all texts; null if nobody wants it
};

/// Prompts line by line. At a terminal an interrupt ends the text, not the conversation.
int converse(Writer& writer) {
    const bool ask = standard_input_is_terminal();
    for (std::string line;;) {
        if (ask) {
            std::cerr << "> " << std::flush;
        }
        if (!std::getline(std::cin, line)) {
            if (ask) {
                std::cerr << '\n';
            }
            return std::cin.bad() ? failure : success;
        }
        if (line.ends_with('\r')) {
            line.pop_back();
        }
        try {
            if (const int signal = writer.write(line); signal != 0 && !ask) {
                return signalled + signal;
            }
        } catch (const gpt2::ContextError& e) { // the next prompt may be shorter
            std::cerr << "gpt2-generate: error: " << e.what() << '\n';
        }
    }
}

int run(int argc, char** argv) {
    const std::optional<Options> options = parse(argc, argv);
    if (!options) {
        return success;
    }
    const std::string prompt =
        options->interactive || options->verify ? std::string() : prompt_from(*options);
    Writer writer(*options, options->model ? *options->model : find_model());
    if (options->verify) {
        writer.verify();
        return success;
    }
    if (options->interactive) {
        const int status = converse(writer);
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
