// SPDX-License-Identifier: MIT
#include "generation_options.hpp"

#include "../common/command_line.hpp"

#include <gpt2/presets.hpp>
#include <gpt2/sampling/selection.hpp>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace {

constexpr const char* drawing = "Drawing";

void add_generation(CLI::App& app, GenerationOptions& o) {
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
    add("--stop,--stop-strings", g.stop_strings, "TEXT",
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
void add_drawing(CLI::App& app, GenerationOptions& o) {
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

void add_penalties(CLI::App& app, GenerationOptions& o) {
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

void add_words(CLI::App& app, GenerationOptions& o) {
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

/// What the text has to match.
void add_constraint(CLI::App& app, GenerationOptions& o) {
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)
            ->type_name(type)
            ->group("A text that matches, as a whole when the model ends it (docs/constraints.md)");
    };
    add("--regex", o.words.regex, "PATTERN", "This regular expression");
    add("--grammar", o.words.grammar, "TEXT", "This grammar, as llama.cpp's GBNF")->excludes("--regex");
    add("--grammar-file", o.words.grammar_file, "FILE",
        "The grammar in this file, such as examples/grammars/json.gbnf")
        ->excludes("--regex")
        ->excludes("--grammar");
}

/// Several texts at once, and beams.
void add_sequences(CLI::App& app, GenerationOptions& o) {
    gpt2::GenerationConfig& g = o.generation;
    const auto add = [&](const char* name, auto& target, const char* type, const char* help) {
        return app.add_option(name, target, help)
            ->type_name(type)
            ->group("Several texts at once, printed when all are complete");
    };
    const auto whole = integer<std::int64_t>();
    add("--num-return-sequences", g.num_return_sequences, "N",
        "As --n, in much less time for all of them; with beams the N best")
        ->transform(whole);
    add("--num-beams", g.num_beams, "N",
        "Follow N texts and take the most probable one. Nothing is drawn then, except with\n"
        "--do-sample or an option of the group Drawing")
        ->transform(whole);
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

void add_logprobs(CLI::App& app, GenerationOptions& o) {
    const std::string group = "Log-probabilities, as the model has them, before what else is given";
    app.add_flag("--logprobs", o.logprobs, "Print that of each token")->group(group);
    app.add_option("--top-logprobs", o.generation.top_logprobs,
                   "Print those of the N most probable tokens at each place, too")
        ->type_name("N")
        ->group(group)
        ->transform(integer<std::int64_t>());
    app.add_flag("--prompt-logprobs", o.generation.prompt_logprobs, "Print that of each token of the prompt")
        ->group(group);
}

/// Whether one of the options was given.
bool any_given(const CLI::App& app, std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return app.count(name) > 0; });
}

/// Options of several parts.
void complete_processors(const CLI::App& app, GenerationOptions& o) {
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

} // namespace

void add_preset(CLI::App& app, GenerationOptions& o) {
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

void add_generation_options(CLI::App& app, GenerationOptions& o) {
    add_generation(app, o);
    app.get_option("--preset")->excludes("--greedy");
    add_drawing(app, o);
    add_penalties(app, o);
    add_words(app, o);
    add_constraint(app, o);
    add_sequences(app, o);
    add_logprobs(app, o);
}

void complete_generation(const CLI::App& app, GenerationOptions& o, bool original) {
    gpt2::GenerationConfig& g = o.generation;
    g.overflow = o.overflow == "slide"           ? gpt2::Overflow::slide
                 : o.overflow == "truncate_left" ? gpt2::Overflow::truncate_left
                                                 : gpt2::Overflow::error;
    g.do_sample =
        gpt2::sampling::is_contrastive(g) ? app.count("--do-sample") > 0 : app.count("--greedy") == 0;
    g.logprobs = o.logprobs || g.top_logprobs > 0;
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
    if (g.do_sample && none_given && app.count("--preset") == 0 && !original) {
        g.temperature = 0.8f;
        g.top_k = 40;
    }
}

GenerationApp::GenerationApp() : app_(std::make_unique<CLI::App>()) {
    app_->set_help_flag();
    app_->option_defaults()->take_last();
    add_preset(*app_, options_);
    add_generation_options(*app_, options_);
}

GenerationOptions GenerationApp::parse(std::span<const WrittenOption> written) {
    std::vector<std::string> arguments;
    for (const WrittenOption& option : written) {
        const std::string name = "--" + option.name;
        if (option.is_off) {
            continue;
        }
        if (option.values.empty()) {
            arguments.push_back(name);
        }
        for (const std::string& value : option.values) {
            arguments.push_back(name);
            arguments.push_back(value);
        }
    }
    std::ranges::reverse(arguments); // as CLI11 wants them
    app_->parse(std::move(arguments));
    complete_generation(*app_, options_, false);
    return options_;
}

const CLI::Option* GenerationApp::find(const std::string& key) const {
    std::string name = key;
    std::ranges::replace(name, '_', '-');
    return key.find('-') == std::string::npos ? app_->get_option_no_throw("--" + name) : nullptr;
}

std::vector<WrittenOption> GenerationApp::written_in(const CLI::App& app) const {
    std::vector<WrittenOption> out;
    for (const CLI::Option* const known : app_->get_options()) {
        const std::string name = known->get_lnames().front();
        const CLI::Option* const option = app.get_option_no_throw("--" + name);
        if (option != nullptr && option->count() > 0) {
            out.push_back({name, is_flag(*known) ? std::vector<std::string>() : option->results()});
        }
    }
    return out;
}

std::vector<WrittenOption> GenerationApp::overridden(std::span<const WrittenOption> defaults,
                                                     std::vector<WrittenOption> own) const {
    for (WrittenOption& option : own) {
        if (option.is_off && option.name == "do-sample") {
            option = {"greedy", {}};
        }
    }
    std::vector<WrittenOption> out;
    for (const WrittenOption& option : defaults) {
        const auto& excluded = app_->get_option("--" + option.name)->get_excludes();
        if (std::ranges::none_of(own, [&](const WrittenOption& other) {
                return other.name == option.name ||
                       (!other.is_off && excluded.contains(app_->get_option("--" + other.name)));
            })) {
            out.push_back(option);
        }
    }
    out.insert(out.end(), own.begin(), own.end());
    return out;
}

bool is_flag(const CLI::Option& option) {
    return option.get_items_expected_max() == 0;
}

bool takes_several(const CLI::Option& option) {
    return option.get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
}
