// SPDX-License-Identifier: MIT
#pragma once

#include "quality.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

/// @file
/// What the drivers have in common: a driver is a program that holds one engine with one model and measures
/// on command. It reads one command per line from standard input and answers with one line of JSON each, so
/// that the runner can take turns between engines that all stay loaded. Not thread-safe.

namespace compare {

using Seconds = std::chrono::duration<double>;

/// The command line: `--name value` pairs.
class Arguments {
public:
    Arguments(int argc, char** argv) {
        for (int i = 1; i + 1 < argc; i += 2) {
            values_[argv[i]] = argv[i + 1];
        }
    }
    [[nodiscard]] std::string text(const std::string& name) const {
        const auto found = values_.find(name);
        if (found == values_.end()) {
            throw std::runtime_error("expected the option " + name);
        }
        return found->second;
    }
    [[nodiscard]] std::string text(const std::string& name, const std::string& otherwise) const {
        const auto found = values_.find(name);
        return found == values_.end() ? otherwise : found->second;
    }
    [[nodiscard]] int number(const std::string& name) const { return std::stoi(text(name)); }
    [[nodiscard]] int number(const std::string& name, int otherwise) const {
        return values_.contains(name) ? number(name) : otherwise;
    }

private:
    std::map<std::string, std::string> values_;
};

/// Token i of the text that every driver reads; the same formula stands in each of them.
[[nodiscard]] inline TokenId token(std::size_t i, std::size_t vocab_size) {
    return static_cast<TokenId>((i * 7919 + 17) % vocab_size);
}

[[nodiscard]] inline std::vector<TokenId> tokens(std::size_t begin, std::size_t n, std::size_t vocab_size) {
    std::vector<TokenId> ids;
    for (std::size_t i = begin; i < begin + n; ++i) {
        ids.push_back(token(i, vocab_size));
    }
    return ids;
}

/// Seconds that something takes.
template <class Body> double seconds(Body&& body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    return Seconds(std::chrono::steady_clock::now() - start).count();
}

/// Seconds since the machine's start, by the clock that the runner uses too.
[[nodiscard]] inline double monotonic() {
    std::timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// An engine with its model. Every measurement begins with an empty context.
class Engine {
public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    /// Reads @p depth tokens, then @p steps one by one, with logits after each. @returns seconds of the steps
    virtual double decode(std::size_t depth, std::size_t steps) = 0;
    /// Reads @p n tokens at once, with logits after the last. @returns seconds
    virtual double prefill(std::size_t n) = 0;
    /// Gives each of @p sequences its own @p prompt tokens, then one token each in every one of @p steps
    /// passes, with logits. @returns seconds of the steps
    virtual double batch(std::size_t sequences, std::size_t prompt, std::size_t steps) = 0;
    /// Reads @p prompt tokens and samples @p new_tokens with top_k. @returns seconds of all
    virtual double generate(std::size_t prompt, std::size_t new_tokens, int top_k, std::uint32_t seed) = 0;
    /// The logits [1 + steps, V] after @p prompt tokens at once and after each of @p steps single ones.
    virtual std::vector<float> logits(std::size_t prompt, std::size_t steps) = 0;
    /// The logits [n, V] after each of n tokens.
    virtual std::vector<float> logits_of(std::span<const TokenId> ids) = 0;
    /// What the engine says of itself: its version and the instructions it uses.
    [[nodiscard]] virtual std::string description() const = 0;
    [[nodiscard]] virtual int threads() const = 0;
};

/// Carries out one command. @returns the JSON of the answer
inline std::string answer(Engine& engine, const std::string& line) {
    std::istringstream words(line);
    std::string command;
    std::size_t a = 0, b = 0, c = 0;
    words >> command;
    const auto timed = [](double value) {
        std::ostringstream json;
        json << "{\"seconds\": " << std::setprecision(9) << value << '}';
        return json.str();
    };
    if (command == "decode" && words >> a >> b) {
        return timed(engine.decode(a, b));
    }
    if (command == "prefill" && words >> a) {
        return timed(engine.prefill(a));
    }
    if (command == "batch" && words >> a >> b >> c) {
        return timed(engine.batch(a, b, c));
    }
    int top_k = 0;
    std::uint32_t seed = 0;
    if (command == "generate" && words >> a >> b >> top_k >> seed) {
        return timed(engine.generate(a, b, top_k, seed));
    }
    std::string path;
    if (command == "logits" && words >> a >> b && std::getline(words >> std::ws, path)) {
        const std::vector<float> rows = engine.logits(a, b);
        std::ofstream file(path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(rows.data()),
                   static_cast<std::streamsize>(rows.size() * sizeof(float)));
        file.close();
        return file ? "{}" : "{\"error\": \"cannot write the logits\"}";
    }
    // quality.hpp: a window's length, and the folder of the text and the reference's logits
    const LogitsOf logits_of = [&](std::span<const TokenId> ids) { return engine.logits_of(ids); };
    if (command == "reference" && words >> a && a > 0 && std::getline(words >> std::ws, path)) {
        return keep_reference(logits_of, a, path);
    }
    if (command == "compare" && words >> a && a > 0 && std::getline(words >> std::ws, path)) {
        gpt2::ThreadPool pool(static_cast<std::size_t>(engine.threads()));
        return compare_with_reference(logits_of, a, path, pool);
    }
    return "{\"error\": \"unknown command\"}";
}

/// Says that the engine is ready, with the time for the cold start when `--cold-start N` asks for it (after
/// the first token that follows N), then answers commands until standard input ends.
inline void serve(Engine& engine, const Arguments& arguments) {
    if (const int prompt = arguments.number("--cold-start", 0); prompt > 0) {
        (void)engine.generate(static_cast<std::size_t>(prompt), 1, 1, 0);
        std::printf("{\"first_token\": %.9f}\n", monotonic());
        return;
    }
    std::cout << "{\"description\": \"" << engine.description() << "\"}" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
        std::cout << answer(engine, line) << std::endl;
    }
}

/// main() of a driver. @param make  makes the engine from the command line
inline int run(int argc, char** argv, const std::function<void(const Arguments&)>& body) {
    try {
        body(Arguments(argc, argv));
        return EXIT_SUCCESS;
    } catch (const std::exception& error) {
        std::cerr << argv[0] << ": " << error.what() << '\n';
        return EXIT_FAILURE;
    }
}

} // namespace compare
