// SPDX-License-Identifier: MIT
#pragma once

#include "../model/validators.hpp"

#include <CLI/CLI.hpp>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// @file
/// The command line of bench-speculation.

namespace gpt2::bench {

struct Options {
    std::vector<std::string> cases = {"text", "imposed"};
    std::filesystem::path model = GPT2_SOURCE_DIR "/models/novella-f16.safetensors";
    std::string size = "124M";
    std::string draft = "novella";
    std::vector<double> rates = {0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0};
    std::vector<std::size_t> proposals = {2, 4, 8};
    std::size_t new_tokens = 96;
    std::size_t threads = 0;
    std::size_t rounds = 5;
    std::filesystem::path json;
    bool quiet = false;
};

namespace detail {

inline constexpr const char* help_text =
    R"(How many times as fast a text comes with speculative decoding, and from which
rate of right proposals on that pays; docs/speculation.md.

Plain runs and others take turns; the factor is that of the same round, reported
is the median over the rounds. Every text is compared with that of the plain run.)";

inline constexpr const char* footer_text =
    R"(
cases:
  text        a trained model writes some texts, greedy and sampled (temperature
              0.8, top_k 40): with prompt lookup, and with itself in int4 as draft
  imposed     a model of random weights, with proposals that are right with a given
              probability: at no cost, and with a draft model that runs for them

examples:
  bench-speculation
  bench-speculation --cases imposed --size 1558M --draft 124M --rounds 3
  bench-speculation --cases text --model gpt2.safetensors --json gpt2.json

exit status: 0, 1 after a failure, 2 for options that are not understood)";

} // namespace detail

/// @returns nothing if everything is done already (--help); the exit status is then in @p status
inline std::optional<Options> parse(int argc, char** argv, int& status) {
    using detail::one_of;
    using detail::within;
    Options options;
    CLI::App app(detail::help_text);
    app.footer(detail::footer_text);
    app.get_formatter()->column_width(24);
    app.name("bench-speculation");
    const std::vector<std::string> sizes = {"124M", "355M", "774M", "1558M", "novella", "tiny"};
    app.add_option("--cases", options.cases, "text, imposed (default: both)")
        ->delimiter(',')
        ->type_name("NAME,..")
        ->check(one_of({"text", "imposed"}));
    app.add_option("--model", options.model, "that writes texts (default: models/novella-f16.safetensors)")
        ->type_name("PATH")
        ->check(CLI::ExistingPath.description(""));
    app.add_option("--size", options.size,
                   "shape of the random model: 124M, 355M, 774M,\n1558M, novella, tiny (default: 124M)")
        ->type_name("NAME")
        ->check(one_of(sizes));
    app.add_option("--draft", options.draft,
                   "shape of its draft, but for the vocabulary\nand the context (default: novella)")
        ->type_name("NAME")
        ->check(one_of(sizes));
    app.add_option("--rates", options.rates,
                   "probabilities that a proposal is right\n(default: 0,0.2,0.4,0.6,0.7,0.8,0.9,1)")
        ->delimiter(',')
        ->type_name("A,..")
        ->check(CLI::Range(0.0, 1.0).description(""));
    app.add_option("--proposals", options.proposals, "tokens proposed for a pass (default: 2,4,8)")
        ->delimiter(',')
        ->type_name("N,..")
        ->check(within(1, 1000));
    app.add_option("--new-tokens", options.new_tokens, "length of the texts (default: 96)")
        ->type_name("N")
        ->check(within(2, 1u << 20));
    app.add_option("--threads", options.threads, "threads (default: 0, one for each usable core)")
        ->type_name("N")
        ->check(within(0, 1024));
    app.add_option("--rounds", options.rounds, "rounds (default: 5)")
        ->type_name("N")
        ->check(within(1, 10000));
    app.add_option("--json", options.json, "write everything there is to know to this file")
        ->type_name("FILE");
    app.add_flag("--quiet", options.quiet, "no progress on standard error");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        status = app.exit(error) == 0 ? 0 : 2;
        return std::nullopt;
    }
    detail::sort_and_unite(options.rates);
    detail::sort_and_unite(options.proposals);
    return options;
}

} // namespace gpt2::bench
