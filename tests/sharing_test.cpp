// SPDX-License-Identifier: MIT

// Many threads share one model and its pools. To be run under the thread sanitizer too.

#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using gpt2::Gpt2Model;
using gpt2::Session;
using gpt2::TokenId;
namespace test = gpt2::test;

namespace {

Gpt2Model make_model() {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), test::odd_config());
    return Gpt2Model::load(directory.path());
}

const std::array<std::string, 4> prompts{"the king", "", "a forest\n", "\xff and so"};

gpt2::GenerationConfig config_of(std::size_t prompt) {
    return {.max_new_tokens = 20,
            .do_sample = true,
            .temperature = 0.9f,
            .top_k = 50,
            .seed = 7,
            .sample = prompt,
            .logprobs = true,
            .ignore_eos = true};
}

/// What a prefix cache counts for up to 64 positions.
std::size_t block_bytes_of(const Gpt2Model& model) {
    gpt2::PrefixCache cache(model);
    (void)cache.generate("a", {.max_new_tokens = 1});
    return cache.statistics().bytes;
}

/// Runs body(0) to body(n - 1), each in a thread of its own.
template <class Body> void in_threads(std::size_t n, Body body) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < n; ++i) {
        threads.emplace_back([&body, i] { body(i); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
}

} // namespace

TEST_CASE("threads that share a model get what each would get alone") {
    const Gpt2Model model = make_model();
    std::vector<gpt2::GenerationResult> expected;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        expected.push_back(model.generate(prompts[i], config_of(i)));
    }
    std::array<std::atomic<std::size_t>, 4> right{};
    const auto compare = [&](std::size_t i, const gpt2::GenerationResult& result) {
        right[i] += result.tokens == expected[i].tokens && result.logprobs == expected[i].logprobs &&
                            result.text == expected[i].text
                        ? 1
                        : 0;
    };
    constexpr std::size_t rounds = 3;

    SUBCASE("the handle itself, the process-wide pool") {
        in_threads(4, [&](std::size_t i) {
            for (std::size_t round = 0; round < rounds; ++round) {
                compare(i, model.generate(prompts[i], config_of(i)));
            }
        });
    }
    SUBCASE("copies of the handle, sessions of their own, one pool") {
        const auto pool = std::make_shared<gpt2::ThreadPool>(3);
        in_threads(4, [&, pool](std::size_t i) {
            const Gpt2Model copy = model;
            for (std::size_t round = 0; round < rounds; ++round) {
                Session session(copy, {.pool = pool, .kv_dtype = gpt2::KvDtype::float32});
                compare(i, session.generate(copy.encode_prompt(prompts[i]), config_of(i)));
            }
        });
    }
    SUBCASE("two pools") {
        const std::array pools{std::make_shared<gpt2::ThreadPool>(2), std::make_shared<gpt2::ThreadPool>(3)};
        in_threads(4, [&](std::size_t i) {
            for (std::size_t round = 0; round < rounds; ++round) {
                Session session(model, {.pool = pools[i % 2], .kv_dtype = gpt2::KvDtype::float32});
                compare(i, session.generate(model.encode_prompt(prompts[i]), config_of(i)));
            }
        });
    }
    SUBCASE("sessions that go from thread to thread") {
        std::vector<Session> sessions;
        for (std::size_t i = 0; i < 4; ++i) {
            sessions.emplace_back(model);
        }
        for (std::size_t round = 0; round < rounds; ++round) {
            in_threads(4, [&](std::size_t thread) {
                const std::size_t i = (thread + round) % 4;
                sessions[i].truncate(0);
                compare(i, sessions[i].generate(model.encode_prompt(prompts[i]), config_of(i)));
            });
        }
    }
    SUBCASE("a prefix cache, which has room for half of the texts") {
        const std::size_t room = 2 * block_bytes_of(model);
        gpt2::PrefixCache cache(model, {.max_bytes = room});
        in_threads(4, [&](std::size_t i) {
            for (std::size_t round = 0; round < rounds; ++round) {
                compare(i, cache.generate(prompts[i], config_of(i)));
                (void)cache.generate(prompts[(i + round) % 4], config_of(i)); // one that another begins with
            }
        });
        CHECK(cache.statistics().bytes == room);
    }
    for (const auto& count : right) {
        CHECK(count == rounds);
    }
}

TEST_CASE("the last handle goes away in any thread, and models load in parallel") {
    std::array<std::vector<TokenId>, 4> tokens;
    in_threads(4, [&](std::size_t i) {
        std::optional<Gpt2Model> model = make_model();
        Session session(*model);
        const auto prompt = model->encode_prompt("the king");
        std::thread([moved = std::move(model)]() mutable { moved.reset(); }).join();
        tokens[i] = session.generate(prompt, config_of(0)).tokens;
    });
    CHECK(tokens[0].size() == 20);
    for (const auto& found : tokens) {
        CHECK(found == tokens[0]);
    }
}
