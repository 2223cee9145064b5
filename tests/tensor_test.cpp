// SPDX-License-Identifier: MIT
#include <gpt2/tensor.hpp>

#include "support/files.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

namespace {

using gpt2::Tensor;
using gpt2::TensorView;

static_assert(!std::is_copy_constructible_v<Tensor<float, 2>>);
static_assert(!std::is_copy_assignable_v<Tensor<float, 2>>);
static_assert(std::is_nothrow_move_constructible_v<Tensor<float, 2>>);
static_assert(std::is_nothrow_move_assignable_v<Tensor<float, 2>>);
static_assert(std::is_convertible_v<TensorView<float, 2>, TensorView<const float, 2>>);
static_assert(!std::is_convertible_v<TensorView<const float, 2>, TensorView<float, 2>>);
static_assert(std::is_same_v<decltype(std::declval<const Tensor<int, 1>&>()[0]), const int&>);
static_assert(std::is_same_v<decltype(std::declval<Tensor<int, 1>&>()[0]), int&>);

TEST_CASE("a new tensor is zero and aligned") {
    for (const std::size_t n : {1u, 2u, 15u, 1000u, 100'000u}) {
        Tensor<float, 2> tensor({n, 3});
        CHECK(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
        CHECK(tensor.size() == 3 * n);
        CHECK(tensor.dim(0) == n);
        CHECK(tensor.dim(1) == 3);
        CHECK(std::ranges::all_of(tensor.flat(), [](float x) { return x == 0.0f; }));
        std::ranges::fill(tensor.flat(), 1.0f); // all of it is there
    }
}

TEST_CASE("elements lie in row-major order") {
    Tensor<int, 3> tensor({2, 3, 4});
    int next = 0;
    for (int& element : tensor.flat()) {
        element = next++;
    }
    for (std::size_t i = 0; i < 2; ++i) {
        CHECK(tensor[i].shape() == std::array<std::size_t, 2>{3, 4});
        for (std::size_t j = 0; j < 3; ++j) {
            CHECK(tensor[i][j].size() == 4);
            for (std::size_t k = 0; k < 4; ++k) {
                CHECK(tensor[i][j][k] == static_cast<int>((i * 3 + j) * 4 + k));
            }
        }
    }
    tensor[1][2][3] = -5;
    CHECK(tensor.flat().back() == -5);
    const auto& constant = tensor;
    CHECK(constant[1][2][3] == -5);
    CHECK(constant.view()[1].flat().size() == 12);
}

TEST_CASE("a view looks at the same elements") {
    Tensor<float, 2> tensor({3, 2});
    const TensorView<float, 2> view = tensor.view();
    view[2][1] = 7.0f;
    CHECK(tensor[2][1] == 7.0f);
    const TensorView<const float, 2> constant = view;
    CHECK(constant.data() == tensor.data());
    CHECK(constant[2][1] == 7.0f);
    CHECK(constant.size() == 6);
    CHECK(constant.dim(0) == 3);
    CHECK(TensorView<float, 2>().size() == 0);
    CHECK(TensorView<float, 2>().data() == nullptr);
}

TEST_CASE("a clone is apart") {
    Tensor<int, 1> tensor({3});
    tensor[1] = 4;
    Tensor<int, 1> clone = tensor.clone();
    CHECK(clone.shape() == tensor.shape());
    CHECK(clone[1] == 4);
    CHECK(clone.data() != tensor.data());
    clone[1] = 5;
    CHECK(tensor[1] == 4);
    CHECK(Tensor<int, 1>().clone().size() == 0);
}

TEST_CASE("a moved tensor takes its memory along and leaves an empty one") {
    Tensor<int, 1> tensor({3});
    tensor[2] = 9;
    const int* const data = tensor.data();
    Tensor<int, 1> moved(std::move(tensor));
    CHECK(moved.data() == data);
    CHECK(moved[2] == 9);
    CHECK(tensor.size() == 0); // NOLINT(bugprone-use-after-move): what is promised of it
    CHECK(tensor.data() == nullptr);
    CHECK(tensor.flat().empty());
    Tensor<int, 1> assigned({100});
    assigned = std::move(moved);
    CHECK(assigned.data() == data);
    CHECK(assigned.size() == 3);
    CHECK(moved.size() == 0); // NOLINT(bugprone-use-after-move)
    tensor = Tensor<int, 1>({2});
    CHECK(tensor.size() == 2);
}

TEST_CASE("empty tensors") {
    CHECK(Tensor<float, 2>().size() == 0);
    CHECK(Tensor<float, 2>().flat().empty());
    CHECK(Tensor<float, 2>({0, 5}).size() == 0);
    CHECK(Tensor<float, 2>({5, 0}).flat().empty());
    constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
    CHECK(Tensor<float, 2>({0, huge}).size() == 0);
}

TEST_CASE("a size beyond the address space is an error, not an overflow") {
    constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
    const auto refused = [](std::size_t a, std::size_t b) {
        gpt2::test::check_throws<gpt2::OptionError>([&] { Tensor<float, 2>({a, b}); }, {"tensor", "bytes"});
    };
    refused(huge, 1);
    refused(1, huge);
    refused(huge / 4 + 1, 1);
    refused(std::size_t{1} << 32, std::size_t{1} << 32);
    refused(std::size_t{1} << 31, std::size_t{1} << 30); // times 4: one more than there is
    CHECK_THROWS_AS((Tensor<std::byte, 1>({huge / 2})), gpt2::OptionError);
}

} // namespace
