// SPDX-License-Identifier: MIT
#include "gpt2/sampling/guidance.hpp"

#include "support/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

using gpt2::TokenId;
using gpt2::test::Case;
using gpt2::test::Distribution;
using gpt2::test::Numbers;

TEST_CASE("guidance_scale as Hugging Face defines it") {
    Numbers random(1);
    const auto exps = gpt2::test::exponentials();
    for (std::size_t i = 0; i < 2000; ++i) {
        CAPTURE(i);
        Case given{.logits = gpt2::test::random_logits(random, 1 + random.below(60))};
        std::vector<float> unguided(given.logits.size());
        std::generate(unguided.begin(), unguided.end(), [&] { return random.between(-5.0, 5.0); });
        given.config.guidance_scale = random.between(-1.0, 4.0);
        const auto g = static_cast<double>(*given.config.guidance_scale);
        Distribution d(given.logits);
        const auto c = d.softmax();
        const auto u = Distribution(unguided).softmax();
        for (std::size_t j = 0; j < d.size(); ++j) {
            d.scores[j] =
                c[j] == 0.0 ? Distribution::removed : g * (std::log(c[j]) - std::log(u[j])) + std::log(u[j]);
        }
        const auto expected = d.softmax();
        const auto found = given.sampler(exps[i % exps.size()]).probabilities(given.logits, 0.0, unguided);
        for (std::size_t j = 0; j < d.size(); ++j) {
            REQUIRE(found[j] == doctest::Approx(expected[j]).epsilon(1e-4));
        }
        const auto best = std::max_element(expected.begin(), expected.end());
        if (std::count_if(expected.begin(), expected.end(), [&](double p) { return p > 0.999 * *best; }) ==
            1) {
            given.config.do_sample = false;
            CHECK(given.sampler().next(given.logits, 0.0, 0.0, unguided) ==
                  static_cast<TokenId>(best - expected.begin()));
        }
    }
}

TEST_CASE("guidance without logits to guide by, and with bad ones") {
    Case given{.logits = {1.0f, 2.0f}};
    given.config.guidance_scale = 2.0f;
    CHECK_THROWS_WITH_AS((void)given.sampler().next(given.logits, 0.0),
                         "guidance_scale is set: expected 2 logits after the negative prompt, found 0",
                         gpt2::OptionError);
    const std::vector<float> bad{0.0f, std::numeric_limits<float>::quiet_NaN()};
    CHECK_THROWS_AS((void)given.sampler().next(given.logits, 0.0, 0.0, bad), gpt2::NumericError);
}
