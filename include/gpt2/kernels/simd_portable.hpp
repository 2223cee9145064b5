// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"
#include "gpt2/kernels/isa.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__SSE2__) || defined(_M_X64) || defined(__aarch64__) || defined(_M_ARM64)
#include <xsimd/xsimd.hpp>
#define GPT2_XSIMD 1
#else
#include <cmath>
#define GPT2_XSIMD 0
#endif

/// @file
/// The vector interface that every kernel is written against, and its portable level.
///
/// `F32x16` is a block of sixteen floats: one register of AVX-512, two of AVX2, four of SSE2 or NEON. With
/// the number of lanes the same everywhere, kernels, tails and cross-lane sums are the same code and give
/// the same bits on each level. (Exception: SSE2 has no fused multiply-add, so there fma() rounds twice.)
///
/// | function | result |
/// |---|---|
/// | `load(p)` | 16 floats from unaligned floats or halves |
/// | `load_pair(p, a, b)` | 32 bfloat16, stored 0, 16, 1, 17, ...: the first and the second sixteen |
/// | `load_partial(p, n)` | the first n <= 16 floats, 0 in the other lanes |
/// | `store(p, a)` | to floats, or rounded to nearest even to halves |
/// | `store_partial(p, a, n)` | writes the first n <= 16 lanes |
/// | `fma(a, b, c)` | a * b + c, rounded once |
/// | `shift_left_23(a)` | the bit patterns, shifted |
/// | `zero_where_less(a, x, limit)` | 0 in lanes with x < limit, else a |
/// | `keep_first(a, n, rest)` | a in the first n lanes, rest in the others |
/// | `sum(a)` | of all lanes: i with i + 8, then i + 4, i + 2, i + 1 |
/// | `max(a)` | of all lanes |
///
/// `Bytes` are sixteen quads of four bytes, and `I32x16` sixteen integers below 2^24.
///
/// | function | result |
/// |---|---|
/// | `load_bytes(p)` | 64 bytes |
/// | `load_nibbles(p, low, high)` | the low and the high halves of 64 bytes |
/// | `store_low_bytes(p, a)` | 16 bytes: the lowest of each lane's bit pattern |
/// | `broadcast_quad(p)` | the same 4 bytes in each quad |
/// | `dot<Zero>(sum, w, x)` | sum + the dot products of quads, w less Zero times signed x, where the chain
///                           began with |
/// | `start_dot<Zero>(correction)` | -Zero times the sum of all x in all lanes |
/// | `sum_of(a, b)` | of integers |
///
/// `fetch_ahead(p)` asks for weights that come some time after those at p in a stream that is read line by
/// line.

namespace gpt2::kernels::portable {

#if GPT2_XSIMD
#if defined(__aarch64__) || defined(_M_ARM64)
using Arch = xsimd::neon64;
#else
using Arch = xsimd::sse2; // named, not xsimd's default, which changes with -m flags
#endif
using Quad = xsimd::batch<float, Arch>;
using QuadBits = xsimd::batch<std::uint32_t, Arch>;

inline Quad quad(float x) {
    return Quad(x);
}
inline Quad quad_load(const float* p) {
    return Quad::load_unaligned(p);
}
inline void quad_store(float* p, Quad a) {
    a.store_unaligned(p);
}
inline QuadBits bits_of(Quad a) {
    return xsimd::bitwise_cast<QuadBits>(a);
}
inline Quad float_of(QuadBits a) {
    return xsimd::bitwise_cast<Quad>(a);
}
inline Quad quad_max(Quad a, Quad b) {
    return xsimd::max(a, b);
}
inline Quad quad_min(Quad a, Quad b) {
    return xsimd::min(a, b);
}
inline Quad quad_zero_where_less(Quad a, Quad x, Quad limit) {
    return xsimd::select(x < limit, Quad(0.0f), a);
}
/// A product that stays one: GCC contracts intrinsics too when a translation unit is compiled with -mfma, and
/// the level must mean the same in each of them.
inline Quad quad_mul(Quad a, Quad b) {
    Quad product = a * b;
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__SSE2__))
    __asm__("" : "+x"(product.data));
#endif
    return product;
}
inline Quad quad_div(Quad a, Quad b) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return vdivq_f32(a, b); // xsimd 8.1 approximates
#else
    return a / b;
#endif
}
inline Quad quad_fma(Quad a, Quad b, Quad c) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return xsimd::fma(a, b, c);
#else
    return quad_mul(a, b) + c;
#endif
}
#else
struct Quad {
    float lane[4];
};
struct QuadBits {
    std::uint32_t lane[4];
};
template <class F> inline Quad quad_map(F f) {
    return {{f(0), f(1), f(2), f(3)}};
}
inline Quad quad(float x) {
    return {{x, x, x, x}};
}
inline Quad quad_load(const float* p) {
    return {{p[0], p[1], p[2], p[3]}};
}
inline void quad_store(float* p, Quad a) {
    std::memcpy(p, a.lane, sizeof a.lane);
}
inline QuadBits bits_of(Quad a) {
    return std::bit_cast<QuadBits>(a);
}
inline Quad float_of(QuadBits a) {
    return std::bit_cast<Quad>(a);
}
inline Quad operator+(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Quad operator-(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Quad operator*(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Quad operator/(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline QuadBits operator<<(QuadBits a, int n) {
    return {{a.lane[0] << n, a.lane[1] << n, a.lane[2] << n, a.lane[3] << n}};
}
inline Quad quad_max(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Quad quad_min(Quad a, Quad b) {
    return quad_map([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Quad quad_zero_where_less(Quad a, Quad x, Quad limit) {
    return quad_map([&](int i) { return x.lane[i] < limit.lane[i] ? 0.0f : a.lane[i]; });
}
inline Quad quad_mul(Quad a, Quad b) {
    return a * b;
}
inline Quad quad_fma(Quad a, Quad b, Quad c) {
    return quad_map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
#endif

inline void fetch_ahead(const void* p) {
    __builtin_prefetch(static_cast<const std::byte*>(p) + 8192);
}

struct F32x16 {
    Quad q0, q1, q2, q3;
};

inline F32x16 broadcast(float x) {
    return {quad(x), quad(x), quad(x), quad(x)};
}
inline F32x16 zero() {
    return broadcast(0.0f);
}
inline F32x16 load(const float* p) {
    return {quad_load(p), quad_load(p + 4), quad_load(p + 8), quad_load(p + 12)};
}
#if GPT2_XSIMD
/// Four halves in the low 16 bits of each lane: the exponent and mantissa move into float's place, where
/// the value is 2^-112 of what it should be, subnormals included; infinity and NaN keep a full exponent.
inline Quad widen(QuadBits h) {
    const QuadBits magnitude = (h & QuadBits(0x7fffu)) << 13;
    const QuadBits full = xsimd::bitwise_cast<QuadBits>(
        xsimd::select(magnitude >= QuadBits(0x0f800000u), QuadBits(0x7f800000u), QuadBits(0u)));
    const Quad scaled = float_of(magnitude) * Quad(0x1p112f);
    return float_of(bits_of(scaled) | full | ((h & QuadBits(0x8000u)) << 16));
}
inline Quad widen(const half* p) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
#else
    std::uint32_t wide[4] = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
    return widen(QuadBits::load_unaligned(wide));
#endif
}
#else
inline Quad widen(const half* p) {
    return quad_map([&](int i) { return static_cast<float>(p[i]); });
}
#endif
inline F32x16 load(const half* p) {
    return {widen(p), widen(p + 4), widen(p + 8), widen(p + 12)};
}
inline F32x16 load_partial(const float* p, std::size_t n) {
    float buffer[16] = {};
    std::memcpy(buffer, p, n * sizeof(float));
    return load(buffer);
}
inline void load_pair(const bfloat16* p, F32x16& a, F32x16& b) {
    float first[16];
    float second[16];
    for (int i = 0; i < 16; ++i) {
        first[i] = static_cast<float>(p[2 * i]);
        second[i] = static_cast<float>(p[2 * i + 1]);
    }
    a = load(first);
    b = load(second);
}
inline void store(float* p, F32x16 a) {
    quad_store(p, a.q0);
    quad_store(p + 4, a.q1);
    quad_store(p + 8, a.q2);
    quad_store(p + 12, a.q3);
}
inline void store(half* p, F32x16 a) {
    float buffer[16];
    store(buffer, a);
    for (int i = 0; i < 16; ++i) {
        p[i] = half(buffer[i]);
    }
}
inline void store_partial(float* p, F32x16 a, std::size_t n) {
    float buffer[16];
    store(buffer, a);
    std::memcpy(p, buffer, n * sizeof(float));
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {quad_fma(a.q0, b.q0, c.q0), quad_fma(a.q1, b.q1, c.q1), quad_fma(a.q2, b.q2, c.q2),
            quad_fma(a.q3, b.q3, c.q3)};
}
inline F32x16 add(F32x16 a, F32x16 b) {
    return {a.q0 + b.q0, a.q1 + b.q1, a.q2 + b.q2, a.q3 + b.q3};
}
inline F32x16 sub(F32x16 a, F32x16 b) {
    return {a.q0 - b.q0, a.q1 - b.q1, a.q2 - b.q2, a.q3 - b.q3};
}
inline F32x16 mul(F32x16 a, F32x16 b) {
    return {quad_mul(a.q0, b.q0), quad_mul(a.q1, b.q1), quad_mul(a.q2, b.q2), quad_mul(a.q3, b.q3)};
}
inline F32x16 div(F32x16 a, F32x16 b) {
    return {quad_div(a.q0, b.q0), quad_div(a.q1, b.q1), quad_div(a.q2, b.q2), quad_div(a.q3, b.q3)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
    return {quad_max(a.q0, b.q0), quad_max(a.q1, b.q1), quad_max(a.q2, b.q2), quad_max(a.q3, b.q3)};
}
inline F32x16 min(F32x16 a, F32x16 b) {
    return {quad_min(a.q0, b.q0), quad_min(a.q1, b.q1), quad_min(a.q2, b.q2), quad_min(a.q3, b.q3)};
}
inline F32x16 shift_left_23(F32x16 a) {
    return {float_of(bits_of(a.q0) << 23), float_of(bits_of(a.q1) << 23), float_of(bits_of(a.q2) << 23),
            float_of(bits_of(a.q3) << 23)};
}
inline F32x16 zero_where_less(F32x16 a, F32x16 x, F32x16 limit) {
    return {quad_zero_where_less(a.q0, x.q0, limit.q0), quad_zero_where_less(a.q1, x.q1, limit.q1),
            quad_zero_where_less(a.q2, x.q2, limit.q2), quad_zero_where_less(a.q3, x.q3, limit.q3)};
}
inline F32x16 keep_first(F32x16 a, std::size_t n, F32x16 rest) {
    float kept[16];
    float buffer[16];
    store(kept, a);
    store(buffer, rest);
    std::memcpy(buffer, kept, (n < 16 ? n : 16) * sizeof(float));
    return load(buffer);
}
inline float sum(F32x16 a) {
    float four[4];
    quad_store(four, (a.q0 + a.q2) + (a.q1 + a.q3));
    return (four[0] + four[2]) + (four[1] + four[3]);
}
inline float max(F32x16 a) {
    float four[4];
    quad_store(four, quad_max(quad_max(a.q0, a.q2), quad_max(a.q1, a.q3)));
    const float even = four[0] > four[2] ? four[0] : four[2];
    const float odd = four[1] > four[3] ? four[1] : four[3];
    return even > odd ? even : odd;
}

/// Floats are exact for the integers that occur here.
struct I32x16 {
    F32x16 v;
};
struct Bytes {
    std::uint32_t quads[16];
};

inline Bytes load_bytes(const std::byte* p) {
    Bytes a;
    std::memcpy(a.quads, p, sizeof a.quads);
    return a;
}
inline void load_nibbles(const std::byte* p, Bytes& low, Bytes& high) {
    const Bytes both = load_bytes(p);
    for (int i = 0; i < 16; ++i) {
        low.quads[i] = both.quads[i] & 0x0f0f0f0fu;
        high.quads[i] = both.quads[i] >> 4 & 0x0f0f0f0fu;
    }
}
inline void store(std::byte* p, const Bytes& a) {
    std::memcpy(p, a.quads, sizeof a.quads);
}
inline void store_low_bytes(std::byte* p, F32x16 a) {
    std::uint32_t bits[16];
    float lanes[16];
    store(lanes, a);
    std::memcpy(bits, lanes, sizeof bits);
    for (int i = 0; i < 16; ++i) {
        p[i] = static_cast<std::byte>(bits[i] & 0xffu);
    }
}
inline const std::byte* broadcast_quad(const std::byte* p) {
    return p;
}
inline I32x16 sum_of(I32x16 a, I32x16 b) {
    return {add(a.v, b.v)};
}
inline F32x16 to_float(I32x16 a) {
    return a.v;
}
/// Bytes of four quads as floats.
inline Quad quad_bytes(const std::uint32_t* quads, int byte) {
#if GPT2_XSIMD
    using Signed = xsimd::batch<std::int32_t, Arch>;
    const QuadBits bits = (QuadBits::load_unaligned(quads) >> (8 * byte)) & QuadBits(0xffu);
    return xsimd::to_float(xsimd::bitwise_cast<Signed>(bits));
#else
    return quad_map([&](int i) { return static_cast<float>(quads[i] >> (8 * byte) & 0xffu); });
#endif
}

namespace plain {
inline constexpr std::size_t most_dot_rows = 4; ///< of a tile
template <std::int32_t> inline I32x16 start_dot(std::int32_t correction) {
    return {broadcast(static_cast<float>(correction))};
}
template <std::int32_t> inline I32x16 dot(I32x16 sum, const Bytes& w, const std::byte* x) {
    for (int byte = 0; byte < 4; ++byte) {
        std::int8_t value = 0;
        std::memcpy(&value, x + byte, 1);
        const Quad factor = quad(static_cast<float>(value));
        sum.v.q0 = quad_fma(factor, quad_bytes(w.quads, byte), sum.v.q0);
        sum.v.q1 = quad_fma(factor, quad_bytes(w.quads + 4, byte), sum.v.q1);
        sum.v.q2 = quad_fma(factor, quad_bytes(w.quads + 8, byte), sum.v.q2);
        sum.v.q3 = quad_fma(factor, quad_bytes(w.quads + 12, byte), sum.v.q3);
    }
    return sum;
}
} // namespace plain

} // namespace gpt2::kernels::portable
