// SPDX-License-Identifier: MIT
#include "common/command_line.hpp"
#include "common/usage_error.hpp"
#include "gpt2_eval/command.hpp"

#include <gpt2/error.hpp>
#include <gpt2/version.hpp>

#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

// gpt2-eval: how good a model is, and what its compression costs. See --help and docs/evaluation.md.

namespace {

constexpr const char* description = "Measures the quality of GPT-2 models.";

constexpr const char* footer = R"(
A MODEL is the file that convert_weights.py makes or a Hugging Face directory. MODEL:WEIGHTS or
MODEL:WEIGHTS/HEAD rounds it while loading: models/novella-f16.safetensors:int4/int8 has int4 layers and an
int8 output head. Results go to standard output, everything else to standard error.

Status: 0, 1 on failure, 2 for a command line that makes no sense, 3 when `compare` finds a threshold missed,
4 when `perplexity` left off as told, 130 after Ctrl-C. docs/evaluation.md defines every number.

Examples:
  gpt2-eval perplexity gpt2.safetensors wiki.txt --stride 512 --checkpoint wiki.run
  gpt2-eval compare gpt2.safetensors gpt2.safetensors:int8 gpt2.safetensors:int4 --text wiki.txt --max-kl 0.03
  gpt2-eval compare gpt2.safetensors gpt2-int8.safetensors --text wiki.txt --limit 20000 --min-top1 0.98 --json
  gpt2-eval score gpt2.safetensors letter.txt -o letter.html
  gpt2-eval report gpt2.safetensors --text wiki.txt --svg quality.svg
  gpt2-eval lambada gpt2.safetensors lambada_test.jsonl
  gpt2-eval choice gpt2.safetensors hellaswag_val.jsonl --harness --details hellaswag.out
  gpt2-eval cloze gpt2.safetensors cbt.jsonl --limit 100)";

/// @returns the command that was asked for, or nothing after --help
const Command* parse(CLI::App& app, const std::vector<Command>& commands, int argc, char** argv) {
    try {
        app.parse(with_dashes(argc, argv));
    } catch (const CLI::Success& asked) {
        app.exit(asked);
        return nullptr;
    } catch (const CLI::ParseError& e) {
        throw UsageError(std::string(e.what()) + " (see --help)");
    }
    for (const Command& command : commands) {
        if (command.app->parsed()) {
            return &command;
        }
    }
    throw UsageError("expected a command (see --help)");
}

int run(int argc, char** argv) {
    CLI::App app(description, "gpt2-eval");
    app.footer(footer);
    app.set_version_flag("--version", std::string("gpt2-eval ") + gpt2::version_string);
    app.formatter(std::make_shared<Formatter>());
    app.get_formatter()->column_width(30);
    app.option_defaults()->take_last();
    app.require_subcommand(0, 1);
    const std::vector<Command> commands{add_perplexity(app), add_compare(app),     add_lambada(app),
                                        add_choice(app),     add_cloze(app),       add_score(app),
                                        add_report(app),     add_report_round(app)};
    const Command* const command = parse(app, commands, argc, argv);
    return command == nullptr ? success : command->run();
}

int complain(const std::exception& e, int status) {
    std::cerr << "gpt2-eval: error: " << e.what() << '\n';
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
