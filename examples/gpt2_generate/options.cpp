// SPDX-License-Identifier: MIT
#include "options.hpp"

#include "../common/command_line.hpp"

#include <gpt2/version.hpp>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>

namespace {

constexpr const char* description = "Continues a text with a GPT-2 model.";

constexpr const char* footer = R"(
The prompt is the argument, the file, or standard input when that is no terminal; one line end at the end of
a file or of standard input is left out. An empty prompt lets the model begin. The text goes to standard
output as it is made, everything else to standard error.

Tokens are drawn at random: with temperature 0.8 and top-k 40 if none of --temperature, --top-k, --top-p and
--min-p is given, else with those that are. --greedy, or temperature 0, takes the most probable one.
Names may also be written with underscores: --top_k, --max_new_tokens.

Ctrl-C ends the text and keeps what was produced; a second one kills the program. Status: 0, 1 on failure,
2 for a command line that makes no sense, 130 after Ctrl-C.

Examples:
  gpt2-generate "There was once a poor woodcutter who"
  gpt2-generate --seed 42 --max-new-tokens 200 --stop "The End" "It was a dark and stormy night, and"
  gpt2-generate --model gpt2-medium --weights float16 --stats < prompt.txt
  gpt2-generate --n 3 --json --logprobs "Once upon a time" | jq .text)";

/// "0,2,3"
std::vector<std::size_t> whole_numbers(const std::string& list) {
    std::vector<std::size_t> numbers;
    for (std::size_t begin = 0; begin <= list.size();) {
        const std::size_t end = std::min(list.find(',', begin), list.size());
        std::string item = list.substr(begin, end - begin);
        if (const std::string problem = integer<std::size_t>()(item); !problem.empty()) {
            throw CLI::ValidationError("--processors", problem);
        }
        numbers.push_back(std::stoull(item));
        begin = end + 1;
    }
    return numbers;
}

void add_input(CLI::App& app, Options& o) {
    app.add_option("prompt", o.prompt, "The text to continue; put -- before one that begins with a dash");
    app.add_option("-f,--prompt-file", o.prompt_file, "Read the prompt from this file; - is standard input")
        ->type_name("FILE")
        ->excludes("prompt");
    app.add_flag("-i,--interactive", o.interactive,
                 "Ask for prompts, one a line, until end of input (Ctrl-D)")
        ->excludes("prompt")
        ->excludes("--prompt-file");
    app.add_option("-n,--n", o.n, "Number of texts to write from the prompt (default 1)")
        ->type_name("N")
        ->transform(integer<std::int64_t>());
    app.add_option("-m,--model", o.model,
                   "The model: the file that convert_weights.py makes, or a Hugging Face directory\n"
                   "(default: models/novella-f16.safetensors, here or above the program)")
        ->type_name("PATH");
    app.add_flag("--verify", o.verify,
                 "Write no text; check the model: its checksum, that all weights are finite,\n"
                 "and that it gives the logits of its self-test")
        ->excludes("prompt")
        ->excludes("--prompt-file")
        ->excludes("--interactive");
}

void add_generation(CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    const std::string group = "Generation";
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)->type_name(type)->group(group);
    };
    const auto whole = integer<std::int64_t>();
    const auto natural = integer<std::uint64_t>();
    const auto real = number();
    add("--max-new-tokens", g.max_new_tokens, "N", "At most so many new tokens (default 100)")
        ->transform(whole);
    auto* greedy = app.add_flag("--greedy")->description("Always take the most probable token")->group(group);
    app.add_flag("--do-sample")
        ->description("Draw tokens at random; the default")
        ->group(group)
        ->excludes(greedy);
    add("--temperature", g.temperature, "T", "Divide the logits by T; below 1 safer, above 1 wilder")
        ->excludes(greedy)
        ->transform(real);
    add("--top-k", g.top_k, "K", "Draw from the K most probable tokens; 0: from all")
        ->excludes(greedy)
        ->transform(whole);
    add("--top-p", g.top_p, "P", "Draw from the most probable tokens that hold the share P, 0 to 1")
        ->excludes(greedy)
        ->transform(real);
    add("--min-p", g.min_p, "P", "Draw from tokens at least P times as probable as the first, 0 to 1")
        ->excludes(greedy)
        ->transform(real);
    add("--repetition-penalty", g.repetition_penalty, "R",
        "Make tokens of prompt and text less probable; 1 does nothing")
        ->transform(real);
    add("--seed", g.seed, "SEED", "The same seed gives the same text, everywhere (default: a new one)")
        ->excludes(greedy)
        ->transform(natural);
    add("--sample", g.sample, "I", "Number of the first text among those of the seed (default 0)")
        ->excludes(greedy)
        ->transform(natural);
    add("--stop", g.stop_strings, "TEXT",
        "End before this text; may be given several times\n(a line end in bash: --stop $'\\n')")
        ->allow_extra_args(false)
        ->take_all();
    add("--eos-token-id", g.eos_token_id, "ID", "The token that ends the text, instead of the model's")
        ->transform(integer<gpt2::TokenId>());
    app.add_flag("--ignore-eos", g.ignore_eos, "Do not end there")->group(group);
    add("--overflow", o.overflow, "error|slide",
        "A text longer than the context is an error (default),\nor goes on with the last half of the context "
        "in mind")
        ->transform(choice({{"error", "error"}, {"slide", "slide"}}, "error or slide"));
}

void add_output(CLI::App& app, Options& o) {
    const std::string group = "Output";
    app.add_flag("--echo", o.echo, "Print the prompt before the text")->group(group);
    app.add_flag("--json", o.json, "Print one JSON object for each text, on one line, when it is complete")
        ->group(group)
        ->excludes("--echo");
    app.add_flag("--logprobs", o.generation.logprobs, "Print the log-probability of each token")
        ->group(group);
    app.add_flag("--stats", o.stats, "Print times, speed, memory and bandwidth")->group(group);
    app.add_flag("--profile", o.profile, "Print where the time goes, layer by layer")
        ->group(group)
        ->excludes("--verify");
    app.add_option(
           "--profile-trace", o.profile_trace,
           "Write all of it over time to a file that chrome://tracing\nand https://ui.perfetto.dev show")
        ->type_name("FILE")
        ->group(group);
}

void add_machine(CLI::App& app, Options& o) {
    const std::string group = "Machine";
    const std::map<std::string, std::string> kv_names{{"auto", "auto"},
                                                      {"f32", "float32"},
                                                      {"float32", "float32"},
                                                      {"f16", "float16"},
                                                      {"float16", "float16"}};
    app.add_option("--threads", o.threads, "Threads to compute with (default: one for each core)")
        ->type_name("N")
        ->transform(integer<std::int64_t>())
        ->group(group);
    app.add_option_function<std::string>(
           "--processors", [&o](const std::string& list) { o.processors = whole_numbers(list); },
           "Compute on these logical processors (0, 1, ...), a thread bound to each (Linux)")
        ->type_name("N,..")
        ->excludes("--threads")
        ->group(group);
    app.add_option("--weights", o.weights,
                   "Format of the weights in memory: float32 (f32), float16 (f16), bfloat16 "
                   "(bf16),\nint8 or int4, rounded to nearest (default: that of the file)")
        ->transform(weight_type_name())
        ->type_name("FORMAT")
        ->group(group);
    app.add_option(
           "--head-weights", o.head_weights,
           "Format of the output head and the embeddings tied to it\n(default: as --weights, but int8 "
           "where that is int4)")
        ->transform(weight_type_name())
        ->type_name("FORMAT")
        ->group(group);
    app.add_flag(
           "--screen-head", o.screen_head,
           "Screen the output head in int8 and compute exactly only what may be chosen:\nthe same text, "
           "sooner, for more memory and a slower start; with --greedy or top-k,\nwithout --logprobs")
        ->group(group);
    app.add_flag("--huge-pages", o.huge_pages,
                 "Copy the model into memory in huge pages: slower to load, faster to read")
        ->group(group);
    app.add_option("--kv-dtype", o.kv_dtype,
                   "Format of keys and values: float32, float16 or auto (default),\nwhich is float32 with "
                   "float32 weights, else float16")
        ->transform(choice(kv_names, "float32, float16 or auto"))
        ->type_name("FORMAT")
        ->group(group);
}

/// What the options mean together.
void complete(const CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    g.overflow = o.overflow == "slide" ? gpt2::Overflow::slide : gpt2::Overflow::error;
    g.do_sample = app.count("--greedy") == 0;
    if (g.do_sample && !g.temperature && !g.top_k && !g.top_p && !g.min_p) {
        g.temperature = 0.8f;
        g.top_k = 40;
    }
    if (o.n < 1) {
        throw UsageError("--n is " + std::to_string(o.n) + ", expected 1 or more");
    }
    if (o.threads && *o.threads < 1) {
        throw UsageError("--threads is " + std::to_string(*o.threads) + ", expected 1 or more");
    }
    if (o.n > 1 && (!g.do_sample || g.temperature == 0.0f)) {
        throw UsageError(
            "--n " + std::to_string(o.n) +
            " would write the same text every time: with --greedy or --temperature 0 nothing is drawn");
    }
    if (o.screen_head && (g.logprobs || (g.do_sample && g.temperature != 0.0f && g.top_k.value_or(0) == 0))) {
        throw UsageError("--screen-head is set but has no effect: all logits are needed with --logprobs, and "
                         "without --top-k or --greedy");
    }
    // What needs no model is checked before one is loaded.
    gpt2::Config any;
    any.vocab_size = std::numeric_limits<gpt2::TokenId>::max();
    gpt2::validate(g, any);
}

} // namespace

std::optional<Options> parse(int argc, char** argv) {
    Options o;
    o.generation.max_new_tokens = 100;
    CLI::App app(description, "gpt2-generate");
    app.footer(footer);
    app.set_version_flag("--version", std::string("gpt2-generate ") + gpt2::version_string);
    app.formatter(std::make_shared<Formatter>());
    app.get_formatter()->column_width(30);
    app.option_defaults()->take_last();
    add_input(app, o);
    add_generation(app, o);
    add_output(app, o);
    add_machine(app, o);
    try {
        app.parse(with_dashes(argc, argv));
    } catch (const CLI::Success& asked) {
        app.exit(asked);
        return std::nullopt;
    } catch (const CLI::ExtrasError&) {
        const std::string extra = app.remaining().at(0);
        throw UsageError(extra.starts_with('-')
                             ? "unknown option " + extra + " (see --help)"
                             : "found a second prompt, " + gpt2::detail::quoted(extra) +
                                   "; a prompt of several words needs quotes (see --help)");
    } catch (const CLI::ParseError& e) {
        throw UsageError(std::string(e.what()) + " (see --help)");
    }
    complete(app, o);
    return o;
}
