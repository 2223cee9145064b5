// SPDX-License-Identifier: MIT
#include "gpt2/math.hpp"
#include "gpt2/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

using gpt2::detail::portable_exp;
using gpt2::detail::portable_log;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double smallest = std::numeric_limits<double>::denorm_min();

/// The distance to the exact value, in units of the last place of the double next to it.
double error_in_ulp(double found, long double exact) {
    REQUIRE(std::isfinite(found));
    const auto rounded = std::fabs(static_cast<double>(exact));
    const double ulp = std::nextafter(rounded, infinity) - rounded;
    return static_cast<double>(std::fabs(static_cast<long double>(found) - exact) /
                               static_cast<long double>(ulp));
}

} // namespace

TEST_CASE("exp is good to 0.75 ulp") {
    // long double must be wider than double for this comparison to mean anything.
    REQUIRE(std::numeric_limits<long double>::digits >= 64);
    double worst = 0.0;
    for (std::uint64_t i = 0; i < 200000; ++i) {
        const double u = gpt2::uniform(1, 0, i);
        for (const double x : {(u - 0.5) * 2.0, -30.0 * u, u * 1417.0 - 708.0}) {
            worst = std::max(worst, error_in_ulp(portable_exp(x), std::exp(static_cast<long double>(x))));
        }
    }
    MESSAGE("exp: worst error ", worst, " ulp");
    CHECK(worst < 0.75);
    for (std::uint64_t i = 0; i < 20000; ++i) { // subnormal results
        const double x = -708.4 - 36.0 * gpt2::uniform(2, 0, i);
        CHECK(error_in_ulp(portable_exp(x), std::exp(static_cast<long double>(x))) <= 1.0);
    }
}

TEST_CASE("exp at its limits") {
    CHECK(portable_exp(0.0) == 1.0);
    CHECK(portable_exp(-0.0) == 1.0);
    CHECK(portable_exp(1.0) == 0x1.5bf0a8b145769p+1);
    CHECK(portable_exp(smallest) == 1.0);
    CHECK(portable_exp(709.782712893384) == doctest::Approx(std::numeric_limits<double>::max()));
    CHECK(portable_exp(709.79) == infinity);
    CHECK(portable_exp(1e300) == infinity);
    CHECK(portable_exp(infinity) == infinity);
    CHECK(portable_exp(-745.13) == smallest);
    CHECK(portable_exp(-745.14) == 0.0);
    CHECK(portable_exp(-1e300) == 0.0);
    CHECK(portable_exp(-infinity) == 0.0);
    CHECK(std::isnan(portable_exp(std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE("log is good to 0.75 ulp") {
    double worst = 0.0;
    for (std::uint64_t i = 0; i < 200000; ++i) {
        const double u = gpt2::uniform(3, 0, i);
        const double wide = std::ldexp(1.0 + u, static_cast<int>(u * 1e6) % 2000 - 1000);
        for (const double x : {0.5 + u, 1.0 + (u - 0.5) * 1e-4, 1.0 + u * 50256.0, wide}) {
            worst = std::max(worst, error_in_ulp(portable_log(x), std::log(static_cast<long double>(x))));
        }
    }
    MESSAGE("log: worst error ", worst, " ulp");
    CHECK(worst < 0.75);
}

TEST_CASE("log at its limits") {
    CHECK(portable_log(1.0) == 0.0);
    CHECK(portable_log(2.0) == 0x1.62e42fefa39efp-1);
    CHECK(portable_log(0.0) == -infinity);
    CHECK(portable_log(-0.0) == -infinity);
    CHECK(portable_log(infinity) == infinity);
    CHECK(std::isnan(portable_log(-1.0)));
    CHECK(std::isnan(portable_log(-infinity)));
    CHECK(std::isnan(portable_log(std::numeric_limits<double>::quiet_NaN())));
    for (const double x : {smallest, 5 * smallest, std::numeric_limits<double>::min(), 0x1.8p-1030,
                           std::numeric_limits<double>::max()}) {
        CHECK(error_in_ulp(portable_log(x), std::log(static_cast<long double>(x))) < 1.0);
    }
}

// Golden bits: the same on every machine, compiler and optimisation level.
TEST_CASE("exp and log give the same bits everywhere") {
    std::uint64_t hash = 0xcbf29ce484222325u; // FNV-1a over 64-bit words
    for (std::uint64_t i = 0; i < 10000; ++i) {
        const double u = gpt2::uniform(4, 0, i);
        for (const double y :
             {portable_exp(std::fma(u, 60.0, -50.0)), portable_log(std::fma(u, 1000.0, 1e-3))}) {
            hash = (hash ^ std::bit_cast<std::uint64_t>(y)) * 0x100000001b3u;
        }
    }
    CHECK(hash == 14365923602013835626u);
}
