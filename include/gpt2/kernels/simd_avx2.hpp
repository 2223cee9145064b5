// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"
#include "gpt2/kernels/isa.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

#if GPT2_X86

#include <immintrin.h>

#define GPT2_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define GPT2_TARGET_AVX2_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define GPT2_INLINE inline __attribute__((always_inline)) GPT2_TARGET_AVX2

/// @file
/// The vector interface, AVX2 level: sixteen floats in two registers. simd_portable.hpp describes the
/// interface; all levels give the same bits for the same operation.

namespace gpt2::kernels::avx2 {

struct F32x16 {
    __m256 lo, hi;
};

/// Fetches, for the line at @p p of a long stream, one of the next 64 KiB into the second-level cache: lines
/// that follow each other here stand for lines 16 KiB apart there, so that a stream is read ahead in four
/// places at once. On a Zen 3 one core reads 9 GB/s from one place and 12 from four.
GPT2_INLINE void fetch_ahead(const void* p) {
    constexpr std::size_t window = 65536;
    const std::size_t at = reinterpret_cast<std::uintptr_t>(p) % window;
    const std::size_t line = at / 64;
    const std::size_t then = window + line % 4 * (window / 4) + line / 4 * 64; // from the window's begin
    __builtin_prefetch(static_cast<const std::byte*>(p) + (then - at), 0, 2);
}

GPT2_INLINE F32x16 zero() {
    return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
GPT2_INLINE F32x16 broadcast(float x) {
    return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
GPT2_INLINE F32x16 load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
GPT2_INLINE F32x16 load(const half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
GPT2_INLINE F32x16 load_partial(const float* p, std::size_t n) {
    alignas(32) float buffer[16] = {};
    std::memcpy(buffer, p, n * sizeof(float));
    return load(buffer);
}
GPT2_INLINE void load_pair(const bfloat16* p, F32x16& a, F32x16& b) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    a.lo = _mm256_castsi256_ps(_mm256_slli_epi32(lo, 16));
    a.hi = _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16));
    b.lo = _mm256_castsi256_ps(_mm256_and_si256(lo, mask));
    b.hi = _mm256_castsi256_ps(_mm256_and_si256(hi, mask));
}
GPT2_INLINE void store(float* p, F32x16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
GPT2_INLINE void store(half* p, F32x16 a) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, nearest));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, nearest));
}
GPT2_INLINE void store_partial(float* p, F32x16 a, std::size_t n) {
    alignas(32) float buffer[16];
    store(buffer, a);
    std::memcpy(p, buffer, n * sizeof(float));
}
GPT2_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
GPT2_INLINE F32x16 add(F32x16 a, F32x16 b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 sub(F32x16 a, F32x16 b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 mul(F32x16 a, F32x16 b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 div(F32x16 a, F32x16 b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 max(F32x16 a, F32x16 b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 min(F32x16 a, F32x16 b) {
    return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
GPT2_INLINE F32x16 shift_left_23(F32x16 a) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.lo), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.hi), 23))};
}
GPT2_INLINE F32x16 zero_where_less(F32x16 a, F32x16 x, F32x16 limit) {
    return {_mm256_and_ps(a.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ)),
            _mm256_and_ps(a.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ))};
}
GPT2_INLINE F32x16 keep_first(F32x16 a, std::size_t n, F32x16 rest) {
    const __m256i count = _mm256_set1_epi32(static_cast<int>(n));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i lo = _mm256_cmpgt_epi32(count, lanes);
    const __m256i hi = _mm256_cmpgt_epi32(count, _mm256_add_epi32(lanes, _mm256_set1_epi32(8)));
    return {_mm256_blendv_ps(rest.lo, a.lo, _mm256_castsi256_ps(lo)),
            _mm256_blendv_ps(rest.hi, a.hi, _mm256_castsi256_ps(hi))};
}
GPT2_INLINE float sum(F32x16 a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GPT2_INLINE float max(F32x16 a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

struct Bytes {
    __m256i lo, hi;
};
/// Sums of dot products; not __m256i for the reason given in simd_avx512.hpp.
using Ints = int __attribute__((vector_size(32)));
struct I32x16 {
    Ints lo, hi;
};
GPT2_INLINE I32x16 as_ints(__m256i lo, __m256i hi) {
    return {reinterpret_cast<Ints>(lo), reinterpret_cast<Ints>(hi)};
}
GPT2_INLINE I32x16 sum_of(I32x16 a, I32x16 b) {
    return {a.lo + b.lo, a.hi + b.hi};
}
GPT2_INLINE __m256i bits(Ints a) {
    return reinterpret_cast<__m256i>(a);
}

GPT2_INLINE __m256i load_half(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
GPT2_INLINE Bytes load_bytes(const std::byte* p) {
    return {load_half(p), load_half(p + 32)};
}
GPT2_INLINE void load_nibbles(const std::byte* p, Bytes& low, Bytes& high) {
    const __m256i mask = _mm256_set1_epi8(15);
    const Bytes both = load_bytes(p);
    low = {_mm256_and_si256(both.lo, mask), _mm256_and_si256(both.hi, mask)};
    high = {_mm256_and_si256(_mm256_srli_epi16(both.lo, 4), mask),
            _mm256_and_si256(_mm256_srli_epi16(both.hi, 4), mask)};
}
GPT2_INLINE void store(std::byte* p, Bytes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), a.hi);
}
GPT2_INLINE void store_low_bytes(std::byte* p, F32x16 a) {
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4,
                                           8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i lo = _mm256_shuffle_epi8(_mm256_castps_si256(a.lo), order); // 4 bytes in each half
    const __m256i hi = _mm256_shuffle_epi8(_mm256_castps_si256(a.hi), order);
    const __m256i both = _mm256_unpacklo_epi32(lo, hi); // elements 0, 8 | 4, 12
    const __m128i even = _mm256_castsi256_si128(both);
    const __m128i odd = _mm256_extracti128_si256(both, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(even, odd));
}
GPT2_INLINE Bytes broadcast_quad(const std::byte* p) {
    int quad = 0;
    __builtin_memcpy(&quad, p, sizeof quad);
    const __m256i all = _mm256_set1_epi32(quad);
    return {all, all};
}
GPT2_INLINE F32x16 to_float(I32x16 a) {
    return {_mm256_cvtepi32_ps(bits(a.lo)), _mm256_cvtepi32_ps(bits(a.hi))};
}

namespace plain {
inline constexpr std::size_t most_dot_rows = 4; ///< of a tile
template <std::int32_t Zero> GPT2_INLINE I32x16 start_dot(std::int32_t correction) {
    const __m256i all = _mm256_set1_epi32(Zero == 8 ? correction : 0);
    return as_ints(all, all);
}
template <std::int32_t Zero> GPT2_INLINE __m256i dot_half(__m256i sum, __m256i w, __m256i x) {
    __m256i pairs;
    if constexpr (Zero == 8) { // 2 * 15 * 127 < 2^15
        pairs = _mm256_maddubs_epi16(w, x);
    } else { // |x| times w with the sign of x: 2 * 127 * 127 < 2^15
        const __m256i weight = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weight, x));
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <std::int32_t Zero> GPT2_INLINE I32x16 dot(I32x16 sum, Bytes w, Bytes x) {
    return as_ints(dot_half<Zero>(bits(sum.lo), w.lo, x.lo), dot_half<Zero>(bits(sum.hi), w.hi, x.hi));
}
} // namespace plain

namespace vnni {
#define GPT2_INLINE_VNNI inline __attribute__((always_inline)) GPT2_TARGET_AVX2_VNNI
inline constexpr std::size_t most_dot_rows = 2;
template <std::int32_t> GPT2_INLINE_VNNI I32x16 start_dot(std::int32_t correction) {
    const __m256i all = _mm256_set1_epi32(correction);
    return as_ints(all, all);
}
template <std::int32_t> GPT2_INLINE_VNNI I32x16 dot(I32x16 sum, Bytes w, Bytes x) {
    return as_ints(_mm256_dpbusd_avx_epi32(bits(sum.lo), w.lo, x.lo),
                   _mm256_dpbusd_avx_epi32(bits(sum.hi), w.hi, x.hi));
}
#undef GPT2_INLINE_VNNI
} // namespace vnni

} // namespace gpt2::kernels::avx2

#undef GPT2_INLINE

#endif // GPT2_X86
