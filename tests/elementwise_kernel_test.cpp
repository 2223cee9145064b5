// SPDX-License-Identifier: MIT
// Layer normalisation, the exponential and GELU of every instruction set against plain loops.
#include "support/compare.hpp"
#include "support/kernel_fixture.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace gpt2;
using namespace gpt2::kernels;
using test::Bounded;
using test::GuardedFloats;
using test::mismatch;

constexpr float infinity = std::numeric_limits<float>::infinity();

using Elementwise = void (*)(const Kernels&, const float*, float*, std::size_t);

void exp_of(const Kernels& kernels, const float* x, float* out, std::size_t n) {
    kernels.exp_shifted(x, 0.0f, out, n);
}
void gelu_tanh_of(const Kernels& kernels, const float* x, float* out, std::size_t n) {
    kernels.gelu_tanh(x, out, n);
}
void gelu_erf_of(const Kernels& kernels, const float* x, float* out, std::size_t n) {
    kernels.gelu_erf(x, out, n);
}

/// Lengths around the tails, at every alignment: each element is what it is alone, and nothing else is
/// written.
void check_tails(Elementwise function, float (*scalar)(float, bool)) {
    for (const Isa isa : test::levels()) {
        for (std::size_t n = 1; n <= 70; ++n) {
            CAPTURE(to_string(isa));
            CAPTURE(n);
            GuardedFloats x(test::Numbers(n).numbers(n, 5.0f), n);
            GuardedFloats out(n, n / 3);
            function(kernels_for(isa), x.data(), out.data(), n);
            std::vector<float> expected;
            for (const float value : x.span()) {
                expected.push_back(scalar(value, test::fuses(isa)));
            }
            CHECK(out.intact());
            CHECK(mismatch(out.span(), expected) == "");
            function(kernels_for(isa), x.data(), x.data(), n); // in place
            CHECK(x.intact());
            CHECK(mismatch(x.span(), expected) == "");
        }
    }
}

TEST_CASE("exp_shifted: tails and alignments") {
    check_tails(exp_of, test::scalar_exp);
}
TEST_CASE("gelu_tanh: tails and alignments") {
    check_tails(gelu_tanh_of, test::scalar_gelu_tanh);
}
TEST_CASE("gelu_erf: tails and alignments") {
    check_tails(gelu_erf_of, test::scalar_gelu_erf);
}

/// Numbers from @p low to @p high, ascending, in steps of about 1e-4 with some noise.
std::vector<float> sweep(double low, double high) {
    test::Numbers numbers(7);
    std::vector<float> list{static_cast<float>(low)};
    for (double x = low; x < high; x += 1e-4) {
        list.push_back(static_cast<float>(x + 4e-5 * (1.0 + static_cast<double>(numbers.number()))));
    }
    list.push_back(static_cast<float>(high));
    std::sort(list.begin(), list.end());
    return list;
}

TEST_CASE("exp_shifted: at most 2 units in the last place, and ascending") {
    // The whole range; then small magnitudes, where the sweep has few; all the kernel's rounding borders.
    std::vector<float> x = sweep(-87.3365, 88.0);
    for (float tiny = 1e-3f; tiny > 1e-40f; tiny *= 0.37f) {
        x.insert(x.end(), {tiny, -tiny});
    }
    for (int n = -251; n < 254; ++n) {
        const auto border = static_cast<float>(0.5 * n * std::log(2.0));
        x.insert(x.end(), {std::nextafter(border, -infinity), border, std::nextafter(border, infinity)});
    }
    std::sort(x.begin(), x.end());
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        std::vector<float> out(x.size());
        kernels_for(isa).exp_shifted(x.data(), 0.0f, out.data(), x.size());
        std::vector<Bounded> expected;
        std::vector<float> scalar;
        std::size_t descents = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double value = std::exp(static_cast<double>(x[i]));
            const double ulp = std::ldexp(1.0, std::ilogb(value) - 23);
            expected.push_back({value, 2.0 * ulp});
            scalar.push_back(test::scalar_exp(x[i], test::fuses(isa)));
            if (i > 0 && out[i] < out[i - 1] * (1.0f - 0x1p-22f)) {
                ++descents;
            }
        }
        CHECK(mismatch(out, expected) == "");
        CHECK(mismatch(out, scalar) == "");
        CHECK(descents == 0);
    }
}

TEST_CASE("exp_shifted: borders") {
    const float x[] = {0.0f,   -0.0f,   -infinity, -87.33654f, -87.34f, -100.0f,
                       -1e30f, -1e-45f, 1e-45f,    88.0f,      1.0f,    -87.33f};
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        float out[std::size(x)];
        kernels_for(isa).exp_shifted(x, 0.0f, out, std::size(x));
        CHECK(out[0] == 1.0f);
        CHECK(out[1] == 1.0f);
        for (const std::size_t zero : {2u, 4u, 5u, 6u}) {
            CHECK(std::bit_cast<std::uint32_t>(out[zero]) == 0u);
        }
        CHECK(out[3] >= std::numeric_limits<float>::min());
        CHECK(out[7] == 1.0f);
        CHECK(out[8] == 1.0f);
        CHECK(std::isfinite(out[9]));
    }
}

TEST_CASE("exp_shifted: exp(x - shift), exactly 1 where they are equal") {
    const std::vector<float> x = test::Numbers(3).numbers(100, 30.0f);
    const float shift = *std::max_element(x.begin(), x.end());
    for (const Isa isa : test::levels()) {
        std::vector<float> out(x.size());
        kernels_for(isa).exp_shifted(x.data(), shift, out.data(), x.size());
        std::vector<Bounded> expected;
        std::vector<float> scalar;
        for (const float value : x) {
            expected.push_back(
                test::exp(Bounded(static_cast<double>(value)) - Bounded(static_cast<double>(shift))));
            scalar.push_back(test::scalar_exp(value - shift, test::fuses(isa)));
        }
        CHECK(mismatch(out, expected) == "");
        CHECK(mismatch(out, scalar) == "");
        CHECK(*std::max_element(out.begin(), out.end()) == 1.0f);
    }
}

TEST_CASE("gelu_tanh: against float64") {
    std::vector<float> x = sweep(-14.0, 14.0);
    for (const float extreme : {1e-40f, 1e-30f, 1e-10f, 20.0f, 100.0f, 1e4f, 1e9f}) {
        x.insert(x.end(), {extreme, -extreme});
    }
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        std::vector<float> out(x.size());
        kernels_for(isa).gelu_tanh(x.data(), out.data(), x.size());
        std::vector<Bounded> expected;
        std::size_t loose_bounds = 0;
        std::vector<float> scalar;
        for (const float value : x) {
            // The tanh form itself; test::gelu_tanh() gives the bound.
            const double v = static_cast<double>(value);
            const double pi = std::acos(-1.0);
            const double u = std::sqrt(2.0 / pi) * (v + 0.044715 * v * v * v);
            const Bounded bound = test::gelu_tanh(Bounded(v));
            expected.push_back({0.5 * v * (1.0 + std::tanh(u)), bound.error + 1e-15 * std::fabs(v)});
            scalar.push_back(test::scalar_gelu_tanh(value, test::fuses(isa)));
            loose_bounds += bound.error > 4e-6 * std::fabs(v) + 1e-40 ? 1 : 0;
        }
        CHECK(loose_bounds == 0);
        CHECK(mismatch(out, expected) == "");
        CHECK(mismatch(out, scalar) == "");
    }
}

TEST_CASE("gelu_erf: against float64, and within 7 units in the last place where multiply-adds are fused") {
    std::vector<float> x = sweep(-14.0, 14.0);
    for (const float extreme : {1e-40f, 1e-30f, 1e-10f, 1e-6f, 1e-4f, 20.0f, 100.0f, 1e4f, 1e9f, 3e38f}) {
        x.insert(x.end(), {extreme, -extreme});
    }
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        const bool fused = test::fuses(isa);
        std::vector<float> out(x.size());
        kernels_for(isa).gelu_erf(x.data(), out.data(), x.size());
        std::vector<Bounded> expected;
        std::vector<Bounded> close;
        std::vector<float> scalar;
        std::size_t loose_bounds = 0;
        for (const float value : x) {
            const double v = static_cast<double>(value);
            const double exact = 0.5 * v * std::erfc(-v / std::sqrt(2.0));
            const Bounded bound = test::gelu_erf(Bounded(v));
            expected.push_back({exact, bound.error + 1e-15 * std::fabs(exact)});
            loose_bounds += bound.error > 1e-6 * std::fabs(v) + 1e-40 ? 1 : 0;
            // From -13 on exp ends at 2^-126, and its result is a subnormal number.
            const int exponent = std::max(std::ilogb(exact), std::numeric_limits<float>::min_exponent - 1);
            close.push_back({exact, 7.0 * std::ldexp(1.0, exponent - 23) + (v < -13.0 ? 5e-39 : 0.0)});
            scalar.push_back(test::scalar_gelu_erf(value, fused));
        }
        CHECK(loose_bounds == 0);
        CHECK(mismatch(out, expected) == "");
        CHECK(mismatch(out, scalar) == "");
        if (fused) {
            CHECK(mismatch(out, close) == "");
        }
    }
}

TEST_CASE("NaN stays NaN") {
    const std::vector<float> nan(17, std::numeric_limits<float>::quiet_NaN());
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        const Kernels& kernels = kernels_for(isa);
        std::vector<float> out(17);
        const auto all_nan = [&out] {
            return std::ranges::all_of(out, [](float x) { return std::isnan(x); });
        };
        kernels.exp_shifted(nan.data(), 0.0f, out.data(), 17);
        CHECK(all_nan());
        kernels.gelu_tanh(nan.data(), out.data(), 17);
        CHECK(all_nan());
        kernels.gelu_erf(nan.data(), out.data(), 17);
        CHECK(all_nan());
        const std::vector<float> ones(17, 1.0f);
        std::vector<float> row = ones;
        row[16] = nan[0];
        kernels.layer_norm(row.data(), ones.data(), ones.data(), 1e-5f, 17, out.data());
        CHECK(all_nan());
        row[16] = 1e30f; // the variance overflows
        kernels.layer_norm(row.data(), ones.data(), ones.data(), 1e-5f, 17, out.data());
        CHECK(all_nan());
    }
}

TEST_CASE("gelu: zeros keep their sign, large numbers are themselves or nearly 0, infinities are not lost") {
    const float x[] = {0.0f, -0.0f, 1e4f, -1e4f, infinity, -infinity};
    for (const Isa isa : test::levels()) {
        for (const Elementwise gelu : {gelu_tanh_of, gelu_erf_of}) {
            float out[std::size(x)];
            gelu(kernels_for(isa), x, out, std::size(x));
            CHECK(std::bit_cast<std::uint32_t>(out[0]) == 0u);
            CHECK(std::bit_cast<std::uint32_t>(out[1]) == 0x80000000u);
            CHECK(out[2] == 1e4f);
            CHECK(std::fabs(out[3]) < 1e-30f);
            CHECK_FALSE(std::isfinite(out[4]));
            CHECK_FALSE(std::isfinite(out[5]));
        }
    }
}

/// Layer normalisation with the sums of the kernels.
std::vector<float> scalar_layer_norm(std::span<const float> x, std::span<const float> gain,
                                     std::span<const float> bias, float epsilon, bool fused) {
    const auto n = static_cast<float>(x.size());
    test::SixteenLanes total;
    for (std::size_t i = 0; i < x.size(); ++i) {
        total[i] += x[i];
    }
    const float mean = total.sum() / n;
    test::SixteenLanes squares;
    for (std::size_t i = 0; i < x.size(); ++i) {
        squares[i] = test::multiply_add(x[i] - mean, x[i] - mean, squares[i], fused);
    }
    const float scale = 1.0f / std::sqrt(squares.sum() / n + epsilon);
    std::vector<float> y;
    for (std::size_t i = 0; i < x.size(); ++i) {
        y.push_back(test::multiply_add((x[i] - mean) * scale, gain[i], bias[i], fused));
    }
    return y;
}

/// The same in float64. Bounds: each element goes through n / 16 additions in its lane and 4 across lanes,
/// at most the magnitude of all. The error d of the mean adds d^2 to the variance, as the sum of x - mean is
/// 0.
std::vector<Bounded> exact_layer_norm(std::span<const float> x, std::span<const float> gain,
                                      std::span<const float> bias, float epsilon) {
    const auto n = static_cast<double>(x.size());
    const double steps = n / 16.0 + 6.0;
    double sum = 0.0;
    double magnitude = 0.0;
    for (const float value : x) {
        sum += static_cast<double>(value);
        magnitude += std::fabs(static_cast<double>(value));
    }
    const Bounded mean(sum / n, 1.01 * steps * test::unit_roundoff * magnitude / n);
    double squares = 0.0;
    double square_errors = n * mean.error * mean.error;
    std::vector<Bounded> centred;
    for (const float value : x) {
        const double exact = static_cast<double>(value) - mean.value;
        centred.push_back(Bounded(static_cast<double>(value)) - mean);
        squares += exact * exact;
        const double own = 1.01 * test::unit_roundoff * centred.back().magnitude(); // without the mean's part
        square_errors += 2.0 * own * centred.back().magnitude() + own * own;
    }
    square_errors += 1.01 * (steps + 2.0) * test::unit_roundoff * (squares + square_errors);
    // Less than 0 the computed variance cannot be.
    const double epsilon_value = static_cast<double>(epsilon);
    const double high = 1.0 / std::sqrt(std::max(squares - square_errors, 0.0) / n + epsilon_value);
    const double low = 1.0 / std::sqrt((squares + square_errors) / n + epsilon_value);
    const double middle = 1.0 / std::sqrt(squares / n + epsilon_value);
    const Bounded scale = test::rounded({middle, std::max(high - middle, middle - low)}, 4.0);
    std::vector<Bounded> y;
    for (std::size_t i = 0; i < x.size(); ++i) {
        y.push_back(test::multiply_add(centred[i] * scale, Bounded(static_cast<double>(gain[i])),
                                       Bounded(static_cast<double>(bias[i]))));
    }
    return y;
}

void check_layer_norm(std::span<const float> values, std::size_t misalignment, float epsilon = 1e-5f) {
    test::Numbers numbers(values.size());
    const std::size_t n = values.size();
    GuardedFloats gain(numbers.numbers(n), misalignment);
    GuardedFloats bias(numbers.numbers(n), misalignment + 2);
    const auto expected = exact_layer_norm(values, gain.span(), bias.span(), epsilon);
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        CAPTURE(n);
        CAPTURE(values[0]);
        GuardedFloats x(values, misalignment + 1);
        GuardedFloats y(n, misalignment);
        kernels_for(isa).layer_norm(x.data(), gain.data(), bias.data(), epsilon, n, y.data());
        CHECK(y.intact());
        CHECK(mismatch(y.span(),
                       scalar_layer_norm(values, gain.span(), bias.span(), epsilon, test::fuses(isa))) == "");
        CHECK(mismatch(y.span(), expected) == "");
        kernels_for(isa).layer_norm(x.data(), gain.data(), bias.data(), epsilon, n, x.data());
        CHECK(x.intact());
        CHECK(mismatch(x.span(), y.span()) == "");
    }
}

TEST_CASE("layer_norm: sizes and alignments") {
    test::Numbers numbers(11);
    for (std::size_t n = 1; n <= 70; ++n) {
        check_layer_norm(numbers.numbers(n), n);
    }
    for (const std::size_t n : {768u, 1024u, 1280u, 1600u}) {
        check_layer_norm(numbers.numbers(n), 0);
        check_layer_norm(numbers.numbers(n, 1e-4f), 3, 1e-12f);
        check_layer_norm(numbers.numbers(n, 1e6f), 1);
    }
}

TEST_CASE("layer_norm: constant rows and rows far from 0") {
    test::Numbers numbers(12);
    for (const std::size_t n : {1u, 15u, 16u, 33u, 768u, 1600u}) {
        for (const float constant : {0.0f, 1.0f, -3.25f, 1000.0f, 0.1f}) {
            check_layer_norm(std::vector<float>(n, constant), 1);
        }
        check_layer_norm(numbers.numbers(n, 1.0f, 100.0f), 0);
        check_layer_norm(numbers.numbers(n, 1.0f, -3000.0f), 0);
    }
}

TEST_CASE("layer_norm: a row with one large element, as residual streams have") {
    auto row = test::Numbers(13).numbers(768);
    row[447] = 3000.0f;
    check_layer_norm(row, 0);
}

} // namespace
