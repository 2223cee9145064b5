// SPDX-License-Identifier: MIT
// The tokenizer: loading, encoding and decoding, in bytes of text per second on one thread.
//
//     bench-tokenizer [--benchmark_...] [text file] [directory with vocab.json and merges.txt]
//
// Without arguments, from the root of the repository: the held-out prose of tests/data and GPT-2's own
// vocabulary. A text of less than 4 MB is repeated up to there. Repetition flatters whatever the processor
// has cached of earlier words; name a long text to see without.

#include <gpt2/tokenizer.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::size_t text_size = 4'000'000;

std::string repeated(std::string_view text) {
    std::string out(text);
    while (out.size() < text_size && !text.empty()) {
        out += text;
    }
    return out;
}

std::string read(const std::filesystem::path& path) {
    return std::string(gpt2::MappedFile::open(path).text());
}

/// This library's own headers.
std::string code() {
    std::string out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator("include/gpt2")) {
        if (entry.path().extension() == ".hpp") {
            out += read(entry.path());
        }
    }
    return out;
}

/// Article 1 of the Universal Declaration of Human Rights.
constexpr std::string_view languages =
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью. "
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. "
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。\n"
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.\n"
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. "
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n";

std::string random_word(std::size_t size) {
    std::mt19937 random(1);
    std::string out;
    while (out.size() < size) {
        out += static_cast<char>('a' + random() % 26);
    }
    return out;
}

void count(benchmark::State& state, std::size_t bytes, std::size_t tokens) {
    state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
    state.counters["tokens"] = static_cast<double>(tokens);
}

void add_text(const std::string& name, const gpt2::Tokenizer& tokenizer, std::string text) {
    benchmark::RegisterBenchmark(("encode/" + name).c_str(), [=](benchmark::State& state) {
        std::size_t tokens = 0;
        for (auto _ : state) {
            const std::vector<gpt2::TokenId> ids = tokenizer.encode(text);
            tokens = ids.size();
            benchmark::DoNotOptimize(ids.data());
        }
        count(state, text.size(), tokens);
    })->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("decode/" + name).c_str(), [=](benchmark::State& state) {
        const std::vector<gpt2::TokenId> ids = tokenizer.encode(text);
        for (auto _ : state) {
            const std::string decoded = tokenizer.decode(ids);
            benchmark::DoNotOptimize(decoded.data());
        }
        count(state, text.size(), ids.size());
    })->Unit(benchmark::kMillisecond);
}

void add_benchmarks(const std::filesystem::path& text, const std::filesystem::path& directory) {
    benchmark::RegisterBenchmark("load", [directory](benchmark::State& state) {
        for (auto _ : state) {
            benchmark::DoNotOptimize(gpt2::Tokenizer::load(directory).size());
        }
    })->Unit(benchmark::kMillisecond);
    const gpt2::Tokenizer tokenizer = gpt2::Tokenizer::load(directory);
    add_text(text.filename().string(), tokenizer, repeated(read(text)));
    if (std::filesystem::is_directory("include/gpt2")) {
        add_text("code", tokenizer, repeated(code()));
    }
    add_text("languages", tokenizer, repeated(languages));
    add_text("one random word, 1 MB", tokenizer, random_word(1 << 20));
    add_text("one letter, 1 MB", tokenizer, std::string(1 << 20, 'a'));
}

} // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    try {
        if (argc > 3) {
            throw gpt2::OptionError("arguments: expected at most a text file and a directory, found more");
        }
        add_benchmarks(argc > 1 ? argv[1] : "tests/data/heldout.txt",
                       argc > 2 ? argv[2] : "tests/data/tokenizer");
    } catch (const std::exception& error) {
        std::cerr << "bench-tokenizer: " << error.what() << '\n';
        return 1;
    }
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
