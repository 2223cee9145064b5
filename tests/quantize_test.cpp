// SPDX-License-Identifier: MIT
// Rounding to the integer formats, against the definition written down once more, one weight at a time.
#include "support/compare.hpp"
#include "support/kernel_fixture.hpp"

#include <gpt2/quantize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace gpt2;
using test::mismatch;

/// One group of one output.
struct Group {
    float scale = 0.0f;
    std::vector<int> q;
};

/// By frexp rather than by bits: 8 significant binary digits.
float to_bfloat16(float x, bool up) {
    int exponent = 0;
    const float digits = std::ldexp(std::frexp(x, &exponent), 8);
    return std::ldexp(up ? std::ceil(digits) : std::nearbyint(digits), exponent - 8);
}

Group int8_group(const std::vector<float>& w) {
    float largest = 0.0f;
    for (const float x : w) {
        largest = std::max(largest, std::fabs(x));
    }
    Group group{0.0f, std::vector<int>(w.size(), 0)};
    if (largest / 127.0f >= 0x1p-100f) {
        group.scale = to_bfloat16(largest / 127.0f, true);
        for (std::size_t i = 0; i < w.size(); ++i) {
            group.q[i] = static_cast<int>(std::nearbyint(w[i] / group.scale));
        }
    }
    return group;
}

Group int4_group(const std::vector<float>& w) {
    float m = 0.0f;
    for (const float x : w) {
        m = std::fabs(x) > std::fabs(m) ? x : m;
    }
    Group best{0.0f, std::vector<int>(w.size(), 0)};
    double least = HUGE_VAL;
    for (int i = 0; i < 16 && std::fabs(m) >= 0x1p-100f; ++i) {
        Group group{to_bfloat16(m / -(6.0f + 0.25f * static_cast<float>(i)), false), {}};
        double error = 0.0;
        for (const float x : w) {
            const float q = std::clamp(std::nearbyint(x / group.scale), -8.0f, 7.0f);
            const double d = static_cast<double>(group.scale) * static_cast<double>(q);
            const auto e = static_cast<double>(static_cast<float>(static_cast<double>(x) - d));
            error += e * e;
            group.q.push_back(static_cast<int>(q));
        }
        if (error < least) {
            least = error;
            best = group;
        }
    }
    return best;
}

void check_panel(WeightType type, std::size_t n_inputs, float magnitude) {
    const std::size_t group = kernels::unit_of(type).group;
    test::Numbers numbers(n_inputs);
    std::vector<float> values = numbers.numbers(n_inputs * 32, magnitude);
    for (std::size_t lane = 0; lane < 32; ++lane) { // ties in magnitude, halves, zeros
        values[lane] = magnitude;
        if (n_inputs > 2) {
            values[32 + lane] = -magnitude;
            values[64 + lane] = lane % 3 == 0 ? 0.0f : magnitude / 254.0f * static_cast<float>(lane);
        }
    }
    std::vector<std::byte> panel(kernels::panel_bytes(type, n_inputs), std::byte{0xee});
    detail::encode_panel(type, values.data(), n_inputs, panel.data());
    for (std::size_t lane = 0; lane < 32; ++lane) {
        std::vector<float> found(n_inputs);
        kernels::read_lane(type, panel.data(), n_inputs, lane, found.data());
        std::vector<float> expected;
        for (std::size_t first = 0; first < n_inputs; first += group) {
            std::vector<float> w;
            for (std::size_t k = first; k < std::min(n_inputs, first + group); ++k) {
                w.push_back(values[k * 32 + lane]);
            }
            const Group reference = type == WeightType::int8 ? int8_group(w) : int4_group(w);
            for (const int q : reference.q) {
                expected.push_back(static_cast<float>(q) * reference.scale);
            }
        }
        CAPTURE(lane);
        CHECK(mismatch(found, expected) == "");
    }
}

TEST_CASE("int8 and int4: the rounding of the definition") {
    for (const WeightType type : {WeightType::int8, WeightType::int4}) {
        for (const std::size_t n_inputs : {1u, 2u, 31u, 32u, 33u, 63u, 64u, 65u, 200u, 768u}) {
            for (const float magnitude : {1.0f, 0.3f, 1e-6f, 1e-28f, 1e-31f, 0.0f, 1e30f}) {
                CAPTURE(to_string(type));
                CAPTURE(n_inputs);
                CAPTURE(magnitude);
                check_panel(type, n_inputs, magnitude);
            }
        }
    }
}

TEST_CASE("int8 and int4: errors are at most half a step") {
    test::Numbers numbers(9);
    const std::vector<float> values = numbers.numbers(128 * 32);
    for (const WeightType type : {WeightType::int8, WeightType::int4}) {
        std::vector<std::byte> panel(kernels::panel_bytes(type, 128));
        detail::encode_panel(type, values.data(), 128, panel.data());
        for (std::size_t lane = 0; lane < 32; ++lane) {
            std::vector<float> found(128);
            kernels::read_lane(type, panel.data(), 128, lane, found.data());
            for (std::size_t k = 0; k < 128; ++k) {
                // values are below 1: scales at most 1 / 127 and 1 / 6, but for their rounding; what lies
                // past the end of int4's range by search is up to 2 steps off
                const float bound = type == WeightType::int8 ? 0.5f / 127.0f * 1.008f : 2.0f / 6.0f * 1.004f;
                CHECK(std::fabs(found[k] - values[k * 32 + lane]) <= bound);
            }
        }
    }
}

TEST_CASE("int8 and int4: the padding of the last group is zeros") {
    for (const WeightType type : {WeightType::int8, WeightType::int4}) {
        const std::vector<float> values(32, 1.0f); // one input
        std::vector<std::byte> panel(kernels::panel_bytes(type, 1), std::byte{0xee});
        detail::encode_panel(type, values.data(), 1, panel.data());
        const kernels::UnitShape unit = kernels::unit_of(type);
        const auto zero = static_cast<std::byte>(type == WeightType::int8 ? 128 : 0x88);
        for (std::size_t i = 0; i < unit.scales_at; ++i) {
            const bool first_input = i % 4 == 0 && i < (type == WeightType::int8 ? 128u : 64u);
            CHECK((panel[i] == zero) == !first_input);
        }
    }
}

} // namespace
