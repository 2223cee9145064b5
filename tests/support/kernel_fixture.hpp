// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/kernels/kernels.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// @file
/// What tests of kernels share: the levels of this machine, numbers, and memory that notices stray writes.

namespace gpt2::test {

inline constexpr WeightType all_types[] = {WeightType::float32, WeightType::float16, WeightType::bfloat16,
                                           WeightType::int8, WeightType::int4};

/// The instruction sets that this machine has.
[[nodiscard]] inline std::vector<Isa> levels() {
    std::vector<Isa> list;
    for (const Isa isa : all_isas) {
        if (supports(isa)) {
            list.push_back(isa);
        }
    }
    return list;
}

/// The tiles of a level for a type.
[[nodiscard]] inline std::vector<kernels::LinearTile> tiles(Isa isa, WeightType type) {
    std::vector<kernels::LinearTile> list;
    for (const kernels::LinearTile& tile : kernels::kernels_for(isa).tiles[static_cast<std::size_t>(type)]) {
        if (tile.rows != 0) {
            list.push_back(tile);
        }
    }
    return list;
}

/// Whether the multiply-add of a level rounds once. SSE2 has none.
[[nodiscard]] inline bool fuses([[maybe_unused]] Isa isa) noexcept {
#if defined(__x86_64__) || defined(__SSE2__) || defined(_M_X64)
    return isa != Isa::portable;
#else
    return true;
#endif
}

/// a * b + c in float, with one rounding or two.
[[nodiscard]] inline float multiply_add(float a, float b, float c, bool fused) {
    if (fused) {
        return std::fma(a, b, c);
    }
    const volatile float product = a * b; // no compiler contracts it with the addition
    return product + c;
}

/// Numbers for tests, the same everywhere (Vigna's SplitMix64).
class Numbers {
public:
    explicit Numbers(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    /// Uniform in [-1, 1).
    float number() { return static_cast<float>(static_cast<std::int64_t>(bits()) >> 39) * 0x1p-24f; }
    std::vector<float> numbers(std::size_t n, float scale = 1.0f, float offset = 0.0f) {
        std::vector<float> list(n);
        for (float& x : list) {
            x = std::fma(number(), scale, offset);
        }
        return list;
    }

private:
    std::uint64_t state_;
};

/// An array of floats that begins @p misalignment floats past a 64-byte boundary, between guards that show
/// whether anything was written outside. It is filled with NaN at first.
class GuardedFloats {
public:
    explicit GuardedFloats(std::size_t n, std::size_t misalignment = 0)
        : memory_(n + 2 * guard + 16, guard_value()), n_(n) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.data() + guard) / sizeof(float);
        begin_ = guard + (16 - address % 16) % 16 + misalignment % 16;
        if (begin_ + n + guard > memory_.size()) {
            begin_ -= 16;
        }
    }
    GuardedFloats(std::span<const float> values, std::size_t misalignment)
        : GuardedFloats(values.size(), misalignment) {
        std::copy(values.begin(), values.end(), data());
    }

    [[nodiscard]] float* data() { return memory_.data() + begin_; }
    [[nodiscard]] std::span<float> span() { return {data(), n_}; }
    [[nodiscard]] float& operator[](std::size_t i) { return data()[i]; }

    /// Nothing was written before or after the array.
    [[nodiscard]] bool intact() const {
        const auto is_guard = [](float x) { return untouched(x); };
        const auto first = memory_.begin() + static_cast<std::ptrdiff_t>(begin_);
        return std::all_of(memory_.begin(), first, is_guard) &&
               std::all_of(first + static_cast<std::ptrdiff_t>(n_), memory_.end(), is_guard);
    }
    /// Whether an element still is what the array was filled with.
    [[nodiscard]] static bool untouched(float x) {
        return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(guard_value());
    }

private:
    static constexpr std::size_t guard = 32;
    static float guard_value() { return std::bit_cast<float>(0x7fc12345u); }

    std::vector<float> memory_;
    std::size_t n_;
    std::size_t begin_;
};

/// Sums as kernels do: element i in lane i mod 16, then lanes 8, 4, 2 and 1 apart.
class SixteenLanes {
public:
    [[nodiscard]] float& operator[](std::size_t i) { return lanes_[i % 16]; }
    [[nodiscard]] float sum() const {
        float lanes[16];
        std::copy(std::begin(lanes_), std::end(lanes_), lanes);
        for (std::size_t distance = 8; distance != 0; distance /= 2) {
            for (std::size_t i = 0; i < distance; ++i) {
                lanes[i] += lanes[i + distance];
            }
        }
        return lanes[0];
    }

private:
    float lanes_[16] = {};
};

/// The kernels' exponential, one number at a time.
[[nodiscard]] inline float scalar_exp(float x, bool fused) {
    constexpr float lowest = -87.33654f;
    if (x < lowest) {
        return 0.0f;
    }
    const float clamped = std::min(x, 88.0f);
    constexpr float magic = 12582912.0f + 127.0f;
    const float shifted = multiply_add(clamped, 1.44269504f, magic, fused);
    const float n = shifted - magic;
    const float r =
        multiply_add(n, -1.42860677e-6f, multiply_add(n, -0.693145751953125f, clamped, fused), fused);
    float series = 1.0f / 5040.0f;
    for (const float c : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
        series = multiply_add(series, r, c, fused);
    }
    return series * std::ldexp(1.0f, static_cast<int>(n));
}

[[nodiscard]] inline float scalar_gelu_tanh(float x, bool fused) {
    const float slope = multiply_add(x * x, -0.07135481283f, -1.595769122f, fused);
    return x / (1.0f + scalar_exp(x * slope, fused));
}

[[nodiscard]] inline float scalar_gelu_erf(float x, bool fused) {
    const float clamped = std::min(std::fabs(x), 13.5f);
    const float exponent = -0.5f * clamped * clamped;
    const float lost = multiply_add(-0.5f * clamped, clamped, -exponent, fused);
    const float rounded = scalar_exp(exponent, fused);
    float above = -0.00400745869f;
    for (const float c : {-0.0399123579f, -0.181114569f, -0.435459763f, -0.5f}) {
        above = multiply_add(above, clamped, c, fused);
    }
    float below = 0.0100450674f;
    for (const float c : {0.100052796f, 0.46386677f, 1.19373894f, 1.66880429f, 1.0f}) {
        below = multiply_add(below, clamped, c, fused);
    }
    const float tail = multiply_add(rounded, lost, rounded, fused) * (above / below);
    return multiply_add(std::fabs(x), tail, x < 0.0f ? 0.0f : x, fused);
}

} // namespace gpt2::test
