// SPDX-License-Identifier: MIT
#include "gpt2/sampling/constraints.hpp"

#include "support/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

using gpt2::Sampler;
using gpt2::TokenId;
using gpt2::test::Case;
using gpt2::test::Distribution;
using gpt2::test::Numbers;
using gpt2::test::sweep;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Few different tokens, and sequences of them that a text is likely to end with.
void random_text(Numbers& random, Case& given) {
    const std::size_t n = std::min<std::size_t>(given.logits.size(), 3);
    given.prompt = random.tokens(1 + random.below(3), n);
    given.text = random.tokens(random.below(4), n);
    given.vocabulary.eos = random.token(given.logits.size());
}

std::vector<TokenId> random_sequence(Numbers& random, const Case& given) {
    return random.tokens(1 + random.below(3), std::min<std::size_t>(given.logits.size(), 3));
}

/// Hugging Face's condition: the prefix is the end of a context that is as long as the sequence.
bool may_complete(const std::vector<TokenId>& sequence, const std::vector<TokenId>& tokens) {
    if (sequence.size() == 1) {
        return true;
    }
    if (sequence.size() > tokens.size()) {
        return false;
    }
    const std::size_t begin = tokens.size() - (sequence.size() - 1);
    for (std::size_t i = 0; i + 1 < sequence.size(); ++i) {
        if (tokens[begin + i] != sequence[i]) {
            return false;
        }
    }
    return true;
}

} // namespace

TEST_CASE("sequence_bias and logit_bias are added") {
    sweep(
        1,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            for (int i = 0; i < 4; ++i) {
                const float bias = random.next() < 0.2 ? -infinity : random.between(-5.0, 5.0);
                given.config.sequence_bias[random_sequence(random, given)] = bias;
                given.config.logit_bias[random.token(given.logits.size())] = random.between(-5.0, 5.0);
            }
        },
        [](const Case& given, Distribution& d) {
            for (const auto& [sequence, bias] : given.config.sequence_bias) {
                d[sequence.back()] +=
                    may_complete(sequence, given.tokens()) ? static_cast<double>(bias) : 0.0;
            }
            for (const auto& [token, bias] : given.config.logit_bias) {
                d[token] += static_cast<double>(bias);
            }
        });
}

TEST_CASE("bad_words_ids, suppress_tokens and begin_suppress_tokens forbid") {
    sweep(
        2,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            given.config.bad_words_ids = {random_sequence(random, given), random_sequence(random, given)};
            given.config.suppress_tokens = random.tokens(3, given.logits.size());
            given.config.begin_suppress_tokens = random.tokens(3, given.logits.size());
        },
        [](const Case& given, Distribution& d) {
            for (const auto& sequence : given.config.bad_words_ids) {
                d[sequence.back()] =
                    may_complete(sequence, given.tokens()) ? Distribution::removed : d[sequence.back()];
            }
            for (const TokenId token : given.config.suppress_tokens) {
                d[token] = Distribution::removed;
            }
            for (const TokenId token : given.config.begin_suppress_tokens) {
                d[token] = given.text.empty() ? Distribution::removed : d[token];
            }
        });
}

TEST_CASE("forced tokens, the first and the last") {
    sweep(
        3,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            given.config.max_new_tokens = 4;
            given.config.forced_bos_token_id = random.token(given.logits.size());
            given.config.forced_eos_token_id = random.token(given.logits.size());
            given.config.begin_suppress_tokens = {random.token(given.logits.size())};
        },
        [](const Case& given, Distribution& d) {
            const std::size_t n = given.text.size();
            if (n == 0 || n == 3) {
                std::fill(d.scores.begin(), d.scores.end(), Distribution::removed);
                d[n == 0 ? *given.config.forced_bos_token_id : *given.config.forced_eos_token_id] = 0.0;
            }
            if (n == 1) { // behind a forced first token the second one is the beginning
                d[given.config.begin_suppress_tokens[0]] = Distribution::removed;
            }
        });
}

TEST_CASE("min_new_tokens and exponential_decay_length_penalty move the end of the text") {
    sweep(
        4,
        [](Numbers& random, Case& given) {
            random_text(random, given);
            given.config.min_new_tokens = static_cast<std::int64_t>(random.below(3));
            given.config.exponential_decay_length_penalty = {
                .start = static_cast<std::int64_t>(random.below(3)), .factor = random.between(0.7, 2.0)};
        },
        [](const Case& given, Distribution& d) {
            const auto n = static_cast<std::int64_t>(given.text.size());
            double& s = d[*given.vocabulary.eos];
            const auto& decay = *given.config.exponential_decay_length_penalty;
            if (n < *given.config.min_new_tokens) {
                s = Distribution::removed;
            } else if (n > decay.start && std::isfinite(s)) {
                s +=
                    std::fabs(s) *
                    (std::pow(static_cast<double>(decay.factor), static_cast<double>(n - decay.start)) - 1.0);
            }
        });
}

TEST_CASE("the exponential penalty does not leave the range of float") {
    Case given{.logits = {-1.0f, 0.0f, 5.0f}};
    given.config = {.exponential_decay_length_penalty = {{.start = 0, .factor = 3e38f}}};
    given.text.assign(1000, 1);
    given.vocabulary.eos = 0;
    CHECK(given.sampler().next(given.logits, 0.0) == 0);
    given.vocabulary.eos = 1; // a score of 0 stays 0
    CHECK(given.sampler().next(given.logits, 0.0) == 2);
    given.vocabulary.eos = 0;
    given.config.min_new_tokens = 2000;
    CHECK(given.sampler().next(given.logits, 0.0) == 2);
}

TEST_CASE("the user's own processors see the tokens and change the scores, in order") {
    Case given{.logits = {1.0f, 2.0f, 3.0f, 0.0f}, .prompt = {3, 1}, .text = {2}};
    std::vector<TokenId> seen;
    given.config.top_k = 2;
    given.config.temperature = 0.5f;
    given.config.logits_processors = {[&](std::span<const TokenId> tokens, std::span<float> scores) {
                                          seen.assign(tokens.begin(), tokens.end());
                                          scores[2] = -infinity;
                                      },
                                      [](std::span<const TokenId>, std::span<float> scores) {
                                          scores[0] = scores[2] == -infinity ? 7.0f : 0.0f;
                                      }};
    auto p = given.sampler().probabilities(given.logits);
    CHECK(seen == std::vector<TokenId>{3, 1, 2});
    CHECK(p[0] == doctest::Approx(1.0 / (1.0 + std::exp(-10.0))));
    CHECK(p[1] == doctest::Approx(std::exp(-10.0)).epsilon(1e-3));
    CHECK(p[2] == 0.0);

    // Behind what drops tokens and a temperature: they find what is left, already divided.
    given.config.processor_order = {"temperature", "top_k", "logits_processors"};
    given.config.logits_processors = {[](std::span<const TokenId>, std::span<float> scores) {
        CHECK(scores[0] == -infinity);
        CHECK(scores[1] == 4.0f);
        CHECK(scores[2] == 6.0f);
        CHECK(scores[3] == -infinity);
        scores[3] = 6.0f;
    }};
    p = given.sampler().probabilities(given.logits);
    CHECK(p[3] == p[2]);
    CHECK(p[1] == doctest::Approx(std::exp(-2.0) / (2.0 + std::exp(-2.0))));
}

TEST_CASE("what the user's own processors may not leave behind") {
    Case given{.logits = {1.0f, 2.0f, 3.0f}};
    const auto leaves = [&](float bad, std::size_t from) {
        given.config.logits_processors = {[](std::span<const TokenId>, std::span<float>) {},
                                          [=](std::span<const TokenId>, std::span<float> scores) {
                                              std::fill(scores.begin() + static_cast<std::ptrdiff_t>(from),
                                                        scores.end(), bad);
                                          }};
        return given.sampler();
    };
    CHECK_THROWS_WITH_AS(
        (void)leaves(std::numeric_limits<float>::quiet_NaN(), 1).next(given.logits, 0.0),
        "logits_processors[1]: the score of token 1 is nan, expected a finite number or -infinity",
        gpt2::NumericError);
    CHECK_THROWS_WITH_AS(
        (void)leaves(infinity, 2).next(given.logits, 0.0),
        "logits_processors[1]: the score of token 2 is inf, expected a finite number or -infinity",
        gpt2::NumericError);
    CHECK_THROWS_WITH_AS((void)leaves(-infinity, 0).next(given.logits, 0.0),
                         "logits_processors[1]: all scores are -infinity: no token is allowed",
                         gpt2::NumericError);
    given.config.logits_processors = {
        [](std::span<const TokenId>, std::span<float>) { throw std::runtime_error("mine"); }};
    CHECK_THROWS_WITH((void)given.sampler().next(given.logits, 0.0), "mine");
}

TEST_CASE("when nothing is left, the error names who forbade the last token") {
    Case given{.logits = {1.0f, 2.0f, -infinity}};
    given.config.bad_words_ids = {{0}};
    given.config.suppress_tokens = {1};
    for (const bool do_sample : {false, true}) {
        given.config.do_sample = do_sample;
        CHECK_THROWS_WITH_AS((void)given.sampler().next(given.logits, 0.0),
                             "all scores are -infinity after suppress_tokens: no token is allowed",
                             gpt2::NumericError);
    }
    given.config.suppress_tokens = {};
    CHECK(given.sampler().next(given.logits, 0.0) == 1);
}

TEST_CASE("a forced token has to be one that can be chosen") {
    Case given{.logits = {1.0f, 2.0f}};
    given.config.forced_eos_token_id = 2;
    CHECK_THROWS_WITH_AS((void)given.sampler(),
                         "forced_eos_token_id is 2, expected a token that the tokenizer knows, an id below 2",
                         gpt2::OptionError);
}
