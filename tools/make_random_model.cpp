// SPDX-License-Identifier: MIT

// Writes a model of any GPT-2 shape with random weights, as a Hugging Face directory, so that speed can be
// measured without downloading anything.

#include "byte_vocabulary.hpp"
#include "random_model.hpp"

#include <CLI/CLI.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

namespace {

struct Options {
    std::filesystem::path directory;
    std::filesystem::path vocabulary;
    std::string size = "124M";
    std::optional<std::size_t> vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
    std::string dtype = "f32";
    std::uint64_t seed = 0;
    std::size_t shards = 1;
    bool prefix = false;
    bool separate_head = false;
    bool quiet = false;
};

/// Whether somebody watches standard error.
bool is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stderr)) != 0;
#else
    return isatty(STDERR_FILENO) != 0;
#endif
}

gpt2::Config shape(const Options& options) {
    gpt2::Config config = gpt2::tools::config_by_name(options.size).value();
    config.vocab_size = options.vocab_size.value_or(config.vocab_size);
    config.n_positions = options.n_positions.value_or(config.n_positions);
    config.n_embd = options.n_embd.value_or(config.n_embd);
    config.n_layer = options.n_layer.value_or(config.n_layer);
    config.n_head = options.n_head.value_or(config.n_head);
    config.n_inner = options.n_inner.value_or(4 * config.n_embd);
    config.bos_token_id = config.eos_token_id = static_cast<gpt2::TokenId>(config.vocab_size - 1);
    gpt2::validate(config, "command line");
    return config;
}

void write(const Options& options) {
    const gpt2::Config config = shape(options);
    gpt2::tools::RandomModelOptions how;
    how.dtype = options.dtype == "f16"    ? gpt2::Dtype::F16
                : options.dtype == "bf16" ? gpt2::Dtype::BF16
                                          : gpt2::Dtype::F32;
    how.prefix = options.prefix;
    how.tied = !options.separate_head;
    how.shards = options.shards;
    how.seed = options.seed;
    std::size_t shown = 101;
    const bool show_progress = !options.quiet && is_terminal();
    if (show_progress) {
        how.progress = [&shown](std::size_t written, std::size_t total) {
            const std::size_t percent = 100 * written / total;
            if (percent != shown) {
                shown = percent;
                std::cerr << '\r' << total / 1'000'000 << " MB of weights: " << percent << " %" << std::flush;
            }
        };
    }
    gpt2::tools::write_random_model(options.directory, config, how);
    if (show_progress) {
        std::cerr << '\n';
    }
    if (options.vocabulary.empty()) {
        gpt2::tools::write_byte_vocabulary(options.directory, config);
    } else {
        for (const char* file : {"vocab.json", "merges.txt"}) {
            std::filesystem::copy_file(options.vocabulary / file, options.directory / file,
                                       std::filesystem::copy_options::overwrite_existing);
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app{"Write a GPT-2 model with random weights as a Hugging Face directory."};
    app.add_option("directory", options.directory, "Where to write; made if it does not exist")->required();
    app.add_option("--size", options.size, "The shape to begin with")
        ->capture_default_str()
        ->check(CLI::IsMember({"124M", "355M", "774M", "1558M", "novella", "tiny"}));
    app.add_option("--vocab-size", options.vocab_size, "Instead of the shape's own");
    app.add_option("--n-positions", options.n_positions, "Instead of the shape's own");
    app.add_option("--n-embd", options.n_embd, "Instead of the shape's own");
    app.add_option("--n-layer", options.n_layer, "Instead of the shape's own");
    app.add_option("--n-head", options.n_head, "Instead of the shape's own");
    app.add_option("--n-inner", options.n_inner, "Instead of 4 n_embd");
    app.add_option("--dtype", options.dtype, "The type of the weights")
        ->capture_default_str()
        ->check(CLI::IsMember({"f32", "f16", "bf16"}));
    app.add_option("--seed", options.seed, "Other weights for every number");
    app.add_option("--shards", options.shards, "Files to spread the weights over")
        ->check(CLI::Range(1, 1000));
    app.add_flag("--prefix", options.prefix, "Names begin with transformer.");
    app.add_flag("--separate-head", options.separate_head, "With lm_head.weight of its own");
    app.add_option("--vocabulary", options.vocabulary,
                   "Directory to copy vocab.json and merges.txt from\n"
                   "(default: single bytes, and names for the other ids)")
        ->check(CLI::ExistingDirectory);
    app.add_flag("--quiet", options.quiet, "No progress on standard error");
    CLI11_PARSE(app, argc, argv);
    try {
        write(options);
    } catch (const std::exception& error) {
        std::cerr << "make-random-model: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
