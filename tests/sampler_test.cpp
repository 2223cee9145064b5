// SPDX-License-Identifier: MIT
#include "gpt2/random.hpp"
#include "gpt2/sampler.hpp"
#include "support/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <vector>

using gpt2::Sampler;
using gpt2::SamplerOptions;
using gpt2::TokenId;
using gpt2::test::exponentials;
using gpt2::test::Numbers;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double below_one = 1.0 - 0x1p-53; // the largest number that uniform() returns
std::atomic<std::size_t> allocations{0};

/// The processors in double, each written as Hugging Face defines it (logits_process.py).
struct Reference : gpt2::test::Distribution {
    std::vector<double> probabilities;

    Reference(const std::vector<float>& logits, const std::vector<TokenId>& seen,
              const SamplerOptions& options)
        : Distribution(logits) {
        repetition_penalty(logits, seen, static_cast<double>(options.repetition_penalty));
        for (double& s : scores) {
            s /= static_cast<double>(options.temperature);
        }
        if (options.top_k != 0) {
            top_k(options.top_k);
        }
        if (options.top_p < 1.0f) {
            top_p(static_cast<double>(options.top_p));
        }
        if (options.min_p > 0.0f) {
            min_p(static_cast<double>(options.min_p));
        }
        probabilities = softmax();
    }

    void repetition_penalty(const std::vector<float>& logits, const std::vector<TokenId>& seen,
                            double penalty) {
        for (const TokenId id : seen) { // gather, change, scatter: twice seen is once changed
            const auto i = static_cast<std::size_t>(id);
            const auto s = static_cast<double>(logits[i]);
            scores[i] = s < 0 ? s * penalty : s / penalty;
        }
    }

    void top_k(std::size_t k) {
        std::vector<double> sorted = scores;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        const double kth = sorted[std::min(k, sorted.size()) - 1];
        for (double& s : scores) {
            borderline =
                borderline || (s != kth && std::isfinite(s) && std::fabs(s - kth) < 1e-6 * std::fabs(kth));
            s = s < kth ? removed : s;
        }
    }

    void top_p(double p) {
        std::vector<std::size_t> order(scores.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::reverse(order.begin(), order.end()); // of equal ones the lowest id comes last, and stays
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] < scores[b]; });
        const std::vector<double> probability = softmax();
        double cumulative = 0.0;
        for (std::size_t i = 0; i + 1 < order.size(); ++i) {
            cumulative += probability[order[i]];
            borderline =
                borderline || (std::fabs(cumulative - (1.0 - p)) < 1e-6 && probability[order[i]] > 0.0);
            if (cumulative <= 1.0 - p) {
                scores[order[i]] = removed;
            }
        }
    }

    void min_p(double least) {
        const std::vector<double> probability = softmax();
        const double most = *std::max_element(probability.begin(), probability.end());
        for (std::size_t i = 0; i < scores.size(); ++i) {
            borderline = borderline ||
                         (probability[i] != most && std::fabs(probability[i] / most - least) < 1e-6 * least);
            if (probability[i] < least * most) {
                scores[i] = removed;
            }
        }
    }
};

std::vector<float> random_logits(Numbers& random, std::size_t n, bool ties) {
    std::vector<float> logits(n);
    for (float& x : logits) {
        x = random.between(-8.0, 8.0);
        x = ties ? std::round(x) / 2.0f : x;
    }
    if (random.next() < 0.2) {
        for (std::size_t i = 0; i < n / 4; ++i) {
            logits[random.below(n)] = -infinity;
        }
        logits[random.below(n)] = 1.0f;
    }
    return logits;
}

/// @returns false where the reference came too close to a border to be compared
bool agrees(const std::vector<float>& logits, const std::vector<TokenId>& seen, const SamplerOptions& options,
            gpt2::ExpShifted exp) {
    const Reference reference(logits, seen, options);
    Sampler sampler(options, logits.size(), exp);
    sampler.note(seen);
    const std::vector<double> found = sampler.probabilities(logits);
    if (reference.borderline) {
        return false;
    }
    for (std::size_t i = 0; i < logits.size(); ++i) {
        INFO("token ", i, " of ", logits.size());
        REQUIRE(std::isfinite(found[i]));
        REQUIRE(found[i] == doctest::Approx(reference.probabilities[i]).epsilon(2e-5));
        if (std::isinf(reference.scores[i])) {
            REQUIRE(found[i] == 0.0);
        }
    }
    return true;
}

template <class Change> void sweep(std::uint64_t seed, Change change) {
    Numbers random(seed);
    std::size_t compared = 0;
    constexpr std::size_t cases = 600;
    for (std::size_t i = 0; i < cases; ++i) {
        CAPTURE(i);
        const std::size_t n = 1 + random.below(i % 10 == 0 ? 3000 : 70);
        const std::vector<float> logits = random_logits(random, n, i % 3 == 0);
        SamplerOptions options{.do_sample = true};
        std::vector<TokenId> seen;
        change(random, n, options, seen);
        for (const gpt2::ExpShifted exp : exponentials()) {
            compared += agrees(logits, seen, options, exp) ? 1 : 0;
        }
    }
    CHECK(compared > cases * exponentials().size() * 9 / 10);
}

void random_seen(Numbers& random, std::size_t n, SamplerOptions& options, std::vector<TokenId>& seen) {
    options.repetition_penalty = random.between(0.5, 2.5);
    for (std::size_t i = random.below(2 * n); i > 0; --i) {
        seen.push_back(static_cast<TokenId>(random.below(n)));
    }
}

} // namespace

// GCC's -Wmismatched-new-delete misfires when it inlines only one side of the pair.
#if defined(__GNUC__)
#define GPT2_TEST_NOINLINE [[gnu::noinline]]
#else
#define GPT2_TEST_NOINLINE
#endif
GPT2_TEST_NOINLINE void* operator new(std::size_t size) {
    ++allocations;
    if (void* p = std::malloc(size == 0 ? 1 : size)) {
        return p;
    }
    throw std::bad_alloc();
}
GPT2_TEST_NOINLINE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    ++allocations;
    return std::malloc(size == 0 ? 1 : size);
}
GPT2_TEST_NOINLINE void operator delete(void* p) noexcept {
    std::free(p);
}
GPT2_TEST_NOINLINE void operator delete(void* p, std::size_t) noexcept {
    std::free(p);
}

TEST_CASE("no processor: softmax") {
    sweep(1, [](Numbers&, std::size_t, SamplerOptions&, std::vector<TokenId>&) {});
}

TEST_CASE("repetition_penalty as Hugging Face defines it") {
    sweep(2, random_seen);
}

TEST_CASE("temperature as Hugging Face defines it") {
    sweep(3, [](Numbers& random, std::size_t, SamplerOptions& options, std::vector<TokenId>&) {
        options.temperature = random.between(0.1, 3.0);
    });
}

TEST_CASE("top_k as Hugging Face defines it, ties kept, k above the vocabulary included") {
    sweep(4, [](Numbers& random, std::size_t n, SamplerOptions& options, std::vector<TokenId>&) {
        options.top_k = 1 + random.below(n + n / 4 + 1);
    });
}

TEST_CASE("top_p as Hugging Face defines it") {
    sweep(5, [](Numbers& random, std::size_t, SamplerOptions& options, std::vector<TokenId>&) {
        options.top_p = random.between(0.0, 1.0);
    });
}

TEST_CASE("min_p as Hugging Face defines it") {
    sweep(6, [](Numbers& random, std::size_t, SamplerOptions& options, std::vector<TokenId>&) {
        options.min_p = random.between(0.0, 1.0);
    });
}

TEST_CASE("all processors together, in Hugging Face's order") {
    sweep(7, [](Numbers& random, std::size_t n, SamplerOptions& options, std::vector<TokenId>& seen) {
        random_seen(random, n, options, seen);
        options.temperature = random.between(0.3, 2.0);
        options.top_k = random.below(n + 1);
        options.top_p = random.between(0.3, 1.0);
        options.min_p = random.between(0.0, 0.3);
    });
}

TEST_CASE("top_k finds the largest in any order of a real vocabulary") {
    constexpr std::size_t n = 50257;
    Numbers random(8);
    std::vector<float> logits(n);
    std::generate(logits.begin(), logits.end(), [&] { return random.between(-30.0, 10.0); });
    gpt2::detail::TopK top(n);
    for (int order = 0; order < 4; ++order) {
        CAPTURE(order);
        if (order == 1) {
            std::sort(logits.begin(), logits.end());
        } else if (order == 2) {
            std::reverse(logits.begin(), logits.end());
        } else if (order == 3) { // many ties
            std::generate(logits.begin(), logits.end(), [&] { return std::floor(random.between(0.0, 9.0)); });
        }
        std::vector<float> sorted = logits;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        for (const std::size_t k : {std::size_t{1}, std::size_t{40}, std::size_t{1000}, n - 1, n, n + 7}) {
            CAPTURE(k);
            std::vector<TokenId> expected;
            for (std::size_t i = 0; i < n; ++i) {
                if (logits[i] >= sorted[std::min(k, n) - 1]) {
                    expected.push_back(static_cast<TokenId>(i));
                }
            }
            top.select(logits, k);
            CHECK(top.ids() == expected);
        }
    }
    const std::vector<float> equal(n, 3.0f);
    top.select(equal, 5);
    CHECK(top.ids().size() == n);
}

TEST_CASE("greedy takes the largest logit, the lowest id on ties") {
    for (const SamplerOptions options :
         {SamplerOptions{},
          SamplerOptions{.do_sample = true, .temperature = 0.0f, .top_k = 3, .top_p = 0.5f}}) {
        for (std::size_t n : {1u, 2u, 15u, 16u, 17u, 100u}) {
            Sampler sampler(options, n);
            CHECK(sampler.greedy());
            for (std::size_t i = 0; i < n; ++i) {
                std::vector<float> logits(n, -1.0f);
                logits[i] = 2.0f;
                CHECK(sampler.next(logits, 0.9) == static_cast<TokenId>(i));
                std::fill(logits.begin() + static_cast<std::ptrdiff_t>(i), logits.end(), 2.0f);
                CHECK(sampler.next(logits, 0.9) == static_cast<TokenId>(i));
            }
        }
    }
}

TEST_CASE("the repetition penalty changes what greedy takes") {
    Sampler sampler({.repetition_penalty = 2.0f}, 3);
    const std::vector<float> logits{4.0f, 3.0f, -1.0f};
    CHECK(sampler.next(logits, 0.0) == 0);
    sampler.note(std::vector<TokenId>{0, 0, 0});
    CHECK(sampler.next(logits, 0.0) == 1); // 4 / 2 < 3, and not 4 / 8
    sampler.note(std::vector<TokenId>{1});
    CHECK(sampler.next(logits, 0.0) == 0); // 2 and 1.5
    CHECK_THROWS_WITH_AS(sampler.note(std::vector<TokenId>{3}), "token 3: expected an id below 3",
                         gpt2::OptionError);
    CHECK_THROWS_AS(sampler.note(std::vector<TokenId>{-1}), gpt2::OptionError);
}

TEST_CASE("a draw walks the ids upwards and never leaves what was kept") {
    Sampler sampler({.do_sample = true, .top_k = 3}, 6);
    // 0, ln 2, ln 1: weights of 1 : 2 : 1 at ids 1, 3, 4
    const std::vector<float> logits{-9.0f, 1.0f, -9.0f, 1.0f + 0.6931472f, 1.0f, -9.0f};
    for (const auto& [u, token] : std::vector<std::pair<double, TokenId>>{
             {0.0, 1}, {0.2499, 1}, {0.2501, 3}, {0.7499, 3}, {0.7501, 4}, {below_one, 4}}) {
        CHECK(sampler.next(logits, u) == token);
    }
    // A sum that only reaches u times the total does not pass it.
    Sampler equal({.do_sample = true}, 4);
    for (const TokenId token : {0, 1, 2, 3}) {
        CHECK(equal.next(std::vector<float>(4, 7.0f), token / 4.0) == token);
    }
    Numbers random(9);
    for (int i = 0; i < 300; ++i) {
        const std::vector<float> any = random_logits(random, 1 + random.below(200), i % 2 == 0);
        Sampler every({.do_sample = true,
                       .top_k = random.below(20),
                       .top_p = random.between(0, 1),
                       .min_p = random.between(0, 0.5)},
                      any.size());
        const std::vector<double> p = every.probabilities(any);
        for (const double u : {0.0, random.next(), below_one}) {
            REQUIRE(p[static_cast<std::size_t>(every.next(any, u))] > 0.0);
        }
        const auto first = std::find_if(p.begin(), p.end(), [](double x) { return x > 0.0; }) - p.begin();
        CHECK(every.next(any, 0.0) == static_cast<TokenId>(first));
    }
}

TEST_CASE("top_p and top_k at their ends") {
    const std::vector<float> logits{1.0f, 5.0f, 5.0f, 2.0f};
    using P = std::vector<double>;
    CHECK(Sampler({.do_sample = true, .top_p = 0.0f}, 4).probabilities(logits) == P{0, 1, 0, 0});
    CHECK(Sampler({.do_sample = true, .top_k = 1}, 4).probabilities(logits) == P{0, 0.5, 0.5, 0});
    CHECK(Sampler({.do_sample = true, .min_p = 1.0f}, 4).probabilities(logits) == P{0, 0.5, 0.5, 0});
    CHECK(Sampler({.do_sample = true, .top_p = 0.0f}, 4).probabilities(std::vector<float>(4, 0.0f)) ==
          P{1, 0, 0, 0});
    const P all = Sampler({.do_sample = true}, 4).probabilities(logits);
    CHECK(Sampler({.do_sample = true, .top_p = 1.0f}, 4).probabilities(logits) == all);
    CHECK(Sampler({.do_sample = true, .top_k = 4}, 4).probabilities(logits) == all);
    CHECK(Sampler({.do_sample = true, .top_k = 1000}, 4).probabilities(logits) == all);
    // Half of two equal tokens is reached by the first of them.
    CHECK(Sampler({.do_sample = true, .top_p = 0.5f}, 2).probabilities(std::vector<float>{0, 0}) == P{1, 0});
    CHECK(Sampler({.do_sample = true, .top_p = 0.51f}, 2).probabilities(std::vector<float>{0, 0}) ==
          P{0.5, 0.5});
}

TEST_CASE("the same random number gives the same token, top_k of all or none") {
    Numbers random(10);
    const std::vector<float> logits = random_logits(random, 5000, false);
    Sampler none({.do_sample = true, .temperature = 0.9f}, logits.size());
    Sampler all({.do_sample = true, .temperature = 0.9f, .top_k = logits.size() - 1, .top_p = 0.99999994f},
                logits.size());
    for (int i = 0; i < 200; ++i) {
        const double u = random.next();
        CHECK(none.next(logits, u) == all.next(logits, u));
    }
}

TEST_CASE("extreme numbers") {
    constexpr float most = std::numeric_limits<float>::max();
    constexpr float least = std::numeric_limits<float>::denorm_min();
    const std::vector<float> logits{-most, most, 0.0f, -infinity, most, 1.0f};
    for (const gpt2::ExpShifted exp : exponentials()) {
        for (const float t : {least, 1e-30f, 1.0f, 1e30f, most}) {
            for (const float r : {least, 1e-30f, 1.0f, 1e30f, most}) {
                CAPTURE(t);
                CAPTURE(r);
                Sampler sampler({.do_sample = true,
                                 .temperature = t,
                                 .top_k = 5,
                                 .top_p = 0.9f,
                                 .min_p = 0.1f,
                                 .repetition_penalty = r},
                                logits.size(), exp);
                sampler.note(std::vector<TokenId>{0, 1, 2, 3});
                double sum = 0.0;
                for (const double p : sampler.probabilities(logits)) {
                    REQUIRE(std::isfinite(p));
                    sum += p;
                }
                CHECK(sum == doctest::Approx(1.0));
                CHECK(sampler.next(logits, below_one) != 3);
            }
        }
    }
    Sampler cold({.do_sample = true, .temperature = least}, 3);
    CHECK(cold.next(std::vector<float>{1.0f, 1.0000001f, 1.0f}, 0.99) == 1);
}

TEST_CASE("logits that are not numbers are refused by name") {
    for (const bool do_sample : {false, true}) {
        for (const std::size_t n : {std::size_t{5}, std::size_t{40}}) {
            Sampler sampler({.do_sample = do_sample}, n);
            for (std::size_t i = 0; i < n; ++i) {
                std::vector<float> logits(n, 1.0f);
                logits[i] = std::numeric_limits<float>::quiet_NaN();
                CHECK_THROWS_WITH_AS((void)sampler.next(logits, 0.5),
                                     doctest::Contains(("token " + std::to_string(i) + " is nan").c_str()),
                                     gpt2::NumericError);
                logits[i] = infinity;
                CHECK_THROWS_WITH_AS((void)sampler.next(logits, 0.5),
                                     doctest::Contains(("token " + std::to_string(i) + " is inf").c_str()),
                                     gpt2::NumericError);
                logits[i] = -infinity;
                CHECK(sampler.next(logits, below_one) != static_cast<TokenId>(i));
            }
            const std::vector<float> none(n, -infinity);
            CHECK_THROWS_AS((void)sampler.next(none, 0.5), gpt2::NumericError);
            const std::vector<float> longer(n + 1);
            CHECK_THROWS_WITH_AS((void)sampler.next(longer, 0.5), doctest::Contains("logits, found"),
                                 gpt2::OptionError);
        }
    }
}

TEST_CASE("drawn tokens have the frequencies of the distribution") {
    Numbers random(11);
    std::vector<float> logits(30);
    std::generate(logits.begin(), logits.end(), [&] { return random.between(-2.0, 2.0); });
    int number = 0;
    for (const SamplerOptions options :
         {SamplerOptions{.do_sample = true},
          SamplerOptions{.do_sample = true, .temperature = 0.7f, .top_k = 12},
          SamplerOptions{.do_sample = true, .top_p = 0.8f},
          SamplerOptions{
              .do_sample = true, .temperature = 1.5f, .min_p = 0.2f, .repetition_penalty = 1.3f}}) {
        CAPTURE(number++);
        const std::vector<TokenId> seen{1, 5, 9};
        const Reference reference(logits, seen, options);
        Sampler sampler(options, logits.size());
        sampler.note(seen);
        constexpr int draws = 100000;
        std::vector<int> count(logits.size());
        for (std::uint64_t i = 0; i < draws; ++i) {
            ++count[static_cast<std::size_t>(sampler.next(logits, gpt2::uniform(77, 0, i)))];
        }
        double chi_square = 0.0;
        double freedom = -1.0;
        for (std::size_t i = 0; i < logits.size(); ++i) {
            const double expected = draws * reference.probabilities[i];
            if (expected == 0.0) {
                CHECK(count[i] == 0);
            } else {
                chi_square += (count[i] - expected) * (count[i] - expected) / expected;
                freedom += 1.0;
            }
        }
        CHECK(freedom >= 4.0);
        CHECK(chi_square < freedom + 4.0 * std::sqrt(2.0 * freedom));
    }
}

TEST_CASE("nothing is allocated per token") {
    constexpr std::size_t n = 50257;
    Numbers random(12);
    std::vector<float> logits(n);
    std::generate(logits.begin(), logits.end(), [&] { return random.between(-20.0, 5.0); });
    for (const SamplerOptions options :
         {SamplerOptions{.repetition_penalty = 1.2f}, SamplerOptions{.do_sample = true, .top_k = 40},
          SamplerOptions{.do_sample = true, .temperature = 0.9f, .top_p = 0.95f, .min_p = 0.01f}}) {
        Sampler sampler(options, n);
        const std::size_t before = allocations;
        (void)sampler.next(logits, 0.3);
        std::reverse(logits.begin(), logits.end());
        (void)sampler.next(logits, 0.7);
        CHECK(allocations == before);
    }
}

TEST_CASE("nor by the other processors that need no text") {
    constexpr std::size_t n = 50257;
    Numbers random(12);
    std::vector<float> logits(n);
    std::generate(logits.begin(), logits.end(), [&] { return random.between(-20.0, 5.0); });
    for (const gpt2::GenerationConfig& config :
         {gpt2::GenerationConfig{.do_sample = true, .typical_p = 0.9f, .epsilon_cutoff = 0.001f},
          gpt2::GenerationConfig{.do_sample = true, .temperature = 0.7f, .eta_cutoff = 0.001f},
          gpt2::GenerationConfig{.do_sample = true, .top_k = 40, .top_n_sigma = 3.0f},
          gpt2::GenerationConfig{
              .do_sample = true, .repetition_penalty = 1.1f, .presence_penalty = 0.1f, .penalty_last_n = 5},
          gpt2::GenerationConfig{.suppress_tokens = {5}, .logit_bias = {{7, 1.0f}}, .min_new_tokens = 3},
          gpt2::GenerationConfig{.do_sample = true, .xtc = gpt2::sampling::Xtc{}},
          gpt2::GenerationConfig{.do_sample = true, .mirostat = gpt2::sampling::Mirostat{}}}) {
        Sampler sampler(config, {.size = n, .eos = 50256});
        sampler.note(std::vector<TokenId>{1, 2, 3, 4, 5, 6});
        const std::size_t before = allocations;
        (void)sampler.next(logits, 0.3);
        std::reverse(logits.begin(), logits.end());
        (void)sampler.next(logits, 0.7);
        CHECK(allocations == before);
    }
}

TEST_CASE("log_softmax against double") {
    Numbers random(13);
    std::vector<float> scratch;
    for (const gpt2::ExpShifted exp : exponentials()) {
        for (std::size_t n : {1u, 2u, 17u, 5000u}) {
            std::vector<float> logits(n);
            std::generate(logits.begin(), logits.end(), [&] { return random.between(-40.0, 40.0); });
            double sum = 0.0;
            for (const float x : logits) {
                sum += std::exp(static_cast<double>(x));
            }
            for (std::size_t i = 0; i < n; i += 1 + n / 10) {
                const double found = gpt2::log_softmax(logits, static_cast<TokenId>(i), exp, scratch);
                REQUIRE(std::isfinite(found));
                CHECK(std::fabs(found - (static_cast<double>(logits[i]) - std::log(sum))) < 5e-7);
            }
            std::vector<float> all(n);
            gpt2::log_softmax(logits, exp, all);
            for (std::size_t i = 0; i < n; ++i) {
                CHECK(all[i] ==
                      static_cast<float>(gpt2::log_softmax(logits, static_cast<TokenId>(i), exp, scratch)));
            }
        }
    }
    CHECK_THROWS_AS((void)gpt2::log_softmax(std::vector<float>{1.0f}, 1, exponentials()[0], scratch),
                    gpt2::OptionError);
    CHECK_THROWS_AS((void)gpt2::log_softmax(std::vector<float>{1.0f}, -1, exponentials()[0], scratch),
                    gpt2::OptionError);
    CHECK_THROWS_AS(
        (void)gpt2::log_softmax(std::vector<float>{1.0f, -infinity}, 0, exponentials()[0], scratch),
        gpt2::NumericError);
    std::vector<float> out(2);
    CHECK_THROWS_AS(gpt2::log_softmax(std::vector<float>{1.0f, infinity}, exponentials()[0], out),
                    gpt2::NumericError);
}

TEST_CASE("scores are those that next() draws from") {
    Numbers random(15);
    std::vector<float> logits(300);
    std::generate(logits.begin(), logits.end(), [&] { return random.between(-8.0, 4.0); });
    for (const gpt2::GenerationConfig& config :
         {gpt2::GenerationConfig{.do_sample = true},
          gpt2::GenerationConfig{.do_sample = true, .temperature = 0.7f, .repetition_penalty = 1.3f},
          gpt2::GenerationConfig{.do_sample = true, .temperature = 0.5f, .top_k = 20, .top_p = 0.8f}}) {
        Sampler sampler(config, {.size = logits.size(), .eos = {}, .breakers = {}});
        sampler.note(std::vector<TokenId>{1, 2, 3});
        const std::vector<double> expected = sampler.probabilities(logits);
        const std::span<const float> scores = sampler.scores(logits);
        REQUIRE(scores.size() == logits.size());
        double sum = 0.0;
        for (const float s : scores) {
            sum += std::exp(static_cast<double>(s));
        }
        for (std::size_t i = 0; i < scores.size(); ++i) {
            CHECK(std::exp(static_cast<double>(scores[i])) / sum ==
                  doctest::Approx(expected[i]).epsilon(1e-5));
            CHECK((scores[i] == -infinity) == (expected[i] == 0.0));
        }
    }
}

TEST_CASE("restart forgets the text before, and knows the new one") {
    const gpt2::GenerationConfig config{.do_sample = true,
                                        .repetition_penalty = 1.3f,
                                        .penalty_last_n = 4,
                                        .no_repeat_ngram_size = 2,
                                        .min_new_tokens = 2};
    const gpt2::sampling::Vocabulary vocabulary{.size = 10, .eos = 9, .breakers = {}};
    std::vector<float> logits(10, 1.0f);
    Sampler sampler(config, vocabulary);
    sampler.note(std::vector<TokenId>{8, 7, 6, 5, 4, 3});
    sampler.accept(2);
    for (const std::size_t n : {0u, 1u, 3u}) {
        const std::vector<TokenId> text(n, 1);
        sampler.restart(std::vector<TokenId>{3, 1, 2}, text);
        Sampler fresh(config, vocabulary);
        fresh.note(std::vector<TokenId>{3, 1, 2});
        for (const TokenId token : text) {
            fresh.accept(token);
        }
        CHECK(sampler.probabilities(logits) == fresh.probabilities(logits));
        CHECK((sampler.probabilities(logits)[9] == 0.0) == (n < 2));
    }
}

TEST_CASE("every exp of this machine keeps the promises of ExpShifted and draws the same tokens") {
    const std::vector<float> x{2.0f, -infinity, 1.0f, 2.0f, -90.0f};
    for (const gpt2::ExpShifted exp : exponentials()) {
        std::vector<float> out(x.size());
        exp(x.data(), 2.0f, out.data(), x.size());
        CHECK(out[0] == 1.0f);
        CHECK(out[1] == 0.0f);
        CHECK(out[2] == doctest::Approx(std::exp(-1.0)));
        CHECK(out[3] == 1.0f);
        CHECK(out[4] < 1e-37f);
    }
}

// Golden: the tokens of a seed. Whoever changes them changes the text that users get for a seed.
TEST_CASE("a seed gives the same tokens everywhere") {
    Numbers random(14);
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const SamplerOptions options :
         {SamplerOptions{.do_sample = true},
          SamplerOptions{.do_sample = true, .temperature = 0.8f, .top_k = 40},
          SamplerOptions{.do_sample = true, .temperature = 1.2f, .top_p = 0.9f, .repetition_penalty = 1.1f},
          SamplerOptions{.do_sample = true, .temperature = 0.7f, .min_p = 0.05f}}) {
        std::vector<float> logits(1000);
        Sampler sampler(options, logits.size());
        for (std::uint64_t i = 0; i < 50; ++i) {
            std::generate(logits.begin(), logits.end(), [&] {
                return static_cast<float>(std::floor(random.next() * 4096.0)) / 256.0f; // exact in float
            });
            const TokenId token = sampler.next(logits, gpt2::uniform(42, 1, i));
            sampler.note(std::vector<TokenId>{token});
            hash = (hash ^ static_cast<std::uint64_t>(token)) * 0x100000001b3u;
        }
    }
    CHECK(hash == 527063456954387397u);
}
