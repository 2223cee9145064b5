// SPDX-License-Identifier: MIT
#pragma once

#include "../../tools/random_model.hpp"
#include "../machine.hpp"
#include "formats.hpp"
#include "validators.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// @file
/// The command line of bench-model.

namespace gpt2::bench {

struct Options {
    std::filesystem::path model;
    std::vector<std::string> sizes = {"124M"};
    std::vector<std::string> formats; ///< empty: those that make sense
    std::vector<std::string> cases;   ///< empty: all
    std::vector<std::size_t> prompts = {64, 128, 512};
    std::vector<std::size_t> depths = {0, 256, 512, 900};
    std::vector<std::size_t> batches = {2, 4, 8, 16, 32};
    std::size_t busy = 0;
    std::optional<KvDtype> kv_dtype;
    std::size_t threads = 0;
    std::size_t rounds = 7;
    double seconds = 0.3;
    Pages pages = Pages::as_tensors;
    std::string python;
    std::filesystem::path json;
    std::filesystem::path markdown;
    bool quiet = false;
    bool list = false;
};

namespace detail {

inline constexpr const char* help_text =
    R"(Speed of whole models: prefill, decoding at several depths, many sequences in one
pass, a text as a user waits for it, start of a process and its memory. Each
figure stands beside what the machine allows, measured in the same round.

Without --model, models of random weights are made in the temporary directory.
Rounds go through all cases of a model, so that what other users of the machine
do falls on all of them; reported are the median and the range over the rounds.)";

inline constexpr const char* footer_text =
    R"(
cases:
  prefill/64        a prompt of so many tokens, tokens/s; the limit is the rate of
                    float32 multiply-adds
  decode/256        one token after another, from that depth of context on; the
                    limit is the rate at which memory delivers the weights and the
                    KV cache
  batch/16          16 sequences, a token of each in one pass, tokens/s in all; the
                    limit is whichever of the two is lower
  busy/1            decode/0 while so many threads of somebody else compute
  generate/13+87    seconds for 87 tokens after a prompt of 13, top_k 40
  cold-start        milliseconds from the start of a process to its first token,
                    with the prompt of 13; the model is a converted file in the
                    page cache
  memory/13+87      megabytes that this process has in memory after the 87 tokens

examples:
  bench-model
  bench-model --formats f16 --cases decode,prefill/512
  bench-model --size 355M,774M --depths 0,900 --batches 16 --rounds 3
  bench-model --model models/novella-f16.safetensors --json novella.json
  bench-model --cases decode/0,busy --busy 1

exit status: 0, 1 after a failure, 2 for options that are not understood)";

inline std::vector<std::string> format_names() {
    std::vector<std::string> names;
    for (const Format& format : formats()) {
        names.emplace_back(format.name);
    }
    return names;
}

} // namespace detail

inline void add_what_is_measured(CLI::App& app, Options& options) {
    using detail::one_of;
    using detail::within;
    auto* const model = app.add_option("--model", options.model, "a converted file or a directory");
    model->type_name("PATH")->check(CLI::ExistingPath.description(""));
    auto* const size = app.add_option("--size", options.sizes,
                                      "shapes of random models: 124M, 355M, 774M, 1558M, novella,\n"
                                      "tiny (default: 124M)");
    size->delimiter(',')->type_name("NAME,..")->excludes(model);
    size->check(one_of({"124M", "355M", "774M", "1558M", "novella", "tiny"}));
    std::string names;
    for (const std::string& name : detail::format_names()) {
        names += (names.empty() ? "" : ", ") + name;
    }
    auto* const formats = app.add_option("--formats", options.formats,
                                         "formats of the weights: " + names +
                                             "\n(default: all; with --model file: as they are there)");
    formats->delimiter(',')->type_name("NAME,..")->check(one_of(detail::format_names()));
    app.add_option("--cases", options.cases, "only these: whole names, or their parts before the slash")
        ->delimiter(',')
        ->type_name("NAME,..");
    const auto add_numbers = [&app](const std::string& name, std::vector<std::size_t>& numbers,
                                    const std::string& text, const CLI::Validator& valid) {
        app.add_option(name, numbers, text)->delimiter(',')->type_name("N,..")->check(valid);
    };
    add_numbers("--prompts", options.prompts, "lengths of prompts (default: 64,128,512)",
                within(1, 1u << 20));
    add_numbers("--depths", options.depths, "depths to decode at (default: 0,256,512,900)",
                within(0, 1u << 20));
    add_numbers("--batches", options.batches, "sequences in one pass (default: 2,4,8,16,32)",
                within(1, 4096));
    app.add_option("--busy", options.busy, "decode also beside so many busy threads")
        ->type_name("N")
        ->check(within(0, 4096));
}

inline void add_how_it_is_measured(CLI::App& app, Options& options) {
    using detail::one_of;
    using detail::within;
    const auto set_kv_dtype = [&options](const std::string& name) {
        options.kv_dtype = name == "f32"   ? std::optional(KvDtype::float32)
                           : name == "f16" ? std::optional(KvDtype::float16)
                                           : std::nullopt;
    };
    app.add_option_function<std::string>(
           "--kv-dtype", set_kv_dtype,
           "type of the KV cache: auto, f32, f16\n(default: auto, as the library chooses)")
        ->type_name("NAME")
        ->check(one_of({"auto", "f32", "f16"}));
    app.add_option("--threads", options.threads, "threads (default: 0, one for each usable core)")
        ->type_name("N")
        ->check(within(0, 1024));
    app.add_option("--rounds", options.rounds, "rounds (default: 7)")
        ->type_name("N")
        ->check(within(1, 10000));
    app.add_option("--seconds", options.seconds, "for each case in each round (default: 0.3)")
        ->type_name("S")
        ->check(CLI::Range(0.0, 3600.0).description(""));
    const auto set_pages = [&options](const std::string& name) {
        options.pages = name == "huge" ? Pages::huge : Pages::as_tensors;
    };
    app.add_option_function<std::string>("--pages", set_pages,
                                         "what memory the bandwidth is measured with: tensors, huge\n"
                                         "(default: tensors, as the weights have it)")
        ->type_name("NAME")
        ->check(one_of({"tensors", "huge"}));
    app.add_option("--python", options.python,
                   "interpreter with numpy, to convert models for cold-start and\n"
                   "memory (default: python3 or /usr/bin/python3, if it has numpy)")
        ->type_name("PROGRAM");
}

inline void add_output(CLI::App& app, Options& options) {
    app.add_option("--json", options.json, "write everything there is to know to this file")
        ->type_name("FILE");
    app.add_option("--markdown", options.markdown, "write tables to this file")->type_name("FILE");
    app.add_flag("--list", options.list, "print the names of the cases and stop");
    app.add_flag("--quiet", options.quiet, "no progress on standard error");
}

/// @returns nothing if everything is done already (--help); the exit status is then in @p status
inline std::optional<Options> parse(int argc, char** argv, int& status) {
    Options options;
    CLI::App app(detail::help_text);
    app.footer(detail::footer_text);
    app.get_formatter()->column_width(24);
    app.name("bench-model");
    add_what_is_measured(app, options);
    add_how_it_is_measured(app, options);
    add_output(app, options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        status = app.exit(error) == 0 ? 0 : 2;
        return std::nullopt;
    }
    detail::sort_and_unite(options.prompts);
    detail::sort_and_unite(options.depths);
    detail::sort_and_unite(options.batches);
    if (options.formats.empty()) {
        options.formats = detail::format_names();
        std::erase_if(options.formats,
                      [&](const std::string& name) { return (name == "file") == options.model.empty(); });
    } else if (options.model.empty() && std::ranges::count(options.formats, "file") != 0) {
        throw OptionError("--formats file: expected --model, whose format is meant");
    }
    return options;
}

} // namespace gpt2::bench
