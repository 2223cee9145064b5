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
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace gpt2;
using test::Bounded;
using test::GuardedFloats;
using test::mismatch;

constexpr std::size_t head_sizes[] = {1, 5, 8, 16, 24, 40, 64, 80, 128};
constexpr KvDtype kv_dtypes[] = {KvDtype::float32, KvDtype::float16};
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

/// The kernel's arithmetic, one query and one number at a time: scores by one chain each; per 64 positions
/// the new maximum, the correction of what is there, and the values in order.
std::vector<float> scalar_attend(const Head& head, std::span<const float> query, std::size_t n_positions,
                                 bool fused) {
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
                score = test::multiply_add(query[d], head.key(t, d), score, fused);
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

std::vector<float> scalar_attend(const Head& head, std::size_t n_positions, bool fused) {
    return scalar_attend(head, head.query, n_positions, fused);
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

/// Keys and values of @p head, from position @p first on, into head 0 of a cache.
void write(KvCache& cache, std::size_t layer, const Head& head, std::size_t first, std::size_t n, Isa isa) {
    cache.write(kernels::kernels_for(isa), layer, 0,
                {.keys = head.keys.data() + first * head.head_size,
                 .values = head.values.data() + first * head.head_size,
                 .row_stride = head.head_size,
                 .n_rows = n,
                 .position = first});
}

/// One query against head @p index of a cache.
std::vector<float> attend_one(const KvCache& cache, std::size_t layer, std::size_t index,
                              std::span<const float> query, std::size_t n_positions, Isa isa) {
    GuardedFloats guarded(query, n_positions);
    GuardedFloats out(query.size(), n_positions / 2);
    GuardedFloats scratch(2 * kernels::padded_head_size(query.size()), 1);
    cache.attend(kernels::kernels_for(isa), layer, index,
                 {.queries = guarded.data(),
                  .n_queries = 1,
                  .n_positions = n_positions,
                  .out = out.data(),
                  .scratch = scratch.data()});
    CHECK(out.intact());
    CHECK(scratch.intact());
    return {out.span().begin(), out.span().end()};
}

void check_depths(KvDtype dtype, std::size_t head_size, float sharpness) {
    const Head head = random_head(head_size, 1024, dtype, sharpness);
    KvCache cache(one_head_config(head_size, 1024), dtype);
    write(cache, 1, head, 0, 1024, supported_isa());
    for (const std::size_t n_positions : depths) {
        const auto expected = exact_attend(head, n_positions);
        for (const Isa isa : test::levels()) {
            CAPTURE(to_string(isa));
            CAPTURE(to_string(dtype));
            CAPTURE(head_size);
            CAPTURE(n_positions);
            const auto out = attend_one(cache, 1, 0, head.query, n_positions, isa);
            CHECK(mismatch(out, scalar_attend(head, n_positions, test::fuses(isa))) == "");
            CHECK(mismatch(out, expected) == "");
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
    write(cache, 0, head, 0, 130, supported_isa());
    for (std::size_t t = 0; t < 130; ++t) {
        for (std::size_t d = 0; d < 16; ++d) {
            mean[d].value += static_cast<double>(head.value(t, d)) / 130.0;
            mean[d].error = 132.0 * test::unit_roundoff;
        }
    }
    for (const Isa isa : test::levels()) {
        CHECK(mismatch(attend_one(cache, 0, 0, head.query, 130, isa), mean) == "");
    }
}

/// Queries at consecutive positions, in memory of their own.
struct Queries {
    std::size_t head_size;
    std::vector<float> numbers; ///< [n][D]

    [[nodiscard]] std::span<const float> operator[](std::size_t i) const {
        return std::span(numbers).subspan(i * head_size, head_size);
    }
};

/// The kernel on memory of its own, laid out as its documentation says: @p n queries, of which the first sees
/// @p n_positions. Everything that is no key or value of the positions that the last one sees is @p rest.
template <class Stored>
std::vector<float> attend_amid(const Head& head, std::span<const float> queries, std::size_t n,
                               std::size_t n_positions, Isa isa, Stored rest, float scale = 1.0f) {
    const std::size_t D = head.head_size;
    const std::size_t padded = (D + 15) / 16 * 16;
    const std::size_t last = n_positions + n - 1;
    const std::size_t stride = 64 * (D + padded) + 32;
    std::vector<Stored> blocks((last + 63) / 64 * stride - 32, rest); // the kernel must not read more
    for (std::size_t t = 0; t < last; ++t) {
        Stored* const block = blocks.data() + t / 64 * stride;
        for (std::size_t d = 0; d < D; ++d) {
            block[(t % 64 / 16 * D + d) * 16 + t % 16] = static_cast<Stored>(head.key(t, d));
            block[64 * D + t % 64 * padded + d] = static_cast<Stored>(head.value(t, d));
        }
    }
    GuardedFloats out(n * (D + 3), n);
    GuardedFloats scratch(n * 2 * padded, 1);
    kernels::kernels_for(isa).attend[sizeof(Stored) == 2 ? 1 : 0]({.queries = queries.data(),
                                                                   .query_stride = D,
                                                                   .n_queries = n,
                                                                   .blocks = blocks.data(),
                                                                   .block_stride = stride,
                                                                   .head_size = D,
                                                                   .n_positions = n_positions,
                                                                   .scale = scale,
                                                                   .out = out.data(),
                                                                   .out_stride = D + 3,
                                                                   .scratch = scratch.data()});
    CHECK(out.intact());
    CHECK(scratch.intact());
    std::vector<float> rows;
    for (std::size_t i = 0; i < n; ++i) {
        const auto row = out.span().subspan(i * (D + 3), D + 3);
        rows.insert(rows.end(), row.begin(), row.end() - 3);
        CHECK(std::all_of(row.end() - 3, row.end(), GuardedFloats::untouched));
    }
    return rows;
}

/// What each query is alone, by position of the query.
std::vector<float> scalar_queries(const Head& head, const Queries& queries, float scale, bool fused) {
    std::vector<float> rows;
    for (std::size_t t = 0; t < queries.numbers.size() / queries.head_size; ++t) {
        std::vector<float> query(queries[t].begin(), queries[t].end());
        for (float& x : query) {
            x *= scale;
        }
        const auto row = scalar_attend(head, query, t + 1, fused);
        rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
}

template <class Stored> void check_queries(std::size_t D, float sharpness) {
    constexpr std::size_t T = 200;
    constexpr float scale = 0.3f;
    Head head = random_head(D, T, sizeof(Stored) == 2 ? KvDtype::float16 : KvDtype::float32, 1.0f);
    std::fill_n(head.values.begin() + static_cast<std::ptrdiff_t>(60 * D), 9 * D, -0.0f);
    const Queries queries{D, test::Numbers(D).numbers(T * D, sharpness)};
    for (const Isa isa : test::levels()) {
        const auto expected = scalar_queries(head, queries, scale, test::fuses(isa));
        for (const std::size_t first : {0u, 1u, 14u, 59u, 60u, 61u, 62u, 63u, 64u, 65u, 125u, 128u, 130u}) {
            for (const std::size_t n : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 11u, 16u, 64u, 70u}) {
                CAPTURE(to_string(isa));
                CAPTURE(D);
                CAPTURE(first);
                CAPTURE(n);
                const auto out = attend_amid<Stored>(
                    head, std::span(queries.numbers).subspan(first * D, n * D), n, first + 1, isa,
                    Stored(std::numeric_limits<float>::quiet_NaN()), scale);
                CHECK(mismatch(out, std::span(expected).subspan(first * D, n * D)) == "");
            }
        }
    }
}

TEST_CASE_TEMPLATE("attend: queries together are what each is alone", Stored, float, half) {
    for (const std::size_t head_size : {1u, 5u, 16u, 40u, 64u, 80u}) {
        check_queries<Stored>(head_size, 1.0f);
    }
    check_queries<Stored>(24, 40.0f); // most weights vanish
}

TEST_CASE_TEMPLATE("attend: what lies beyond the positions has no influence", Stored, float, half) {
    constexpr bool is_half = sizeof(Stored) == 2;
    constexpr std::size_t n_queries = 3;
    for (const std::size_t head_size : {8u, 24u, 64u, 72u}) {
        for (const std::size_t n_positions : {1u, 2u, 15u, 16u, 17u, 40u, 62u, 63u, 64u, 65u, 100u, 129u}) {
            const Head head = random_head(head_size, n_positions + n_queries,
                                          is_half ? KvDtype::float16 : KvDtype::float32, 1.0f);
            const auto queries = test::Numbers(3).numbers(n_queries * head_size);
            for (const Isa isa : test::levels()) {
                CAPTURE(to_string(isa));
                CAPTURE(n_positions);
                std::vector<float> expected;
                for (std::size_t i = 0; i < n_queries; ++i) {
                    const auto row = scalar_attend(head, std::span(queries).subspan(i * head_size, head_size),
                                                   n_positions + i, test::fuses(isa));
                    expected.insert(expected.end(), row.begin(), row.end());
                }
                for (const float rest : {std::numeric_limits<float>::quiet_NaN(),
                                         std::numeric_limits<float>::infinity(), 60000.0f}) {
                    const auto out =
                        attend_amid<Stored>(head, queries, n_queries, n_positions, isa, Stored(rest));
                    CHECK(mismatch(out, expected) == "");
                }
            }
        }
    }
}

TEST_CASE_TEMPLATE("attend: what later queries see has no influence on earlier ones", Stored, float, half) {
    constexpr bool is_half = sizeof(Stored) == 2;
    constexpr std::size_t D = 24;
    constexpr std::size_t n = 8;
    const auto queries = test::Numbers(4).numbers(n * D);
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), -0.0f}) {
        for (const std::size_t n_positions : {1u, 9u, 57u, 60u, 64u, 65u, 101u}) {
            const Head good =
                random_head(D, n_positions + n, is_half ? KvDtype::float16 : KvDtype::float32, 1.0f);
            for (std::size_t later = 1; later < n; ++later) {
                Head head = good; // what only queries from `later` on see is bad
                const std::size_t from = (n_positions + later - 1) * D;
                std::fill(head.keys.begin() + static_cast<std::ptrdiff_t>(from), head.keys.end(), bad);
                std::fill(head.values.begin() + static_cast<std::ptrdiff_t>(from), head.values.end(), bad);
                for (const Isa isa : test::levels()) {
                    CAPTURE(to_string(isa));
                    CAPTURE(bad);
                    CAPTURE(n_positions);
                    const auto expected =
                        attend_amid<Stored>(good, queries, n, n_positions, isa, Stored(0.0f));
                    const auto out = attend_amid<Stored>(head, queries, n, n_positions, isa, Stored(0.0f));
                    CHECK(mismatch(std::span(out).first(later * D), std::span(expected).first(later * D)) ==
                          "");
                }
            }
        }
    }
}

TEST_CASE("attend: a query with NaN or infinity gives no finite numbers, and others beside it are well") {
    constexpr std::size_t D = 24;
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        for (const std::size_t n_positions : {1u, 70u}) {
            constexpr std::size_t n = 5;
            Head head = random_head(D, n_positions + n, KvDtype::float32, 1.0f);
            for (std::size_t t = 0; t < n_positions + n; ++t) { // infinity - infinity in every score
                head.keys[t * D] = 1.0f;
                head.keys[t * D + 3] = -1.0f;
            }
            for (std::size_t i = 0; i < n; ++i) {
                auto queries = test::Numbers(9).numbers(n * D);
                const auto good = queries;
                queries[i * D] = bad;
                queries[i * D + 3] = bad;
                for (const Isa isa : test::levels()) {
                    CAPTURE(to_string(isa));
                    const auto expected = attend_amid<float>(head, good, n, n_positions, isa, 0.0f);
                    const auto out = attend_amid<float>(head, queries, n, n_positions, isa, 0.0f);
                    for (std::size_t j = 0; j < n; ++j) {
                        const auto row = std::span(out).subspan(j * D, D);
                        if (j == i) {
                            CHECK(std::none_of(row.begin(), row.end(),
                                               [](float x) { return std::isfinite(x); }));
                        } else {
                            CHECK(mismatch(row, std::span(expected).subspan(j * D, D)) == "");
                        }
                    }
                }
            }
        }
    }
}

/// The largest rounding errors of float16, ties among them, and what is at the ends of its range.
std::vector<float> hard_to_round(std::size_t n) {
    std::vector<float> list{0.0f,     -0.0f,    0x1p-24f, 0x1p-25f,    0x1.000002p-25f, 0x1.8p-24f,
                            0x1p-14f, 65504.0f, 65519.0f, -65519.996f, 0x1p-149f};
    test::Numbers numbers(1);
    while (list.size() < n) {
        const float x = static_cast<float>(half(numbers.number() * 100.0f));
        list.push_back(x * (1.0f + 0x1p-11f)); // halfway between two, or near
        list.push_back(numbers.number() * 0x1p-14f);
    }
    list.resize(n);
    return list;
}

template <class Stored> void check_write(std::size_t D, std::size_t position, std::size_t n, Isa isa) {
    const std::size_t padded = (D + 15) / 16 * 16;
    const std::size_t stride = 64 * (D + padded);
    const std::size_t row = 2 * D + 5;
    auto rows = hard_to_round(n * row);
    std::rotate(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(position % rows.size()), rows.end());
    const Stored rest(7.0f);
    std::vector<Stored> blocks(4 * stride, rest);
    auto expected = blocks;
    for (std::size_t i = 0; i < n; ++i) {
        const std::size_t t = position + i;
        for (std::size_t d = 0; d < padded; ++d) {
            const std::size_t block = t / 64 * stride;
            if (d < D) {
                expected[block + (t % 64 / 16 * D + d) * 16 + t % 16] =
                    static_cast<Stored>(rows[i * row + d]);
            }
            expected[block + 64 * D + t % 64 * padded + d] =
                static_cast<Stored>(d < D ? rows[i * row + D + d] : 0.0f);
        }
    }
    CHECK(kernels::kernels_for(isa).write_kv[sizeof(Stored) == 2 ? 1 : 0]({.keys = rows.data(),
                                                                           .values = rows.data() + D,
                                                                           .row_stride = row,
                                                                           .n_rows = n,
                                                                           .head_size = D,
                                                                           .position = position,
                                                                           .blocks = blocks.data(),
                                                                           .block_stride = stride}));
    CHECK(std::memcmp(blocks.data(), expected.data(), blocks.size() * sizeof(Stored)) == 0);
}

TEST_CASE_TEMPLATE("write_kv: every number in its place, rounded to nearest even", Stored, float, half) {
    for (const Isa isa : test::levels()) {
        for (const std::size_t head_size : {1u, 5u, 16u, 40u, 64u, 80u}) {
            for (const std::size_t position : {0u, 1u, 15u, 16u, 40u, 63u, 64u, 100u}) {
                for (const std::size_t n : {1u, 2u, 15u, 16u, 17u, 33u, 90u}) {
                    CAPTURE(to_string(isa));
                    CAPTURE(head_size);
                    CAPTURE(position);
                    CAPTURE(n);
                    check_write<Stored>(head_size, position, n, isa);
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
        const Isa isa = supported_isa();
        std::vector<Head> heads(6, Head{D, numbers.numbers(D), {}, {}}); // [layer][head]
        for (std::size_t t = 0; t < 20; ++t) {
            for (std::size_t layer = 0; layer < 2; ++layer) {
                const auto key = numbers.numbers(3 * D);
                const auto value = numbers.numbers(3 * D);
                for (std::size_t i = 0; i < 3; ++i) {
                    cache.write(kernels::kernels_for(isa), layer, i,
                                {.keys = key.data() + i * D,
                                 .values = value.data() + i * D,
                                 .n_rows = 1,
                                 .position = t});
                }
                for (std::size_t i = 0; i < 3 * D; ++i) {
                    Head& head = heads[layer * 3 + i / D];
                    head.keys.push_back(stored(key[i], dtype));
                    head.values.push_back(stored(value[i], dtype));
                }
            }
        }
        for (std::size_t i = 0; i < 6; ++i) {
            const auto out = attend_one(cache, i / 3, i % 3, heads[i].query, 20, isa);
            CHECK(mismatch(out, scalar_attend(heads[i], 20, test::fuses(isa))) == "");
        }
    }
}

TEST_CASE("KvCache: what the type cannot hold is an error, wherever it stands") {
    constexpr std::size_t D = 21; // a whole vector and a part
    const Config config = one_head_config(D, 80);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const KvDtype dtype : kv_dtypes) {
        KvCache cache(config, dtype);
        const bool is_half = dtype == KvDtype::float16;
        const float most = is_half ? 65519.0f : 3.4e38f;
        std::vector<float> bad{infinity, -infinity, std::nanf(""), -std::nanf("")};
        if (is_half) {
            bad.insert(bad.end(), {65520.0f, -65520.0f, 1e30f});
        }
        for (const Isa isa : test::levels()) {
            CAPTURE(to_string(isa));
            Head head{D, {}, std::vector<float>(40 * D, most), std::vector<float>(40 * D, -most)};
            write(cache, 1, head, 20, 20, isa);
            for (const std::size_t where : {20 * D, 20 * D + 15, 27 * D + 16, 40 * D - 1}) {
                for (std::vector<float>* const numbers : {&head.keys, &head.values}) {
                    for (const float x : bad) {
                        const float good = std::exchange((*numbers)[where], x);
                        test::check_throws<NumericError>([&] { write(cache, 1, head, 20, 20, isa); },
                                                         {"layer 1", to_string(dtype), "KV cache"});
                        (*numbers)[where] = good;
                    }
                }
            }
        }
    }
}

} // namespace
