// SPDX-License-Identifier: MIT
#include "gpt2/sampling/mirostat.hpp"

#include "support/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

using gpt2::Sampler;
using gpt2::TokenId;
using gpt2::test::Case;
using gpt2::test::Distribution;
using gpt2::test::Numbers;

namespace {

/// Algorithm 2 of the paper, one token after the other.
struct Reference {
    double tau;
    double eta;
    double mu = 2.0 * tau;

    void cut(Distribution& d) const {
        const auto p = d.softmax();
        const auto order = d.falling();
        for (std::size_t i = 1; i < order.size(); ++i) {
            const double surprise = -std::log2(p[order[i]]);
            d.borderline = d.borderline || std::fabs(surprise - mu) < 1e-5;
            d.scores[order[i]] = surprise > mu ? Distribution::removed : d.scores[order[i]];
        }
    }

    void draw(const Distribution& d, TokenId token) {
        const double p = d.softmax()[static_cast<std::size_t>(token)];
        mu -= eta * (-std::log2(p) - tau);
    }
};

} // namespace

TEST_CASE("mirostat step by step") {
    Numbers random(1);
    std::size_t compared = 0;
    for (int text = 0; text < 60; ++text) {
        CAPTURE(text);
        Case given{.logits = std::vector<float>(50)};
        given.config.temperature = random.between(0.5, 1.5);
        given.config.mirostat = {.tau = random.between(0.5, 5.0), .eta = random.between(0.01, 0.9)};
        Sampler sampler = given.sampler();
        Reference reference{static_cast<double>(given.config.mirostat->tau),
                            static_cast<double>(given.config.mirostat->eta)};
        for (int step = 0; step < 50; ++step) {
            CAPTURE(step);
            given.logits = gpt2::test::random_logits(random, 50);
            Distribution d(given.logits);
            for (double& s : d.scores) {
                s /= static_cast<double>(*given.config.temperature);
            }
            reference.cut(d);
            if (d.borderline) { // from here on the two may go different ways
                break;
            }
            const auto expected = d.softmax();
            const auto found = sampler.probabilities(given.logits); // changes nothing
            for (std::size_t i = 0; i < found.size(); ++i) {
                REQUIRE(found[i] == doctest::Approx(expected[i]).epsilon(3e-5));
            }
            const TokenId token = sampler.next(given.logits, random.next());
            REQUIRE(expected[static_cast<std::size_t>(token)] > 0.0);
            reference.draw(d, token);
            ++compared;
        }
    }
    CHECK(compared > 2500);
}

TEST_CASE("mirostat brings a text to the surprise that it aims at") {
    Numbers random(2);
    Case given{.logits = std::vector<float>(2000)};
    given.config.mirostat = {.tau = 3.0f, .eta = 0.1f};
    Sampler sampler = given.sampler();
    double bits = 0.0;
    constexpr int n = 2000;
    for (int i = 0; i < n; ++i) {
        std::generate(given.logits.begin(), given.logits.end(), [&] { return random.between(-6.0, 6.0); });
        const auto p = sampler.probabilities(given.logits);
        bits -= std::log2(p[static_cast<std::size_t>(sampler.next(given.logits, random.next()))]);
    }
    CHECK(bits / n == doctest::Approx(3.0).epsilon(0.02));
}

TEST_CASE("mirostat and greedy") {
    Case given{.logits = {1.0f, 3.0f, 2.0f}};
    given.config.mirostat = {.tau = 5.0f, .eta = 0.1f};
    given.config.temperature = 0.0f;
    CHECK(given.sampler().next(given.logits, 0.9) == 1);
}
