// SPDX-License-Identifier: MIT
// The linear kernels of every instruction set against plain loops.
#include "support/compare.hpp"
#include "support/kernel_fixture.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using namespace gpt2;
using namespace gpt2::kernels;
using test::Bounded;
using test::GuardedFloats;
using test::mismatch;

template <class Weight>
constexpr WeightType type_of = std::is_same_v<Weight, half>       ? WeightType::float16
                               : std::is_same_v<Weight, bfloat16> ? WeightType::bfloat16
                                                                  : WeightType::float32;

/// Index of weight (k, n) of a float format in a matrix of @p n_inputs inputs.
template <class Weight> std::size_t panel_index(std::size_t n_inputs, std::size_t k, std::size_t n) {
    const std::size_t lane = n % panel_width;
    return (n / panel_width * n_inputs + k) * panel_width +
           (std::is_same_v<Weight, bfloat16> ? paired_slot(lane) : lane);
}

/// Rows of inputs, a weight matrix, and what plain loops make of some of the outputs.
template <class Weight> class Problem {
public:
    Problem(std::size_t rows, std::size_t n_inputs, std::size_t n_outputs, std::size_t output_step = 1)
        : rows_(rows), n_inputs_(n_inputs), n_outputs_(n_outputs),
          panels_(panel_count(n_outputs) * panel_width * n_inputs, Weight(nan())),
          bias_(panel_count(n_outputs) * panel_width, nan()) {
        test::Numbers numbers(rows + 100 * n_inputs + 1000000 * n_outputs);
        x_ = numbers.numbers(rows * n_inputs);
        old_ = numbers.numbers(rows * n_outputs);
        for (std::size_t n = 0; n < n_outputs; ++n) {
            bias_[n] = numbers.number();
            for (std::size_t k = 0; k < n_inputs; ++k) {
                panels_[panel_index<Weight>(n_inputs, k, n)] = Weight(numbers.number());
            }
        }
        for (std::size_t n = 0; n < n_outputs; n += n + panel_width < n_outputs ? output_step : 1) {
            outputs_.push_back(n);
        }
        for (std::size_t row = 0; row < rows; ++row) {
            for (const std::size_t n : outputs_) {
                add_reference(row, n);
            }
        }
    }

    /// Runs the kernel over the first @p rows rows, with the panels in the ranges between @p cuts, and says
    /// what is wrong with the result.
    std::string check(Isa isa, const LinearTile& tile, std::size_t rows, Epilogue epilogue,
                      std::size_t extra_stride, std::size_t misalignment,
                      std::span<const std::size_t> cuts = {}) const {
        const Kernels& kernels = kernels_for(isa);
        GuardedFloats packed((rows + tile.rows - 1) / tile.rows * tile.rows * n_inputs_, misalignment);
        pack_rows(x_.data(), n_inputs_, rows, n_inputs_, tile.rows, packed.data());
        GuardedFloats bias(bias_, misalignment);
        const std::size_t stride = n_outputs_ + extra_stride;
        GuardedFloats y((rows - 1) * stride + n_outputs_, misalignment);
        if (epilogue == Epilogue::add) {
            for (std::size_t i = 0; i < rows * n_outputs_; ++i) {
                y[i / n_outputs_ * stride + i % n_outputs_] = old_[i];
            }
        }
        const LinearArgs args{.type = type_of<Weight>,
                              .tile = tile,
                              .x = reinterpret_cast<const std::byte*>(packed.data()),
                              .rows = rows,
                              .n_inputs = n_inputs_,
                              .n_outputs = n_outputs_,
                              .panels = reinterpret_cast<const std::byte*>(panels_.data()),
                              .bias = bias.data(),
                              .y = y.data(),
                              .y_stride = stride,
                              .epilogue = epilogue};
        std::size_t panel = 0;
        for (const std::size_t cut : cuts) {
            kernels.linear(args, panel, cut);
            panel = cut;
        }
        kernels.linear(args, panel, panel_count(n_outputs_));
        if (!y.intact()) {
            return "something was written outside of y";
        }
        return check_result(y, stride, rows, epilogue, test::fuses(isa));
    }

private:
    static float nan() { return std::numeric_limits<float>::quiet_NaN(); }

    void add_reference(std::size_t row, std::size_t n) {
        float fused = bias_[n];
        float separate = bias_[n];
        double value = static_cast<double>(bias_[n]);
        double sum_of_magnitudes = std::fabs(value);
        for (std::size_t k = 0; k < n_inputs_; ++k) {
            const float x = x_[row * n_inputs_ + k];
            const auto w = static_cast<float>(panels_[panel_index<Weight>(n_inputs_, k, n)]);
            fused = test::multiply_add(x, w, fused, true);
            separate = test::multiply_add(x, w, separate, false);
            const double product = static_cast<double>(x) * static_cast<double>(w); // exact
            value += product;
            sum_of_magnitudes += std::fabs(product);
        }
        fused_.push_back(fused);
        separate_.push_back(separate);
        // K roundings of sums and, where multiply-adds are not fused, one of each product (Higham, 3.1).
        const auto K = static_cast<double>(n_inputs_);
        bounded_.push_back({value, (K + 2.0) * test::unit_roundoff * sum_of_magnitudes});
    }

    std::string check_result(GuardedFloats& y, std::size_t stride, std::size_t rows, Epilogue epilogue,
                             bool is_fused) const {
        std::vector<float> found;
        std::vector<float> exact;
        std::vector<Bounded> bounded;
        for (std::size_t row = 0; row < rows; ++row) {
            for (std::size_t n = n_outputs_; row + 1 < rows && n < stride; ++n) {
                if (!GuardedFloats::untouched(y[row * stride + n])) {
                    return "something was written between the rows";
                }
            }
            for (std::size_t n = 0; n < n_outputs_; ++n) {
                if (!std::isfinite(y[row * stride + n])) {
                    return "not every output was written";
                }
            }
            for (std::size_t i = 0; i < outputs_.size(); ++i) {
                const std::size_t at = row * outputs_.size() + i;
                const float old = old_[row * n_outputs_ + outputs_[i]];
                found.push_back(y[row * stride + outputs_[i]]);
                exact.push_back(finish((is_fused ? fused_ : separate_)[at], old, epilogue, is_fused));
                bounded.push_back(finish(bounded_[at], old, epilogue));
            }
        }
        const std::string difference = mismatch(found, exact);
        return difference.empty() ? mismatch(found, bounded) : difference;
    }

    static float finish(float sum, float old, Epilogue epilogue, bool is_fused) {
        switch (epilogue) {
        case Epilogue::add:
            return old + sum;
        case Epilogue::gelu_tanh:
            return test::scalar_gelu_tanh(sum, is_fused);
        case Epilogue::gelu_erf:
            return test::scalar_gelu_erf(sum, is_fused);
        case Epilogue::relu:
            return sum > 0.0f ? sum : 0.0f;
        case Epilogue::store:
            break;
        }
        return sum;
    }
    static Bounded finish(Bounded sum, float old, Epilogue epilogue) {
        switch (epilogue) {
        case Epilogue::add:
            return Bounded(static_cast<double>(old)) + sum;
        case Epilogue::gelu_tanh:
            return test::gelu_tanh(sum);
        case Epilogue::gelu_erf:
            return test::gelu_erf(sum);
        case Epilogue::relu:
            return test::relu(sum);
        case Epilogue::store:
            break;
        }
        return sum;
    }

    std::size_t rows_, n_inputs_, n_outputs_;
    std::vector<Weight> panels_;
    std::vector<float> bias_;
    std::vector<float> x_;
    std::vector<float> old_; ///< what y holds before Epilogue::add
    std::vector<std::size_t> outputs_;
    std::vector<float> fused_;    ///< [rows][outputs]
    std::vector<float> separate_; ///< the same with two roundings per multiply-add
    std::vector<Bounded> bounded_;
};

constexpr Epilogue epilogues[] = {Epilogue::store, Epilogue::add, Epilogue::gelu_tanh, Epilogue::gelu_erf,
                                  Epilogue::relu};

/// Every level, tile size and epilogue for all rows of a problem, at two alignments.
template <class Weight> void check_all(std::size_t rows, std::size_t n_inputs, std::size_t n_outputs) {
    const Problem<Weight> problem(rows, n_inputs, n_outputs);
    for (const Isa isa : test::levels()) {
        for (const LinearTile& tile : test::tiles(isa, type_of<Weight>)) {
            for (const Epilogue epilogue : epilogues) {
                CAPTURE(to_string(isa));
                CAPTURE(tile.rows);
                CAPTURE(n_inputs);
                CAPTURE(n_outputs);
                CAPTURE(static_cast<int>(epilogue));
                const std::size_t odd = epilogue == Epilogue::store || epilogue == Epilogue::relu ? 1 : 0;
                CHECK(problem.check(isa, tile, rows, epilogue, 3 * odd, odd) == "");
            }
        }
    }
}

TEST_CASE_TEMPLATE("linear: numbers of inputs", Weight, float, half, bfloat16) {
    for (const std::size_t n_inputs : {1u, 2u, 3u, 7u, 16u, 63u, 64u, 65u, 768u, 3072u, 6400u}) {
        for (const std::size_t n_outputs : {1u, 17u, 33u, 64u}) {
            check_all<Weight>(2, n_inputs, n_outputs);
        }
    }
    check_all<Weight>(1, 6400, 257);
}

TEST_CASE_TEMPLATE("linear: numbers of outputs", Weight, float, half, bfloat16) {
    for (const std::size_t n_inputs : {1u, 3u, 65u}) {
        for (const std::size_t n_outputs :
             {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 257u, 768u}) {
            check_all<Weight>(3, n_inputs, n_outputs);
        }
    }
}

TEST_CASE_TEMPLATE("linear: every number of rows up to three tiles and one", Weight, float, half, bfloat16) {
    const Problem<Weight> problem(37, 19, 49);
    for (const Isa isa : test::levels()) {
        for (const LinearTile& tile : test::tiles(isa, type_of<Weight>)) {
            for (std::size_t rows = 1; rows <= 3 * tile.rows + 1; ++rows) {
                for (const Epilogue epilogue : epilogues) {
                    CAPTURE(to_string(isa));
                    CAPTURE(tile.rows);
                    CAPTURE(rows);
                    CAPTURE(static_cast<int>(epilogue));
                    CHECK(problem.check(isa, tile, rows, epilogue, rows % 4, rows % 16) == "");
                }
            }
        }
    }
}

TEST_CASE("linear: a vocabulary, panels in several calls") {
    const Problem<half> problem(1, 768, 50257, 101);
    const std::size_t cuts[] = {0, 1, 700, 700, 1569, 1570};
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        const std::vector<LinearTile> tiles = test::tiles(isa, WeightType::float16);
        CHECK(problem.check(isa, tiles.front(), 1, Epilogue::store, 0, 0) == "");
        CHECK(problem.check(isa, tiles.front(), 1, Epilogue::store, 0, 1, cuts) == "");
        CHECK(problem.check(isa, tiles.back(), 1, Epilogue::store, 0, 0) == "");
    }
}

TEST_CASE("linear: panels outside the range are left alone") {
    for (const Isa isa : test::levels()) {
        const std::vector<float> panels(3 * panel_width, 1.0f);
        const std::vector<float> bias(3 * panel_width, 0.0f);
        const float x = 2.0f;
        GuardedFloats y(3 * panel_width);
        kernels_for(isa).linear({.tile = kernels_for(isa).tile_for(WeightType::float32, 1),
                                 .x = reinterpret_cast<const std::byte*>(&x),
                                 .rows = 1,
                                 .n_inputs = 1,
                                 .n_outputs = 3 * panel_width,
                                 .panels = reinterpret_cast<const std::byte*>(panels.data()),
                                 .bias = bias.data(),
                                 .y = y.data(),
                                 .y_stride = 3 * panel_width},
                                1, 2);
        CHECK(y.intact());
        for (std::size_t n = 0; n < 3 * panel_width; ++n) {
            CHECK((n / panel_width == 1 ? y[n] == 2.0f : GuardedFloats::untouched(y[n])));
        }
    }
}

TEST_CASE("linear: NaN in a row reaches all its outputs, through every epilogue") {
    const std::vector<float> panels(2 * panel_width, 1.0f);
    const std::vector<float> bias(panel_width, 0.0f);
    const float x[] = {1.0f, std::numeric_limits<float>::quiet_NaN()};
    for (const Isa isa : test::levels()) {
        for (const Epilogue epilogue : epilogues) {
            std::vector<float> y(20, 0.0f);
            kernels_for(isa).linear({.tile = kernels_for(isa).tile_for(WeightType::float32, 1),
                                     .x = reinterpret_cast<const std::byte*>(x),
                                     .rows = 1,
                                     .n_inputs = 2,
                                     .n_outputs = y.size(),
                                     .panels = reinterpret_cast<const std::byte*>(panels.data()),
                                     .bias = bias.data(),
                                     .y = y.data(),
                                     .y_stride = y.size(),
                                     .epilogue = epilogue},
                                    0, 1);
            CAPTURE(to_string(isa));
            CAPTURE(static_cast<int>(epilogue));
            CHECK(std::all_of(y.begin(), y.end(), [](float value) { return std::isnan(value); }));
        }
    }
}

/// With x = 1 and bias -0 an output is its weight, -0 included.
template <class Weight> void check_widening(Isa isa) {
    std::vector<Weight> panels(65536);
    for (std::size_t i = 0; i < panels.size(); ++i) {
        panels[panel_index<Weight>(1, 0, i)].bits = static_cast<std::uint16_t>(i);
    }
    const std::vector<float> bias(panels.size(), -0.0f);
    const float x = 1.0f;
    std::vector<float> y(panels.size());
    const Kernels& kernels = kernels_for(isa);
    kernels.linear({.type = type_of<Weight>,
                    .tile = kernels.tile_for(type_of<Weight>, 1),
                    .x = reinterpret_cast<const std::byte*>(&x),
                    .rows = 1,
                    .n_inputs = 1,
                    .n_outputs = y.size(),
                    .panels = reinterpret_cast<const std::byte*>(panels.data()),
                    .bias = bias.data(),
                    .y = y.data(),
                    .y_stride = y.size()},
                   0, panel_count(y.size()));
    std::size_t different = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        Weight weight;
        weight.bits = static_cast<std::uint16_t>(i);
        const auto expected = static_cast<float>(weight);
        const bool same = std::isnan(expected)
                              ? std::isnan(y[i])
                              : std::bit_cast<std::uint32_t>(y[i]) == std::bit_cast<std::uint32_t>(expected);
        different += same ? 0 : 1;
    }
    CHECK(different == 0);
}

TEST_CASE("linear: every pattern of the 16-bit formats is widened exactly") {
    for (const Isa isa : test::levels()) {
        CAPTURE(to_string(isa));
        check_widening<half>(isa);
        check_widening<bfloat16>(isa);
    }
}

TEST_CASE("pack_rows: tiles of rows, the last filled up with zeros") {
    for (const std::size_t tile : {1u, 2u, 3u, 4u, 8u, 12u}) {
        for (std::size_t rows = 1; rows <= 2 * tile + 1; ++rows) {
            for (const std::size_t n_inputs : {1u, 5u, 33u}) {
                const std::size_t stride = n_inputs + rows % 3;
                const std::vector<float> x = test::Numbers(rows).numbers(rows * stride);
                const std::size_t tiles = (rows + tile - 1) / tile;
                GuardedFloats packed(tiles * tile * n_inputs, rows);
                pack_rows(x.data(), stride, rows, n_inputs, tile, packed.data());
                CHECK(packed.intact());
                std::vector<float> expected;
                for (std::size_t i = 0; i < tiles * n_inputs * tile; ++i) {
                    const std::size_t row = i / (n_inputs * tile) * tile + i % tile;
                    const std::size_t k = i / tile % n_inputs;
                    expected.push_back(row < rows ? x[row * stride + k] : 0.0f);
                }
                CHECK(mismatch(packed.span(), expected) == "");
            }
        }
    }
}

TEST_CASE("tile_for: one of the tiles; one row is never padded") {
    for (const Isa isa : test::levels()) {
        const Kernels& kernels = kernels_for(isa);
        CHECK(kernels.isa == isa);
        for (const WeightType type : test::all_types) {
            CAPTURE(to_string(isa));
            CAPTURE(to_string(type));
            CHECK(kernels.tile_for(type, 1).rows == 1);
            for (std::size_t rows = 1; rows <= 30; ++rows) {
                const LinearTile tile = kernels.tile_for(type, rows);
                CHECK(max_linear_rows % tile.rows == 0);
                CHECK(std::ranges::any_of(test::tiles(isa, type), [&](const LinearTile& other) {
                    return other.rows == tile.rows && other.block == tile.block;
                }));
            }
        }
    }
    if (supports(Isa::avx512)) { // two tiles of 8 rather than 12 and 4 in a tile of 12
        CHECK(kernels_for(Isa::avx512).tile_for(WeightType::float32, 16).rows == 8);
        CHECK(kernels_for(Isa::avx512).tile_for(WeightType::float16, 512).rows == 12);
    }
}

} // namespace
