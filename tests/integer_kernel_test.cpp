// SPDX-License-Identifier: MIT
// The kernels of the integer formats, exactly, against plain loops that follow the definition.
#include "support/compare.hpp"
#include "support/kernel_fixture.hpp"

#include <gpt2/quantize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace gpt2;
using namespace gpt2::kernels;
using test::mismatch;

constexpr WeightType integer_types[] = {WeightType::int8, WeightType::int4};

/// A group of activations as signed bytes.
struct Quantized {
    std::vector<int> q;
    float scale = 0.0f;
};

/// Inputs [first, first + group) of a row, zeros past its end.
Quantized quantize(const std::vector<float>& row, std::size_t first, std::size_t group, bool fused) {
    Quantized result{std::vector<int>(group, 0), 0.0f};
    float largest = 0.0f;
    for (std::size_t i = first; i < std::min(row.size(), first + group); ++i) {
        largest = std::max(largest, std::fabs(row[i]));
    }
    result.scale = largest / 127.0f;
    for (std::size_t i = first; i < std::min(row.size(), first + group) && largest >= 0x1p-100f; ++i) {
        const float shifted = test::multiply_add(row[i], 127.0f / largest, 12582912.0f, fused);
        result.q[i - first] = static_cast<int>(shifted - 12582912.0f);
    }
    return result;
}

/// A random matrix in panels, with every byte that a format can have, beside its integers and scales.
class IntegerMatrix {
public:
    IntegerMatrix(WeightType type, std::size_t n_inputs, std::size_t n_outputs)
        : type_(type), n_inputs_(n_inputs), n_outputs_(n_outputs), unit_(unit_of(type)),
          units_(unit_count(type, n_inputs)), bytes_(panel_count(n_outputs) * panel_bytes(type, n_inputs)) {
        test::Numbers numbers(n_inputs * 1000 + n_outputs);
        q_.resize(units_ * unit_.group * padded_outputs(n_outputs));
        scales_.resize(units_ * padded_outputs(n_outputs));
        for (std::size_t n = 0; n < n_outputs; ++n) {
            for (std::size_t k = 0; k < n_inputs; ++k) {
                const auto bits = static_cast<int>(numbers.bits() % 1000);
                // -127 to 127 and -8 to 7, the ends often
                const int q = type == WeightType::int8 ? std::clamp(bits % 300 - 150, -127, 127)
                                                       : std::clamp(bits % 20 - 10, -8, 7);
                put(k, n, q);
            }
            for (std::size_t unit = 0; unit < units_; ++unit) {
                put_scale(unit, n, bfloat16(numbers.number() * 0.01f));
            }
        }
        fill_padding();
    }

    [[nodiscard]] const std::byte* panels() const { return bytes_.data(); }

    /// The output of one row by the definition.
    [[nodiscard]] float multiply(const std::vector<float>& row, std::size_t n, float bias, bool fused) const {
        float sum = bias;
        for (std::size_t unit = 0; unit < units_; ++unit) {
            const Quantized x = quantize(row, unit * unit_.group, unit_.group, fused);
            std::int64_t total = 0;
            for (std::size_t i = 0; i < unit_.group; ++i) {
                total += x.q[i] * q_[(unit * unit_.group + i) * padded_outputs(n_outputs_) + n];
            }
            const float scale = scales_[unit * padded_outputs(n_outputs_) + n] * x.scale;
            sum = test::multiply_add(static_cast<float>(total), scale, sum, fused);
        }
        return sum;
    }

private:
    std::byte* unit_at(std::size_t unit, std::size_t n) {
        return bytes_.data() + (n / panel_width * units_ + unit) * unit_.bytes;
    }
    void put(std::size_t k, std::size_t n, int q) {
        q_[k * padded_outputs(n_outputs_) + n] = q;
        const std::size_t lane = n % panel_width;
        const std::size_t quad = k % unit_.group / 4;
        std::byte* const unit = unit_at(k / unit_.group, n);
        if (type_ == WeightType::int8) {
            unit[(quad * 32 + lane) * 4 + k % 4] = static_cast<std::byte>(q + 128);
        } else {
            std::byte& both = unit[(quad * 16 + lane % 16) * 4 + k % 4];
            const auto code = static_cast<unsigned>(q + 8);
            both = lane < 16 ? (both & std::byte{0xf0}) | static_cast<std::byte>(code)
                             : (both & std::byte{0x0f}) | static_cast<std::byte>(code << 4);
        }
    }
    void put_scale(std::size_t unit, std::size_t n, bfloat16 scale) {
        const std::size_t lane = n % panel_width;
        scales_[unit * padded_outputs(n_outputs_) + n] = static_cast<float>(scale);
        const std::size_t slot = lane < 16 ? 2 * lane : 2 * (lane - 16) + 1;
        std::memcpy(unit_at(unit, n) + unit_.scales_at + 2 * slot, &scale, 2);
    }
    /// Inputs past the last have weight 0 (activations there are 0 too, but the format says so).
    void fill_padding() {
        for (std::size_t n = 0; n < padded_outputs(n_outputs_); ++n) {
            for (std::size_t k = n < n_outputs_ ? n_inputs_ : 0; k < units_ * unit_.group; ++k) {
                put(k, n, 0);
            }
        }
    }

    WeightType type_;
    std::size_t n_inputs_, n_outputs_;
    UnitShape unit_;
    std::size_t units_;
    std::vector<std::byte> bytes_;
    std::vector<int> q_;
    std::vector<float> scales_;
};

/// Rows with groups of very different magnitude, one of zeros and one below what is kept.
std::vector<std::vector<float>> make_rows(std::size_t rows, std::size_t n_inputs) {
    test::Numbers numbers(rows * 77 + n_inputs);
    std::vector<std::vector<float>> list(rows);
    for (std::size_t row = 0; row < rows; ++row) {
        list[row] = numbers.numbers(n_inputs);
        for (std::size_t k = 0; k < n_inputs; ++k) {
            const std::size_t group = k / 32 + row;
            list[row][k] *= group % 7 == 3 ? 0.0f : group % 7 == 5 ? 1e-36f : group % 7 == 6 ? 300.0f : 1.0f;
        }
    }
    return list;
}

/// x W + bias for dense rows x, quantised and multiplied by the kernels.
std::vector<float> product(Isa isa, const LinearTile& tile, WeightType type, const std::vector<float>& x,
                           std::size_t n_inputs, const std::byte* panels, std::size_t n_outputs,
                           const std::vector<float>& bias) {
    const Kernels& kernels = kernels_for(isa);
    const std::size_t rows = x.size() / n_inputs;
    const std::size_t row_bytes = unit_count(type, n_inputs) * unit_of(type).x_bytes;
    std::vector<std::byte> packed((rows + tile.rows - 1) / tile.rows * tile.rows * row_bytes,
                                  std::byte{0x5a});
    kernels.quantize_rows({.type = type,
                           .x = x.data(),
                           .stride = n_inputs,
                           .rows = rows,
                           .n_inputs = n_inputs,
                           .tile = tile.rows,
                           .out = packed.data()});
    std::vector<float> y(rows * n_outputs, 0.0f);
    kernels.linear({.type = type,
                    .tile = tile,
                    .x = packed.data(),
                    .rows = rows,
                    .n_inputs = n_inputs,
                    .n_outputs = n_outputs,
                    .panels = panels,
                    .bias = bias.data(),
                    .y = y.data(),
                    .y_stride = n_outputs},
                   0, panel_count(n_outputs));
    return y;
}

std::string check_product(Isa isa, const LinearTile& tile, WeightType type, const IntegerMatrix& matrix,
                          const std::vector<std::vector<float>>& rows, std::size_t n_outputs) {
    std::vector<float> x;
    for (const std::vector<float>& row : rows) {
        x.insert(x.end(), row.begin(), row.end());
    }
    const std::vector<float> bias = test::Numbers(5).numbers(padded_outputs(n_outputs));
    std::vector<float> expected;
    for (const std::vector<float>& row : rows) {
        for (std::size_t n = 0; n < n_outputs; ++n) {
            expected.push_back(matrix.multiply(row, n, bias[n], test::fuses(isa)));
        }
    }
    return mismatch(product(isa, tile, type, x, rows.front().size(), matrix.panels(), n_outputs, bias),
                    expected);
}

TEST_CASE("integer formats: products are those of the definition, bit for bit, on every level") {
    for (const WeightType type : integer_types) {
        for (const std::size_t n_inputs :
             {1u, 4u, 31u, 32u, 33u, 63u, 64u, 65u, 128u, 300u, 768u, 3072u, 6400u}) {
            for (const std::size_t n_outputs : {1u, 16u, 17u, 32u, 77u}) {
                if (n_inputs > 300 && n_outputs != 77) {
                    continue;
                }
                const IntegerMatrix matrix(type, n_inputs, n_outputs);
                const auto rows = make_rows(5, n_inputs);
                for (const Isa isa : test::levels()) {
                    for (const LinearTile& tile : test::tiles(isa, type)) {
                        CAPTURE(to_string(type));
                        CAPTURE(to_string(isa));
                        CAPTURE(n_inputs);
                        CAPTURE(n_outputs);
                        CAPTURE(tile.rows);
                        CHECK(check_product(isa, tile, type, matrix, rows, n_outputs) == "");
                    }
                }
            }
        }
    }
}

TEST_CASE("integer formats: any number of rows") {
    for (const WeightType type : integer_types) {
        const IntegerMatrix matrix(type, 288, 40);
        for (const std::size_t n : {1u, 2u, 3u, 4u, 7u, 9u, 16u, 96u}) {
            const auto rows = make_rows(n, 288);
            for (const Isa isa : test::levels()) {
                CAPTURE(n);
                CAPTURE(to_string(isa));
                CHECK(check_product(isa, kernels_for(isa).tile_for(type, n), type, matrix, rows, 40) == "");
            }
        }
    }
}

TEST_CASE("integer formats: the largest sums are exact") {
    // All weights and activations at the end of their range: 64 * 127 * 127 and 32 * 8 * 127.
    for (const WeightType type : integer_types) {
        for (const int sign : {1, -1}) {
            const UnitShape unit = unit_of(type);
            std::vector<std::byte> panel(unit.bytes);
            const int q = type == WeightType::int8 ? -127 : -8;
            const auto code = static_cast<unsigned>(q + unit.zero);
            std::fill_n(panel.data(), unit.scales_at,
                        static_cast<std::byte>(type == WeightType::int8 ? code : code | code << 4));
            const bfloat16 one(1.0f);
            for (std::size_t lane = 0; lane < 32; ++lane) {
                std::memcpy(panel.data() + unit.scales_at + 2 * lane, &one, 2);
            }
            const std::vector<float> x(unit.group, static_cast<float>(127 * sign));
            const std::vector<float> bias(32, 0.0f);
            for (const Isa isa : test::levels()) {
                const auto y = product(isa, kernels_for(isa).tile_for(type, 1), type, x, unit.group,
                                       panel.data(), 32, bias);
                const auto expected = static_cast<float>(static_cast<int>(unit.group) * q * 127 * sign);
                CAPTURE(to_string(isa));
                CHECK(std::ranges::all_of(y, [&](float value) { return value == expected; }));
            }
        }
    }
}

TEST_CASE("integer formats: an infinity or a NaN in a row reaches all its outputs, and no other row") {
    for (const WeightType type : integer_types) {
        const IntegerMatrix matrix(type, 200, 40);
        for (const float bad :
             {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
              std::numeric_limits<float>::quiet_NaN()}) {
            for (const std::size_t at : {0u, 15u, 16u, 100u, 199u}) {
                auto rows = make_rows(2, 200);
                std::vector<float> x = rows[0];
                x.insert(x.end(), rows[1].begin(), rows[1].end());
                x[200 + at] = bad;
                const std::vector<float> bias(64, 0.0f);
                for (const Isa isa : test::levels()) {
                    const auto y = product(isa, kernels_for(isa).tile_for(type, 2), type, x, 200,
                                           matrix.panels(), 40, bias);
                    CAPTURE(to_string(isa));
                    CAPTURE(bad);
                    CHECK(std::all_of(y.begin(), y.begin() + 40, [](float v) { return std::isfinite(v); }));
                    CHECK(std::all_of(y.begin() + 40, y.end(), [](float v) { return std::isnan(v); }));
                }
            }
        }
    }
}

} // namespace
