// SPDX-License-Identifier: MIT
// Constraints: what it costs to make one, the first mask of a state, and a token that is chosen with it, with
// GPT-2's vocabulary, on one thread.
//
//     bench-constraint [--benchmark_...] [directory with vocab.json and merges.txt]
//
// From the root of the repository. `choose` is the sampler alone, greedy, on logits that stay the same;
// beside it `choose/without`, the same without a constraint.

#include <gpt2/constraint.hpp>
#include <gpt2/sampler.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

struct Pattern {
    const char* name;
    bool is_grammar;
    std::string text;
    std::string_view begin; ///< of a text: what follows it is measured
};

std::vector<Pattern> patterns() {
    const std::string json(gpt2::MappedFile::open("examples/grammars/json.gbnf").text());
    return {{"date", false, "\\d{4}-\\d\\d-\\d\\d", "2026-"},
            {"words", false, "[A-Z][a-z]*( [a-z]+)*\\.", "The old"},
            {"any", false, ".*", "The old"},
            {"json-begin", true, json, "{"},
            {"json-string", true, json, "{\"name\": \"The old"},
            {"json-number", true, json, "[1, 23"}};
}

std::shared_ptr<const gpt2::Constraint> make(const Pattern& pattern, const gpt2::Tokenizer& tokenizer,
                                             const gpt2::ConstraintOptions& options) {
    return pattern.is_grammar ? gpt2::Constraint::grammar(pattern.text, tokenizer, options)
                              : gpt2::Constraint::regex(pattern.text, tokenizer, options);
}

std::vector<float> some_logits(std::size_t size) {
    std::vector<float> logits(size);
    for (std::size_t i = 0; i < size; ++i) {
        logits[i] = static_cast<float>(i * 7919 % 10'007) * 1e-3f;
    }
    return logits;
}

void choose(benchmark::State& state, const gpt2::GenerationConfig& config, const gpt2::Tokenizer& tokenizer,
            const std::vector<gpt2::TokenId>& text) {
    gpt2::Sampler sampler(config, {tokenizer.size(), *tokenizer.special_token("<|endoftext|>"), {}});
    for (const gpt2::TokenId token : text) {
        sampler.accept(token);
    }
    const std::vector<float> logits = some_logits(tokenizer.size());
    for (auto _ : state) {
        benchmark::DoNotOptimize(sampler.next(logits, 0.0));
    }
}

void add(const Pattern& pattern, const gpt2::Tokenizer& tokenizer) {
    const std::string name = pattern.name;
    const std::vector<gpt2::TokenId> text = tokenizer.encode(pattern.begin);
    benchmark::RegisterBenchmark(("make/" + name).c_str(), [=](benchmark::State& state) {
        for (auto _ : state) {
            benchmark::DoNotOptimize(make(pattern, tokenizer, {.states_ahead = 0}));
        }
    })->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("mask/" + name).c_str(), [=](benchmark::State& state) {
        gpt2::ConstrainedText constrained(make(pattern, tokenizer, {.cache_bytes = 0})); // forgets each time
        for (auto _ : state) {
            benchmark::DoNotOptimize(&constrained.follow(text));
        }
    })->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("choose/" + name).c_str(), [=](benchmark::State& state) {
        choose(state, {.constraint = make(pattern, tokenizer, {})}, tokenizer, text);
    })->Unit(benchmark::kMicrosecond);
}

} // namespace

int main(int argc, char** argv) {
    try {
        benchmark::Initialize(&argc, argv);
        const auto tokenizer = gpt2::Tokenizer::load(argc > 1 ? argv[1] : "tests/data/tokenizer");
        for (const Pattern& pattern : patterns()) {
            add(pattern, tokenizer);
        }
        benchmark::RegisterBenchmark("choose/without", [=](benchmark::State& state) {
            choose(state, {}, tokenizer, {});
        })->Unit(benchmark::kMicrosecond);
        benchmark::RunSpecifiedBenchmarks();
    } catch (const std::exception& error) {
        std::cerr << "bench-constraint: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
