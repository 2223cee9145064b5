// SPDX-License-Identifier: MIT
// Packing of checkpoint tensors into panels.
#include "support/compare.hpp"
#include "support/files.hpp"
#include "support/layer_fixture.hpp"

#include <gpt2/packed_matrix.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

namespace {

using namespace gpt2;
using test::mismatch;

constexpr WeightType float_types[] = {WeightType::float32, WeightType::float16, WeightType::bfloat16};

/// Calls @p body with a value of the C++ type of a float format.
template <class Body> void with_weight_type(WeightType type, Body&& body) {
    if (type == WeightType::float16) {
        body(half{});
    } else if (type == WeightType::bfloat16) {
        body(bfloat16{});
    } else {
        body(float{});
    }
}

/// Packs a matrix and looks at each place of each panel.
template <class Target, class Source>
void check_pack(WeightType type, MatrixLayout layout, std::size_t K, std::size_t N, std::size_t n_threads) {
    CAPTURE(to_string(type));
    CAPTURE(K);
    CAPTURE(N);
    const bool by_inputs = layout == MatrixLayout::inputs_by_outputs;
    test::Numbers numbers(K * 1000 + N);
    std::vector<Source> source;
    for (std::size_t i = 0; i < K * N; ++i) {
        source.push_back(Source(numbers.number()));
    }
    const auto owned =
        test::make_tensor<Source>("w", by_inputs ? std::vector{K, N} : std::vector{N, K}, source);
    ThreadPool pool(n_threads);
    const PackedMatrix matrix = PackedMatrix::pack(owned.tensor, layout, type, pool);
    REQUIRE(matrix.type() == type);
    REQUIRE(matrix.n_inputs() == K);
    REQUIRE(matrix.n_outputs() == N);
    const std::size_t places = (N + 31) / 32 * 32 * K;
    REQUIRE(matrix.bytes() == places * sizeof(Target));
    REQUIRE(reinterpret_cast<std::uintptr_t>(matrix.panels()) % 64 == 0);

    std::vector<Target> expected(places, Target(0.0f));
    std::vector<std::vector<float>> outputs(N);
    for (std::size_t n = 0; n < N; ++n) {
        for (std::size_t k = 0; k < K; ++k) {
            const Source value = source[by_inputs ? k * N + n : n * K + k];
            const std::size_t lane = n % 32;
            // The layout of panel.hpp, written out once more.
            const std::size_t slot = type != WeightType::bfloat16 ? lane : lane % 16 * 2 + lane / 16;
            Target& place = expected[n / 32 * 32 * K + k * 32 + slot];
            place = static_cast<Target>(static_cast<float>(value));
            outputs[n].push_back(static_cast<float>(place));
        }
    }
    CHECK(std::memcmp(matrix.panels(), expected.data(), places * sizeof(Target)) == 0);
    for (std::size_t n = 0; n < N; ++n) {
        std::vector<float> output(K);
        matrix.read_output(n, output.data());
        CHECK(mismatch(output, outputs[n]) == "");
    }
}

TEST_CASE("PackedMatrix: each weight in its place, from both layouts, between all types") {
    for (const WeightType type : float_types) {
        for (const WeightType from : float_types) {
            for (const auto layout : {MatrixLayout::inputs_by_outputs, MatrixLayout::outputs_by_inputs}) {
                for (const auto& shape : {std::pair<std::size_t, std::size_t>{1, 1},
                                          {3, 31},
                                          {2, 32},
                                          {7, 33},
                                          {64, 100},
                                          {5, 257}}) {
                    with_weight_type(type, [&]<class Target>(Target) {
                        with_weight_type(from, [&]<class Source>(Source) {
                            check_pack<Target, Source>(type, layout, shape.first, shape.second,
                                                       shape.second % 3 + 1);
                        });
                    });
                }
            }
        }
    }
}

template <class Source> void check_refused(Source value, WeightType type) {
    for (const std::size_t at : {0u, 50u, 99u}) {
        std::vector<Source> source(100, Source(1.0f));
        source[at] = value;
        const auto owned = test::make_tensor<Source>("h.3.mlp.c_fc.weight", {10, 10}, source);
        for (const std::size_t n_threads : {1u, 2u}) {
            ThreadPool pool(n_threads);
            test::check_throws<NumericError>(
                [&] {
                    static_cast<void>(
                        PackedMatrix::pack(owned.tensor, MatrixLayout::inputs_by_outputs, type, pool));
                },
                {"h.3.mlp.c_fc.weight", "expected", "found"});
        }
    }
}

TEST_CASE("PackedMatrix: a value that the format cannot hold is an error naming the tensor") {
    check_refused(65520.0f, WeightType::float16);
    check_refused(-1e20f, WeightType::float16);
    check_refused(bfloat16(65536.0f), WeightType::float16);
    check_refused(std::numeric_limits<float>::max(), WeightType::bfloat16);
    for (const WeightType type : {WeightType::int8, WeightType::int4}) {
        check_refused(0x1p127f, type);
        check_refused(-std::numeric_limits<float>::infinity(), type);
        check_refused(std::numeric_limits<float>::quiet_NaN(), type);
    }
    // What just fits is taken.
    ThreadPool pool(1);
    const std::vector<float> most(4, 65519.0f);
    const auto owned = test::make_tensor<float>("w", {2, 2}, most);
    float out[2];
    PackedMatrix::pack(owned.tensor, MatrixLayout::inputs_by_outputs, WeightType::float16, pool)
        .read_output(1, out);
    CHECK(out[0] == 65504.0f);
}

TEST_CASE("PackedMatrix: copies share the memory") {
    ThreadPool pool(1);
    const std::vector<float> values(6, 2.0f);
    const auto owned = test::make_tensor<float>("w", {2, 3}, values);
    PackedMatrix copy;
    {
        const auto matrix =
            PackedMatrix::pack(owned.tensor, MatrixLayout::inputs_by_outputs, WeightType::float32, pool);
        copy = matrix;
        CHECK(copy.panels() == matrix.panels());
    }
    float out[2] = {};
    copy.read_output(2, out);
    CHECK(out[1] == 2.0f);
    CHECK(PackedMatrix().panels() == nullptr);
    CHECK(PackedMatrix().bytes() == 0);
}

} // namespace
