// SPDX-License-Identifier: MIT
// The tests' own comparators find what they are there to find.
#include "support/compare.hpp"
#include "support/kernel_fixture.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace {

using gpt2::test::Bounded;
using gpt2::test::mismatch;

const float infinity = std::numeric_limits<float>::infinity();
const float nan = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("the exact comparator accepts equal bits only") {
    const std::vector<float> expected{1.0f, -2.5f, 0.0f};
    CHECK(mismatch(expected, expected) == "");
    auto found = expected;
    found[1] = std::nextafter(found[1], 0.0f);
    CHECK(mismatch(found, expected) != "");
    found = expected;
    found[2] = -0.0f;
    CHECK(mismatch(found, expected) != "");
    CHECK(mismatch(std::vector<float>{1.0f}, expected) != "");
    CHECK(mismatch(std::vector<float>{}, std::vector<float>{}) != "");
}

TEST_CASE("no comparator accepts NaN or infinity, not even where both sides have them") {
    for (const float bad : {nan, infinity, -infinity}) {
        const std::vector<float> found{1.0f, bad};
        CHECK(mismatch(found, found) != "");
        CHECK(mismatch(found, std::vector<Bounded>{1.0, {0.0, 1e300}}) != "");
        CHECK(mismatch(found, std::vector<Bounded>{1.0, static_cast<double>(bad)}) != "");
        CHECK(mismatch(std::vector<float>{1.0f}, std::vector<Bounded>{{1.0, static_cast<double>(bad)}}) !=
              "");
    }
}

TEST_CASE("the bounded comparator finds an error just beyond the bound") {
    const std::vector<Bounded> expected{{1.0, 0x1p-23}};
    CHECK(mismatch(std::vector<float>{1.0f}, expected) == "");
    CHECK(mismatch(std::vector<float>{1.0f + 0x1p-23f}, expected) == "");
    CHECK(mismatch(std::vector<float>{1.0f + 0x1p-22f}, expected) != "");
    CHECK(mismatch(std::vector<float>{1.0f - 0x1p-22f}, expected) != "");
}

TEST_CASE("bounds cover the rounding of float32, and are of its size") {
    gpt2::test::Numbers numbers(1);
    for (int i = 0; i < 1000; ++i) {
        const float a = numbers.number();
        const float b = numbers.number();
        const float c = numbers.number();
        const Bounded sum = gpt2::test::multiply_add(Bounded(a), Bounded(b), Bounded(c));
        CHECK(mismatch(std::vector<float>{std::fma(a, b, c)}, std::vector<Bounded>{sum}) == "");
        CHECK(sum.error < 0x1p-22);
        const Bounded quotient = Bounded(a) / Bounded(b + 2.0f);
        CHECK(mismatch(std::vector<float>{a / (b + 2.0f)}, std::vector<Bounded>{quotient}) == "");
    }
}

TEST_CASE("guards notice a write next to the array") {
    for (std::size_t misalignment = 0; misalignment < 16; ++misalignment) {
        gpt2::test::GuardedFloats array(5, misalignment);
        CHECK(reinterpret_cast<std::uintptr_t>(array.data()) % 64 == misalignment * sizeof(float));
        array[0] = array[4] = 1.0f;
        CHECK(array.intact());
        array.data()[5] = 0.0f;
        CHECK(!array.intact());
        gpt2::test::GuardedFloats other(5, misalignment);
        *(other.data() - 1) = 0.0f;
        CHECK(!other.intact());
    }
}

} // namespace
