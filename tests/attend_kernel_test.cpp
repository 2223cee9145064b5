// SPDX-License-Identifier: MIT
// The attention kernels of every instruction set, and the cache that feeds them, against plain loops.
#include "support/compare.hpp"
#include "support/files.hpp"
#include "support/kernel_fixture.hpp"

#include <gpt2/kv_cache.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace gpt2;
using test::Bounded;
using test::GuardedFloats;
using test::mismatch;

constexpr std::size_t head_sizes[] = {1, 8, 16, 24, 64, 80, 128};
constexpr std::size_t depths[] = {1, 15, 16, 17, 63, 64, 65, 128, 129, 300, 1024};

/// One head: a query, and keys and values [T][D] as the cache's type holds them.
struct Head {
    std::size_t head_size;
    std::vector<float> query, keys, values;

    [[nodiscard]] float key(std::size_t t, std::size_t d) const { return keys[t * head_size + d]; }
    [[nodiscard]] float value(std::size_t t, std::size_t d) const { return values[t * head_size + d]; }
};

float stored(float x, KvDtype dtype) {
    return dtype == KvDtype::float16 ? static_cast<float>(half(x)) : x;
}

Head random_head(std::size_t head_size, std::size_t positions, KvDtype dtype, float sharpness) {
    test::Numbers numbers(head_size * 10000 + positions);
    Head head{head_size, numbers.numbers(head_size, sharpness), {}, {}};
    for (std::size_t i = 0; i < positions * head_size; ++i) {
        head.keys.push_back(stored(numbers.number(), dtype));
        head.values.push_back(stored(numbers.number(), dtype));
    }
    return head;
}

/// The kernel's arithmetic, one number at a time: scores by one chain each; per 64 positions the new maximum,
/// the correction of what is there, and the values in order.
std::vector<float> scalar_attend(const Head& head, std::size_t n_positions, bool fused) {
    constexpr std::size_t block = 64;
    std::vector<float> sums(head.head_size, 0.0f);
    float running_max = -std::numeric_limits<float>::infinity();
    float running_sum = 0.0f;
    for (std::size_t first = 0; first < n_positions; first += block) {
        const std::size_t n = std::min(block, n_positions - first);
        std::vector<float> scores;
        for (std::size_t t = first; t < first + n; ++t) {
            float score = 0.0f;
            for (std::size_t d = 0; d < head.head_size; ++d) {
                score = test::multiply_add(head.query[d], head.key(t, d), score, fused);
            }
            scores.push_back(score);
        }
        const float new_max = std::max(running_max, *std::max_element(scores.begin(), scores.end()));
        test::SixteenLanes total;
        for (std::size_t i = 0; i < n; ++i) {
            scores[i] = test::scalar_exp(scores[i] - new_max, fused);
            total[i] += scores[i];
        }
        const float correction = test::scalar_exp(running_max - new_max, fused);
        running_sum = test::multiply_add(running_sum, correction, total.sum(), fused);
        running_max = new_max;
        for (std::size_t d = 0; d < head.head_size; ++d) {
            volatile float sum = sums[d] * correction; // volatile: rounded before the addition
            for (std::size_t i = 0; i < n; ++i) {
                sum = test::multiply_add(scores[i], head.value(first + i, d), sum, fused);
            }
            sums[d] = sum;
        }
    }
    for (float& sum : sums) {
        sum /= running_sum;
    }
    return sums;
}

/// softmax(q K^T) V in float64. An exponent that is off by e changes its weight by a factor exp(e), numerator
/// and denominator alike; the sums add up to n_positions roundings of the sum of magnitudes, and the
/// corrections a few per 64 positions, more where the maximum moves far.
std::vector<Bounded> exact_attend(const Head& head, std::size_t n_positions) {
    std::vector<Bounded> scores;
    double highest = -1e300;
    double lowest = 1e300;
    double score_error = 0.0;
    for (std::size_t t = 0; t < n_positions; ++t) {
        double score = 0.0;
        double magnitude = 0.0;
        for (std::size_t d = 0; d < head.head_size; ++d) {
            const double product = static_cast<double>(head.query[d]) * static_cast<double>(head.key(t, d));
            score += product;
            magnitude += std::fabs(product);
        }
        const auto D = static_cast<double>(head.head_size);
        scores.push_back({score, (D + 2.0) * test::unit_roundoff * magnitude});
        score_error = std::max(score_error, scores.back().error);
        highest = std::max(highest, score);
        lowest = std::min(lowest, score);
    }
    const auto n = static_cast<double>(n_positions);
    const double range = std::min(highest - lowest, 88.0);
    const double per_block = 8.0 + range; // of exp(correction), its argument and the product
    const double roundings = n + 8.0 + range + (std::ceil(n / 64.0) + 1.0) * per_block;
    const double relative = 2.0 * score_error + 2.0 * 1.01 * roundings * test::unit_roundoff;
    std::vector<Bounded> out;
    for (std::size_t d = 0; d < head.head_size; ++d) {
        double weights = 0.0;
        double sum = 0.0;
        double magnitude = 0.0;
        for (std::size_t t = 0; t < n_positions; ++t) {
            const double weight = std::exp(scores[t].value - highest);
            weights += weight;
            sum += weight * static_cast<double>(head.value(t, d));
            magnitude += weight * std::fabs(static_cast<double>(head.value(t, d)));
        }
        out.push_back({sum / weights, relative * magnitude / weights + 1e-37});
    }
    return out;
}

Config one_head_config(std::size_t head_size, std::size_t positions, std::size_t n_head = 1) {
    Config config;
    config.n_layer = 2;
    config.n_head = n_head;
    config.n_embd = head_size * n_head;
    config.n_positions = positions;
    return config;
}

void check_depths(KvDtype dtype, std::size_t head_size, float sharpness) {
    const Head head = random_head(head_size, 1024, dtype, sharpness);
    KvCache cache(one_head_config(head_size, 1024), dtype);
    for (std::size_t t = 0; t < 1024; ++t) {
        cache.write(1, t, head.keys.data() + t * head_size, head.values.data() + t * head_size);
    }
    for (const std::size_t n_positions : depths) {
        const auto expected = exact_attend(head, n_positions);
        for (const Isa isa : test::levels()) {
            CAPTURE(to_string(isa));
            CAPTURE(to_string(dtype));
            CAPTURE(head_size);
            CAPTURE(n_positions);
            GuardedFloats query(head.query, n_positions);
            GuardedFloats out(head_size, n_positions / 2);
            GuardedFloats scratch((head_size + 15) / 16 * 16, 1);
            cache.attend(kernels::kernels_for(isa), 1, 0, query.data(), n_positions, out.data(),
                         scratch.data());
            CHECK(out.intact());
            CHECK(scratch.intact());
            CHECK(mismatch(out.span(), scalar_attend(head, n_positions, test::fuses(isa))) == "");
            CHECK(mismatch(out.span(), expected) == "");
        }
    }
}

TEST_CASE("attend: head sizes and depths, float32 cache") {
    for (const std::size_t head_size : head_sizes) {
        check_depths(KvDtype::float32, head_size, 1.0f);
    }
}
TEST_CASE("attend: head sizes and depths, float16 cache") {
    for (const std::size_t head_size : head_sizes) {
        check_depths(KvDtype::float16, head_size, 1.0f);
    }
}
TEST_CASE("attend: sharp attention, where most weights vanish") {
    check_depths(KvDtype::float32, 64, 40.0f);
    check_depths(KvDtype::float16, 16, 40.0f);
}

TEST_CASE("attend: the bound means something") {
    const auto expected = exact_attend(random_head(64, 1024, KvDtype::float32, 1.0f), 1024);
    for (const Bounded& x : expected) {
        CHECK(x.error < 5e-4);
    }
}

TEST_CASE("attend: with equal scores the result is the mean of the values") {
    Head head = random_head(16, 130, KvDtype::float32, 1.0f);
    std::fill(head.query.begin(), head.query.end(), 0.0f);
    KvCache cache(one_head_config(16, 130), KvDtype::float32);
    std::vector<Bounded> mean(16);
    for (std::size_t t = 0; t < 130; ++t) {
        cache.write(0, t, head.keys.data() + t * 16, head.values.data() + t * 16);
        for (std::size_t d = 0; d < 16; ++d) {
            mean[d].value += static_cast<double>(head.value(t, d)) / 130.0;
            mean[d].error = 132.0 * test::unit_roundoff;
        }
    }
    for (const Isa isa : test::levels()) {
        std::vector<float> out(16);
        std::vector<float> scratch(16);
        cache.attend(kernels::kernels_for(isa), 0, 0, head.query.data(), 130, out.data(), scratch.data());
        CHECK(mismatch(out, mean) == "");
    }
}

/// The kernel on memory of its own, laid out as its documentation says. Everything that is no key or value of
/// the first positions is @p rest, the padding of values included.
template <class Stored>
std::vector<float> attend_amid(const Head& head, std::size_t n_positions, Isa isa, Stored rest) {
    const std::size_t D = head.head_size;
    const std::size_t padded = (D + 15) / 16 * 16;
    const std::size_t room = (n_positions + 15) / 16 * 16; // not one block more: the kernel must not read it
    std::vector<Stored> keys(room * D, rest);
    std::vector<Stored> values(n_positions * padded, rest);
    for (std::size_t t = 0; t < n_positions; ++t) {
        for (std::size_t d = 0; d < D; ++d) {
            keys[(t / 16 * D + d) * 16 + t % 16] = static_cast<Stored>(head.key(t, d));
            values[t * padded + d] = static_cast<Stored>(head.value(t, d));
        }
    }
    std::vector<float> out(D);
    std::vector<float> scratch(padded);
    kernels::kernels_for(isa).attend[sizeof(Stored) == 2 ? 1 : 0]({.query = head.query.data(),
                                                                   .keys = keys.data(),
                                                                   .values = values.data(),
                                                                   .head_size = D,
                                                                   .n_positions = n_positions,
                                                                   .out = out.data(),
                                                                   .scratch = scratch.data()});
    return out;
}

TEST_CASE_TEMPLATE("attend: what lies beyond the positions has no influence", Stored, float, half) {
    constexpr bool is_half = sizeof(Stored) == 2;
    for (const std::size_t head_size : {8u, 24u, 64u, 72u}) {
        for (const std::size_t n_positions : {1u, 2u, 15u, 16u, 17u, 40u, 63u, 64u, 65u, 100u, 129u}) {
            const Head head =
                random_head(head_size, n_positions, is_half ? KvDtype::float16 : KvDtype::float32, 1.0f);
            for (const Isa isa : test::levels()) {
                CAPTURE(to_string(isa));
                CAPTURE(n_positions);
                const auto expected = scalar_attend(head, n_positions, test::fuses(isa));
                for (const float rest : {std::numeric_limits<float>::quiet_NaN(),
                                         std::numeric_limits<float>::infinity(), 60000.0f}) {
                    CHECK(mismatch(attend_amid<Stored>(head, n_positions, isa, Stored(rest)), expected) ==
                          "");
                }
            }
        }
    }
}

TEST_CASE("attend: a query with NaN or infinity gives no finite numbers") {
    constexpr std::size_t D = 24;
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        for (const std::size_t n_positions : {1u, 70u}) {
            Head head = random_head(D, n_positions, KvDtype::float32, 1.0f);
            head.query[0] = bad;
            head.query[3] = bad;
            for (std::size_t t = 0; t < n_positions; ++t) { // infinity - infinity in every score
                head.keys[t * D] = 1.0f;
                head.keys[t * D + 3] = -1.0f;
            }
            for (const Isa isa : test::levels()) {
                CAPTURE(to_string(isa));
                for (const float x : attend_amid<float>(head, n_positions, isa, 0.0f)) {
                    CHECK(!std::isfinite(x));
                }
            }
        }
    }
}

TEST_CASE("KvCache: heads and layers are apart") {
    constexpr std::size_t D = 5;
    const Config config = one_head_config(D, 20, 3);
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::float16}) {
        KvCache cache(config, dtype);
        CHECK(cache.dtype() == dtype);
        CHECK(cache.bytes_read(7) == 2 * 3 * 7 * (D + 16) * (dtype == KvDtype::float32 ? 4u : 2u));
        test::Numbers numbers(5);
        std::vector<Head> heads(6, Head{D, numbers.numbers(D), {}, {}}); // [layer][head]
        for (std::size_t t = 0; t < 20; ++t) {
            for (std::size_t layer = 0; layer < 2; ++layer) {
                const auto key = numbers.numbers(3 * D);
                const auto value = numbers.numbers(3 * D);
                cache.write(layer, t, key.data(), value.data());
                for (std::size_t i = 0; i < 3 * D; ++i) {
                    Head& head = heads[layer * 3 + i / D];
                    head.keys.push_back(stored(key[i], dtype));
                    head.values.push_back(stored(value[i], dtype));
                }
            }
        }
        const Isa isa = supported_isa();
        for (std::size_t i = 0; i < 6; ++i) {
            std::vector<float> out(D);
            std::vector<float> scratch(16);
            cache.attend(kernels::kernels_for(isa), i / 3, i % 3, heads[i].query.data(), 20, out.data(),
                         scratch.data());
            CHECK(mismatch(out, scalar_attend(heads[i], 20, test::fuses(isa))) == "");
        }
    }
}

TEST_CASE("KvCache: what the type cannot hold is an error") {
    const Config config = one_head_config(4, 16);
    KvCache half_cache(config, KvDtype::float16);
    KvCache float_cache(config, KvDtype::float32);
    const float fine[] = {65519.0f, -65519.0f, 0.0f, 1e-20f};
    half_cache.write(0, 0, fine, fine);
    const auto refused = [&](KvCache& cache, float bad, const char* type) {
        const float numbers[] = {1.0f, 2.0f, bad, 3.0f};
        test::check_throws<NumericError>([&] { cache.write(1, 3, numbers, fine); }, {"layer 1", type});
        test::check_throws<NumericError>([&] { cache.write(1, 3, fine, numbers); }, {"layer 1", type});
    };
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const float bad : {65520.0f, -65520.0f, 1e30f, infinity, -infinity, std::nanf("")}) {
        refused(half_cache, bad, "float16");
    }
    for (const float bad : {infinity, -infinity, std::nanf("")}) {
        refused(float_cache, bad, "float32");
    }
    const float large[] = {65520.0f, 1e38f, -1e38f, 0.0f};
    float_cache.write(0, 0, large, large);
}

} // namespace
