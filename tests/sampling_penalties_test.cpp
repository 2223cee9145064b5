// SPDX-License-Identifier: MIT
#include "gpt2/sampling/penalties.hpp"

#include "../tools/byte_vocabulary.hpp"
#include "support/sampling.hpp"

#include "gpt2/sampling/dry_breakers.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

using gpt2::Sampler;
using gpt2::TokenId;
using gpt2::sampling::Dry;
using gpt2::test::Case;
using gpt2::test::Distribution;
using gpt2::test::Numbers;
using gpt2::test::sweep;

namespace {

/// A text of few different tokens, so that it repeats itself.
void random_text(Numbers& random, Case& given) {
    const std::size_t n = std::min<std::size_t>(given.logits.size(), 1 + random.below(4));
    given.prompt = random.tokens(random.below(30), n);
    given.text = random.tokens(random.below(30), n);
}

/// How often @p token is among the last tokens that count.
double count(const Case& given, TokenId token) {
    const auto tokens = given.tokens();
    const auto window = given.config.penalty_last_n
                            ? std::min(tokens.size(), static_cast<std::size_t>(*given.config.penalty_last_n))
                            : tokens.size();
    return static_cast<double>(
        std::count(tokens.end() - static_cast<std::ptrdiff_t>(window), tokens.end(), token));
}

template <class Change> void for_each_token(Distribution& d, Change change) {
    for (std::size_t i = 0; i < d.size(); ++i) {
        change(static_cast<TokenId>(i), d.scores[i]);
    }
}

void window(Numbers& random, Case& given) {
    if (random.next() < 0.5) {
        given.config.penalty_last_n = 1 + static_cast<std::int64_t>(random.below(40));
    }
}

/// For each token and each place where it stands, the end of the text is compared with what stands before.
void dry(const Case& given, Distribution& d) {
    const Dry& options = *given.config.dry;
    auto tokens = given.tokens();
    if (options.penalty_last_n && tokens.size() > static_cast<std::size_t>(*options.penalty_last_n)) {
        tokens.erase(tokens.begin(), tokens.end() - *options.penalty_last_n);
    }
    const auto n = static_cast<std::int64_t>(tokens.size());
    const auto at = [&](std::int64_t i) { return tokens[static_cast<std::size_t>(i)]; };
    std::int64_t reach = n;
    for (std::int64_t i = n - 1; i >= 0 && reach == n;
         --i) { // the last breaker, the longest that begins there
        for (const auto& breaker : given.vocabulary.breakers) {
            const auto length = static_cast<std::int64_t>(breaker.size());
            bool equal = i + length <= n;
            for (std::int64_t j = 0; equal && j < length; ++j) {
                equal = at(i + j) == breaker[static_cast<std::size_t>(j)];
            }
            reach = equal ? std::min(reach, n - i - length) : reach;
        }
    }
    for_each_token(d, [&](TokenId token, double& s) {
        std::int64_t longest = 0;
        for (std::int64_t i = 1; i < n; ++i) {
            std::int64_t length = 0;
            while (at(i) == token && length < i && length < reach &&
                   at(i - 1 - length) == at(n - 1 - length)) {
                ++length;
            }
            longest = std::max(longest, length);
        }
        const auto is_breaker = [token](const auto& b) { return b == std::vector<TokenId>{token}; };
        const auto& breakers = given.vocabulary.breakers;
        if (longest >= options.allowed_length && std::none_of(breakers.begin(), breakers.end(), is_breaker)) {
            s -= static_cast<double>(options.multiplier) *
                 std::pow(static_cast<double>(options.base),
                          static_cast<double>(longest - options.allowed_length));
        }
    });
}

} // namespace

TEST_CASE("repetition_penalty in the last tokens") {
    sweep(
        1,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            window(random, given);
            given.config.repetition_penalty = random.between(0.5, 2.5);
        },
        [](const Case& given, Distribution& d) {
            const auto r = static_cast<double>(*given.config.repetition_penalty);
            for_each_token(d, [&](TokenId token, double& s) {
                if (count(given, token) > 0.0) {
                    s = s < 0.0 ? s * r : s / r;
                }
            });
        });
}

TEST_CASE("presence_penalty and frequency_penalty as OpenAI defines them") {
    sweep(
        2,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            window(random, given);
            given.config.presence_penalty = random.between(-2.0, 2.0);
            given.config.frequency_penalty = random.between(-0.3, 0.3);
        },
        [](const Case& given, Distribution& d) {
            for_each_token(d, [&](TokenId token, double& s) {
                const double n = count(given, token);
                s -= n * static_cast<double>(*given.config.frequency_penalty) +
                     (n > 0.0 ? static_cast<double>(*given.config.presence_penalty) : 0.0);
            });
        });
}

TEST_CASE("no_repeat_ngram_size: what is left never completes an n-gram of the text") {
    sweep(
        3,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            given.config.no_repeat_ngram_size = 1 + static_cast<std::int64_t>(random.below(4));
        },
        [](const Case& given, Distribution& d) {
            const auto n = static_cast<std::size_t>(*given.config.no_repeat_ngram_size);
            const auto tokens = given.tokens();
            for_each_token(d, [&](TokenId token, double& s) {
                auto longer = tokens;
                longer.push_back(token);
                if (longer.size() <= n) {
                    return;
                }
                const auto last = longer.end() - static_cast<std::ptrdiff_t>(n);
                for (auto i = longer.begin(); i != last; ++i) {
                    s = std::equal(last, longer.end(), i) ? Distribution::removed : s;
                }
            });
        });
}

TEST_CASE("dry against brute force") {
    sweep(
        4,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            given.config.dry = {.multiplier = random.between(0.1, 2.0),
                                .base = random.between(1.0, 1.05),
                                .allowed_length = 1 + static_cast<std::int64_t>(random.below(4))};
            if (random.next() < 0.5) {
                given.config.dry->penalty_last_n = 1 + static_cast<std::int64_t>(random.below(40));
            }
            for (std::size_t i = random.below(3); i > 0; --i) {
                given.vocabulary.breakers.push_back(
                    random.tokens(1 + random.below(4), std::min<std::size_t>(given.logits.size(), 5)));
            }
        },
        dry);
}

TEST_CASE("dry: long repetitions stay within the range of float") {
    Case given{.logits = {1.0f, 2.0f, 0.0f}};
    given.config = {.dry = Dry{.multiplier = 3e38f, .base = 1e30f, .allowed_length = 1}};
    given.prompt.assign(3000, 1);
    CHECK(given.sampler().next(given.logits, 0.0) == 0);
    const auto p = given.sampler().probabilities(given.logits);
    CHECK(p == std::vector<double>{1, 0, 0});
    constexpr float infinity = std::numeric_limits<float>::infinity();
    given.logits = {-infinity, 2.0f, -infinity}; // the only one that is allowed stays so
    CHECK(given.sampler().next(given.logits, 0.0) == 1);
}

TEST_CASE("dry: the texts that break sequences, as tokens") {
    const auto tokenizer = gpt2::Tokenizer::from_memory(
        gpt2::tools::byte_vocabulary_json({"<|endoftext|>", "ab", "abc"}), "#version: 0.2\na b\nab c\n");
    using Sequences = std::vector<std::vector<TokenId>>;
    const auto found = [&](std::vector<std::string> texts) {
        Sequences list = gpt2::sampling::dry_breakers(texts, tokenizer);
        std::sort(list.begin(), list.end());
        return list;
    };
    CHECK(found({"\n"}) == Sequences{{'\n'}});
    CHECK(found({"b"}) == Sequences{{'b'}, {257}, {258}});
    // "bx" may stand in b x, ab x; and "ca" in c a, c ab.., abc a: the rest is encoded by itself.
    CHECK(found({"bx"}) == Sequences{{'b', 'x'}, {257, 'x'}});
    CHECK(found({"ca"}) == Sequences{{'c', 'a'}, {258, 'a'}});
    CHECK(found({}) == Sequences{});
    const auto all = found({"\n", "t"});
    CHECK(std::find(all.begin(), all.end(), std::vector<TokenId>{256}) != all.end()); // <|endoftext|>
}

TEST_CASE("penalties of extreme sizes keep scores finite, and forbidden tokens forbidden") {
    constexpr float most = std::numeric_limits<float>::max();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Case given{.logits = {most, -most, -infinity, 1.0f}};
    given.prompt = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    for (const float a : {most, -most}) {
        given.config = {.do_sample = true, .presence_penalty = a, .frequency_penalty = a};
        const auto p = given.sampler().probabilities(given.logits);
        CHECK(std::accumulate(p.begin(), p.end(), 0.0) == doctest::Approx(1.0));
        CHECK(p[2] == 0.0);
    }
}
