// SPDX-License-Identifier: MIT
#include "options.hpp"

#include "../common/command_line.hpp"

#include <gpt2/generation_checks.hpp>
#include <gpt2/presets.hpp>
#include <gpt2/version.hpp>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <system_error>

namespace {

constexpr const char* drawing = "Drawing";

constexpr const char* description = "Continues a text with a GPT-2 model.";

constexpr const char* footer = R"(
The prompt is the argument, the file, or standard input when that is no terminal; one line end at the end of
a file or of standard input is left out. An empty prompt lets the model begin. The text goes to standard
output as it is made, everything else to standard error.

Tokens are drawn at random: with temperature 0.8 and top-k 40 if no option of the group Drawing is given, else
with those that are. --greedy, or temperature 0, takes the most probable one. docs/generation.md has the formula
of each option.
Names may also be written with underscores: --top_k, --max_new_tokens.

Ctrl-C ends the text and keeps what was produced; a second one kills the program. Status: 0, 1 on failure,
2 for a command line that makes no sense, 130 after Ctrl-C.

Examples:
  gpt2-generate "There was once a poor woodcutter who"
  gpt2-generate --seed 42 --max-new-tokens 200 --stop "The End" "It was a dark and stormy night, and"
  gpt2-generate --model gpt2-medium --weights float16 --stats < prompt.txt
  gpt2-generate --n 3 --json --logprobs "Once upon a time" | jq .text
  gpt2-generate --num-return-sequences 8 --max-new-tokens 20 "Once upon a time"
  gpt2-generate --num-beams 5 --no-repeat-ngram-size 3 "Once upon a time"
  gpt2-generate --penalty-alpha 0.6 --top-k 4 "Once upon a time"
  gpt2-generate -s 42 -n 1 --top_k=40 --top_p=1 -l 100 --temperature 1)";

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
    app.add_option("--load-session", o.load_session,
                   "Go on from a session that --save-session wrote, with the same model;\nthe prompt, which "
                   "may be empty, comes after it")
        ->type_name("FILE")
        ->excludes("--interactive");
    app.add_option("--save-session", o.save_session,
                   "Write prompt and text to a file from which --load-session goes on")
        ->type_name("FILE")
        ->excludes("--interactive");
    app.add_option("-n,--n,--nsamples", o.n, "Number of texts to write from the prompt (default 1)")
        ->type_name("N")
        ->transform(integer<std::int64_t>());
    app.add_option("--batch-size", o.batch_size,
                   "How many of them at once, printed when all of these are complete (default 1)")
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
        ->excludes("--load-session")
        ->excludes("--save-session")
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
    add("--max-new-tokens", g.max_new_tokens, "N", "At most so many new tokens (default 100)")
        ->transform(whole);
    add("--min-new-tokens", g.min_new_tokens, "N", "The model does not end the text before N tokens")
        ->transform(whole);
    add("--max-time", g.max_time, "SECONDS", "End each text after so many seconds (default: no limit)")
        ->transform(number());
    auto* greedy = app.add_flag("--greedy")->description("Always take the most probable token")->group(group);
    app.add_flag("--do-sample")
        ->description("Draw tokens at random; the default")
        ->group(group)
        ->excludes(greedy);
    add("--penalty-alpha", g.penalty_alpha, "A",
        "Contrastive search: of the --top-k most probable tokens the one with the largest\n"
        "(1 - A) * probability - A * likeness to the text so far (0 to 1; draws nothing)")
        ->transform(number());
    add("--guidance-scale", g.guidance_scale, "G",
        "Above 1: keep away from how the text would go on after --negative-prompt")
        ->transform(number());
    add("--negative-prompt", o.words.negative_prompt, "TEXT",
        "A text, or ids with commas (default: the last token of the prompt)")
        ->needs("--guidance-scale");
    add("-s,--seed", g.seed, "SEED", "The same seed gives the same text, everywhere (default: a new one)")
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
    add("--overflow", o.overflow, "HOW",
        "A text longer than the context is an error (default), goes on with the last half\nof the context in "
        "mind (slide), or the prompt loses its begin (truncate_left)")
        ->transform(choice({{"error", "error"},
                            {"slide", "slide"},
                            {"truncate_left", "truncate_left"},
                            {"truncate-left", "truncate_left"}},
                           "error, slide or truncate_left"));
}

/// What only matters when a token is drawn.
void add_drawing(CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)->type_name(type)->group(drawing)->excludes("--greedy");
    };
    const auto real = number();
    add("--temperature", g.temperature, "T", "Divide the logits by T; below 1 safer, above 1 wilder")
        ->transform(real);
    add("--top-k", g.top_k, "K", "Draw from the K most probable tokens; 0: from all")
        ->transform(integer<std::int64_t>());
    add("--top-p", g.top_p, "P", "Draw from the most probable tokens that hold the share P, 0 to 1")
        ->transform(real);
    add("--min-p", g.min_p, "P", "Draw from tokens at least P times as probable as the first, 0 to 1")
        ->transform(real);
    add("--typical-p", g.typical_p, "P", "Draw from the tokens of expected surprise that hold the share P")
        ->transform(real);
    add("--epsilon-cutoff", g.epsilon_cutoff, "P", "Draw from tokens at least as probable as P")
        ->transform(real);
    add("--eta-cutoff", g.eta_cutoff, "P", "The same, with less than P where many tokens are possible")
        ->transform(real);
    add("--top-n-sigma", g.top_n_sigma, "N",
        "Draw from tokens at most N standard deviations of the logits below the first")
        ->transform(real);
    add("--xtc-probability", o.xtc.probability, "P",
        "With the chance P exclude the most probable tokens (default 0.5 with the next)")
        ->transform(real);
    add("--xtc-threshold", o.xtc.threshold, "P", "These are all from P up, but the last (default 0.1)")
        ->transform(real);
    app.add_flag("--mirostat")
        ->description("Choose how many tokens to draw from by the surprise of the text")
        ->group(drawing)
        ->excludes("--greedy");
    add("--mirostat-tau", o.mirostat.tau, "BITS", "Aim at this surprise a token (default 5)")
        ->transform(real);
    add("--mirostat-eta", o.mirostat.eta, "RATE", "How fast it is corrected (default 0.1)")->transform(real);
}

void add_penalties(CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)->type_name(type)->group("Against repetition");
    };
    const auto whole = integer<std::int64_t>();
    const auto real = number();
    add("--repetition-penalty", g.repetition_penalty, "R",
        "Make tokens of prompt and text less probable; 1 does nothing")
        ->transform(real);
    add("--presence-penalty", g.presence_penalty, "A", "Subtract A from the logits of these tokens")
        ->transform(real);
    add("--frequency-penalty", g.frequency_penalty, "A", "Subtract A for each time that they occur")
        ->transform(real);
    add("--penalty-last-n", g.penalty_last_n, "N", "These three look at the last N tokens (default: all)")
        ->transform(whole);
    add("--no-repeat-ngram-size", g.no_repeat_ngram_size, "N", "No N tokens in a row come a second time")
        ->transform(whole);
    add("--dry-multiplier", o.dry.multiplier, "M",
        "Subtract M * BASE^(L - LENGTH) from what would continue a repetition of\nL >= LENGTH tokens "
        "(default 0.8 with one of the next)")
        ->transform(real);
    add("--dry-base", o.dry.base, "BASE", "(default 1.75)")->transform(real);
    add("--dry-allowed-length", o.dry.allowed_length, "LENGTH", "(default 2)")->transform(whole);
    add("--dry-penalty-last-n", o.dry.penalty_last_n, "N", "Look for it in the last N tokens (default: all)")
        ->transform(whole);
    add("--dry-sequence-breaker", o.dry_breakers, "TEXT",
        "No repetition reaches over TEXT; may be given several times\n"
        "(default: line end, colon, quotation mark and asterisk)")
        ->allow_extra_args(false)
        ->take_all();
}

void add_words(CLI::App& app, Options& o) {
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)
            ->type_name(type)
            ->group("Tokens of one's choice (TOKEN: its id, or its text; TEXT: any, or ids with commas)");
    };
    const auto add_list = [&](const char* name, std::vector<std::string>& list, const char* type,
                              const char* help) {
        add(name, list, type, help)->allow_extra_args(false)->take_all();
    };
    add_list("--bad-words", o.words.bad_words, "TEXT", "Never write TEXT, nor after a space; repeatable");
    add_list("--suppress-tokens", o.words.suppress_tokens, "TOKEN", "Never write TOKEN; repeatable");
    add_list("--begin-suppress-tokens", o.words.begin_suppress_tokens, "TOKEN",
             "Do not begin with TOKEN; repeatable");
    add("--forced-bos-token-id", o.words.forced_bos_token, "TOKEN",
        "Begin with TOKEN, after an empty prompt");
    add("--forced-eos-token-id", o.words.forced_eos_token, "TOKEN", "The last of --max-new-tokens is TOKEN");
    add_list("--logit-bias", o.words.logit_bias, "TOKEN=BIAS", "Add BIAS to a logit; repeatable");
    add_list("--sequence-bias", o.words.sequence_bias, "TEXT=BIAS",
             "Add BIAS where TEXT may be completed; repeatable");
    add("--exponential-decay-length-penalty", o.words.exponential_decay, "N,FACTOR",
        "After N tokens make the end of the text FACTOR times as likely, again and again");
}

/// As another program does it; what else is given changes it.
void add_preset(CLI::App& app, Options& o) {
    const std::string group = "Generation";
    app.add_option_function<std::string>(
           "--preset",
           [&o](const std::string& name) {
               const std::int64_t n = o.generation.max_new_tokens;
               o.generation = gpt2::preset(name);
               o.generation.max_new_tokens = n;
           },
           "Choose tokens as another program: openai, huggingface or llama.cpp")
        ->type_name("NAME")
        ->group(group);
    app.add_option_function<std::string>(
           "--processor-order",
           [&o](const std::string& list) { o.generation.processor_order = CLI::detail::split(list, ','); },
           "The order of all that is set, by the names of the options with underscores")
        ->type_name("NAME,..")
        ->group(group);
    app.add_option("--top-k-ties", o.top_k_ties, "What top-k does with equals of the last (default keep)")
        ->type_name("keep|cut")
        ->group(group)
        ->transform(choice({{"keep", "keep"}, {"cut", "cut"}}, "keep or cut"));
    app.add_option("--top-p-rule", o.top_p_rule,
                   "Whether top-p takes the token that crosses the share (default reach)")
        ->type_name("reach|within")
        ->group(group)
        ->transform(choice({{"reach", "reach"}, {"within", "within"}}, "reach or within"));
}

/// As the scripts of https://github.com/openai/gpt-2, interactive_conditional_samples.py and
/// generate_unconditional_samples.py. Each of their own options brings their way of choosing tokens; what
/// else is given changes that.
void add_original(CLI::App& app, Options& o) {
    const std::string group =
        "As the original GPT-2's scripts (each of these: --preset openai, their prompts and banners)";
    const auto begin = [&o] {
        if (!o.original) {
            const std::int64_t n = o.generation.max_new_tokens;
            o.original = true;
            o.generation = gpt2::preset("openai");
            o.generation.max_new_tokens = n;
        }
    };
    app.add_option_function<std::int64_t>(
           "-l,--length",
           [&o, begin](const std::int64_t& n) {
               begin();
               o.length = n;
           },
           "New tokens of each text\n(default: half of the context; with --unconditional all of it)")
        ->type_name("N")
        ->group(group)
        ->transform(integer<std::int64_t>());
    app.add_option_function<std::string>(
           "--model-name",
           [&o, begin](const std::string& name) {
               begin();
               o.model_name = name;
           },
           "The model is this file or folder (default 124M) ...")
        ->type_name("NAME")
        ->group(group)
        ->excludes("--model");
    app.add_option_function<std::string>(
           "--models-dir",
           [&o, begin](const std::string& folder) {
               begin();
               o.models_dir = folder;
           },
           "... in this folder (default models)")
        ->type_name("FOLDER")
        ->group(group)
        ->excludes("--model");
    app.add_flag_callback(
           "--unconditional",
           [&o, begin] {
               begin();
               o.unconditional = true;
           },
           "Write texts without a prompt, until Ctrl-C or --nsamples")
        ->group(group)
        ->excludes("prompt")
        ->excludes("--prompt-file")
        ->excludes("--interactive");
}

/// Several texts at once, and beams.
void add_sequences(CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)
            ->type_name(type)
            ->group("Several texts at once, printed when all are complete");
    };
    const auto whole = integer<std::int64_t>();
    add("--num-return-sequences", g.num_return_sequences, "N",
        "As --n, in much less time for all of them; with beams the N best")
        ->transform(whole)
        ->excludes("--n");
    add("--num-beams", g.num_beams, "N",
        "Follow N texts and take the most probable one. Nothing is drawn then, except with\n"
        "--do-sample or an option of the group Drawing")
        ->transform(whole)
        ->excludes("--n");
    add("--length-penalty", g.length_penalty, "P",
        "The score is the log-probability / length^P (default 1); more for longer texts")
        ->transform(number());
    add("--early-stopping", o.early_stopping, "false|true|never",
        "With N complete texts, end when a better one is unlikely (false, default), at\n"
        "once (true), or when none can come (never)")
        ->transform(
            choice({{"false", "false"}, {"true", "true"}, {"never", "never"}}, "false, true or never"));
    add("--num-beam-groups", g.num_beam_groups, "G", "Divide the beams into G groups that differ")
        ->transform(whole);
    add("--diversity-penalty", g.diversity_penalty, "D",
        "Subtract D for each beam of an earlier group that chooses the same token")
        ->transform(number());
}

void add_speculation(CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)
            ->type_name(type)
            ->group("Speculation (the same text, sooner if the proposals are good; docs/speculation.md)");
    };
    const auto whole = integer<std::int64_t>();
    add("--prompt-lookup-num-tokens", g.prompt_lookup_num_tokens, "N",
        "Propose N tokens that followed the last ones before")
        ->transform(whole);
    add("--max-matching-ngram-size", g.max_matching_ngram_size, "N", "Look up the last N at most (default 2)")
        ->needs("--prompt-lookup-num-tokens")
        ->transform(whole);
    add("--assistant-model", o.assistant_model, "PATH",
        "Let this model propose, which is smaller and has the same vocabulary")
        ->excludes("--prompt-lookup-num-tokens");
    add("--assistant-weights", o.assistant_weights, "FORMAT",
        "Format of its weights in memory, as --weights; with int4 a model may assist itself")
        ->needs("--assistant-model")
        ->transform(weight_type_name());
    add("--num-assistant-tokens", o.num_assistant_tokens, "N", "So many at a time (default 5)")
        ->needs("--assistant-model")
        ->transform(whole);
}

void add_output(CLI::App& app, Options& o) {
    const std::string group = "Output";
    app.add_flag("--echo", o.echo, "Print the prompt before the text")->group(group);
    app.add_flag("--json", o.json, "Print one JSON object for each text, on one line, when it is complete")
        ->group(group)
        ->excludes("--echo");
    app.add_flag("--logprobs", o.logprobs, "Print the log-probability of each token")->group(group);
    app.add_flag("--show-probabilities", o.show_probabilities,
                 "Colour each token by its probability, from green to red")
        ->group(group)
        ->excludes("--json");
    app.add_option("--attention-html", o.attention_page,
                   "Write a page that shows which tokens each token looked at")
        ->type_name("FILE")
        ->group(group)
        ->excludes("--interactive")
        ->excludes("--load-session");
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

/// Whether one of the options was given.
bool any_given(const CLI::App& app, std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return app.count(name) > 0; });
}

/// A converted file or a Hugging Face directory, where the original has its checkpoint.
std::filesystem::path original_model(const std::filesystem::path& folder, const std::string& name) {
    const std::filesystem::path path = folder / name;
    std::filesystem::path file = path;
    file += ".safetensors";
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored) && !std::filesystem::exists(file, ignored)) {
        throw UsageError("found neither " + path.string() + " nor " + file.string() +
                         "; tools/convert_weights.py makes the latter of an original checkpoint");
    }
    return std::filesystem::exists(file, ignored) ? file : path;
}

/// Options of several parts.
void complete_processors(const CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    if (any_given(app, {"--dry-multiplier", "--dry-base", "--dry-allowed-length", "--dry-penalty-last-n",
                        "--dry-sequence-breaker"})) {
        g.dry = o.dry;
        if (!o.dry_breakers.empty()) {
            g.dry->sequence_breakers = o.dry_breakers;
        }
    }
    if (any_given(app, {"--xtc-probability", "--xtc-threshold"})) {
        g.xtc = o.xtc;
    }
    if (any_given(app, {"--mirostat", "--mirostat-tau", "--mirostat-eta"})) {
        g.mirostat = o.mirostat;
    }
    if (!o.top_k_ties.empty()) {
        g.top_k_ties = o.top_k_ties == "cut" ? gpt2::sampling::TopKTies::cut : gpt2::sampling::TopKTies::keep;
    }
    if (!o.top_p_rule.empty()) {
        g.top_p_rule =
            o.top_p_rule == "within" ? gpt2::sampling::TopPRule::within : gpt2::sampling::TopPRule::reach;
    }
}

/// What the original's options mean together.
void complete_original(const CLI::App& app, Options& o) {
    if (app.count("--preset") > 0) {
        throw UsageError(
            "--preset is given beside an option of the original's scripts, which are the preset openai "
            "(--length, --model-name, --models-dir, --unconditional); expected one of them");
    }
    if (o.length) {
        o.generation.max_new_tokens = *o.length;
    } else if (app.count("--max-new-tokens") > 0) {
        o.length = o.generation.max_new_tokens;
    }
    if (!o.model_name.empty() || !o.models_dir.empty()) {
        o.model = original_model(o.models_dir.empty() ? "models" : o.models_dir,
                                 o.model_name.empty() ? "124M" : o.model_name);
    }
    const bool has_prompt = o.prompt || o.prompt_file || o.unconditional || o.verify;
    o.interactive = !has_prompt;
    if (o.unconditional && !o.n) {
        o.n = 0;
    }
}

/// What the options mean together.
void complete(const CLI::App& app, Options& o) {
    gpt2::GenerationConfig& g = o.generation;
    g.overflow = o.overflow == "slide"           ? gpt2::Overflow::slide
                 : o.overflow == "truncate_left" ? gpt2::Overflow::truncate_left
                                                 : gpt2::Overflow::error;
    const bool is_contrastive = gpt2::sampling::is_contrastive(g);
    g.do_sample = is_contrastive ? app.count("--do-sample") > 0 : app.count("--greedy") == 0;
    g.logprobs = o.logprobs || o.show_probabilities;
    complete_processors(app, o);
    if (!o.early_stopping.empty()) {
        using gpt2::sampling::EarlyStopping;
        g.early_stopping = o.early_stopping == "true"    ? EarlyStopping::on
                           : o.early_stopping == "never" ? EarlyStopping::never
                                                         : EarlyStopping::off;
    }
    const auto options =
        app.get_options([](const CLI::Option* option) { return option->get_group() == drawing; });
    const bool none_given = std::all_of(options.begin(), options.end(),
                                        [](const CLI::Option* option) { return option->count() == 0; });
    if (g.num_beams > 1 && none_given && !any_given(app, {"--do-sample", "--preset"})) {
        g.do_sample = false;
    }
    if (g.do_sample && none_given && app.count("--preset") == 0 && !o.original) {
        g.temperature = 0.8f;
        g.top_k = 40;
    }
    if (o.original) {
        complete_original(app, o);
    }
    if (const std::int64_t least = o.unconditional ? 0 : 1; o.n.value_or(least) < least) {
        throw UsageError("--n is " + std::to_string(*o.n) + ", expected " + std::to_string(least) +
                         " or more");
    }
    if (o.batch_size < 1 || o.n.value_or(1) % o.batch_size != 0) {
        throw UsageError("--batch-size is " + std::to_string(o.batch_size) +
                         ", expected a number that divides --n, " + std::to_string(o.n.value_or(1)));
    }
    if (o.threads && *o.threads < 1) {
        throw UsageError("--threads is " + std::to_string(*o.threads) + ", expected 1 or more");
    }
    if (o.num_assistant_tokens && *o.num_assistant_tokens < 1) {
        throw UsageError("--num-assistant-tokens is " + std::to_string(*o.num_assistant_tokens) +
                         ", expected 1 or more");
    }
    if (o.n > 1 && (!g.do_sample || g.temperature == 0.0f)) {
        throw UsageError(
            "--n " + std::to_string(*o.n) +
            " would write the same text every time: with --greedy or --temperature 0 nothing is drawn");
    }
    if (o.save_session && o.n.value_or(1) != 1) {
        throw UsageError("--n is " + std::to_string(*o.n) +
                         ", expected 1 with --save-session, which writes one session");
    }
    if (o.interactive && (o.save_session || o.load_session)) { // as the original's scripts are
        throw UsageError(std::string(o.save_session ? "--save-session" : "--load-session") +
                         " needs a prompt on the command line or in a file, but prompts are asked for");
    }
    if (g.num_return_sequences > 1 || g.num_beams > 1 || o.batch_size > 1) {
        for (const char* const name : {"--screen-head", "--load-session", "--save-session",
                                       "--attention-html", "--show-probabilities"}) {
            if (app.count(name) > 0) {
                throw UsageError(
                    std::string(name) +
                    " is for one text at a time, expected none of --num-return-sequences, --num-beams and "
                    "--batch-size");
            }
        }
    }
    if (o.screen_head && is_contrastive) {
        throw UsageError(
            "--screen-head is set but has no effect with --penalty-alpha, which needs all logits");
    }
    if (o.screen_head && (g.logprobs || (g.do_sample && g.temperature != 0.0f && g.top_k.value_or(0) == 0))) {
        throw UsageError("--screen-head is set but has no effect: all logits are needed with --logprobs, and "
                         "without --top-k or --greedy");
    }
    if (o.attention_page && (o.interactive || o.n.value_or(1) != 1)) {
        throw UsageError("--attention-html shows one text, but " + (o.interactive
                                                                        ? std::string("prompts are asked for")
                                                                        : "--n is " + std::to_string(*o.n)));
    }
    if (o.attention_page && o.overflow == "slide") {
        throw UsageError("--attention-html shows positions as they are, but --overflow " + o.overflow +
                         " lets them start again");
    }
    // What needs no model is checked before one is loaded.
    gpt2::Config any;
    any.vocab_size = std::numeric_limits<gpt2::TokenId>::max();
    any.eos_token_id = 0;
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
    add_preset(app, o); // first: what comes after it is set after it
    add_original(app, o);
    add_generation(app, o);
    app.get_option("--preset")->excludes("--greedy");
    app.get_option("--length")->excludes("--max-new-tokens");
    add_drawing(app, o);
    add_penalties(app, o);
    add_words(app, o);
    add_sequences(app, o);
    add_speculation(app, o);
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
