// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"
#include "gpt2/kernels/isa.hpp"

#include <cstddef>
#include <cstdint>

#if GPT2_X86

#include <immintrin.h>

#define GPT2_TARGET_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
#define GPT2_TARGET_AVX512_VNNI                                                                              \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define GPT2_INLINE inline __attribute__((always_inline)) GPT2_TARGET_AVX512

/// @file
/// The vector interface, AVX-512 level: sixteen floats in one register. simd_portable.hpp describes the
/// interface; all levels give the same bits for the same operation.

namespace gpt2::kernels::avx512 {

struct F32x16 {
    __m512 v;
};

/// Where GCC 12 defines an intrinsic by an undefined register, it warns of it at every use (its bug
/// 105593). The zero-masking form with all lanes on is the same instruction without the warning.
inline constexpr __mmask16 all = 0xffff;

GPT2_INLINE __mmask16 first_lanes(std::size_t n) {
    return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1u);
}
/// Fetches what follows the line at @p p of a long stream 8 KiB later. (simd_avx2.hpp does it in four places;
/// a Zen 5 reads as fast as it can from one.)
GPT2_INLINE void fetch_ahead(const void* p) {
    __builtin_prefetch(static_cast<const std::byte*>(p) + 8192);
}

GPT2_INLINE F32x16 zero() {
    return {_mm512_setzero_ps()};
}
GPT2_INLINE F32x16 broadcast(float x) {
    return {_mm512_set1_ps(x)};
}
GPT2_INLINE F32x16 load(const float* p) {
    return {_mm512_loadu_ps(p)};
}
GPT2_INLINE F32x16 load(const half* p) {
    return {_mm512_maskz_cvtph_ps(all, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
GPT2_INLINE F32x16 load_partial(const float* p, std::size_t n) {
    return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
GPT2_INLINE void load_pair(const bfloat16* p, F32x16& a, F32x16& b) {
    const __m512i words = _mm512_loadu_si512(p);
    a.v = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, words, 16));
    b.v = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
GPT2_INLINE void store(float* p, F32x16 a) {
    _mm512_storeu_ps(p, a.v);
}
GPT2_INLINE void store(half* p, F32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_maskz_cvtps_ph(all, a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
GPT2_INLINE void store_partial(float* p, F32x16 a, std::size_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
GPT2_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
GPT2_INLINE F32x16 add(F32x16 a, F32x16 b) {
    return {_mm512_add_ps(a.v, b.v)};
}
GPT2_INLINE F32x16 sub(F32x16 a, F32x16 b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
GPT2_INLINE F32x16 mul(F32x16 a, F32x16 b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
GPT2_INLINE F32x16 div(F32x16 a, F32x16 b) {
    return {_mm512_div_ps(a.v, b.v)};
}
GPT2_INLINE F32x16 max(F32x16 a, F32x16 b) {
    return {_mm512_maskz_max_ps(all, a.v, b.v)};
}
GPT2_INLINE F32x16 min(F32x16 a, F32x16 b) {
    return {_mm512_maskz_min_ps(all, a.v, b.v)};
}
GPT2_INLINE F32x16 shift_left_23(F32x16 a) {
    return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, _mm512_castps_si512(a.v), 23))};
}
GPT2_INLINE F32x16 zero_where_less(F32x16 a, F32x16 x, F32x16 limit) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), a.v)};
}
GPT2_INLINE F32x16 keep_first(F32x16 a, std::size_t n, F32x16 rest) {
    return {_mm512_mask_mov_ps(rest.v, first_lanes(n), a.v)};
}
GPT2_INLINE __m256 low_half(F32x16 a) {
    return _mm512_maskz_extractf32x8_ps(0xff, a.v, 0);
}
GPT2_INLINE __m256 high_half(F32x16 a) {
    return _mm512_maskz_extractf32x8_ps(0xff, a.v, 1);
}
GPT2_INLINE float sum(F32x16 a) {
    const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GPT2_INLINE float max(F32x16 a) {
    const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

struct Bytes {
    __m512i v;
};
/// Sums of dot products. Not __m512i: the builtins below it work on vectors of int, and GCC 12 copies a chain
/// of sums from register to register at every step if its type is another.
using Ints = int __attribute__((vector_size(64)));
struct I32x16 {
    Ints v;
};
GPT2_INLINE I32x16 as_ints(__m512i x) {
    return {reinterpret_cast<Ints>(x)};
}
GPT2_INLINE I32x16 sum_of(I32x16 a, I32x16 b) {
    return {a.v + b.v};
}
GPT2_INLINE __m512i bits(I32x16 a) {
    return reinterpret_cast<__m512i>(a.v);
}

GPT2_INLINE Bytes load_bytes(const std::byte* p) {
    return {_mm512_loadu_si512(p)};
}
GPT2_INLINE void load_nibbles(const std::byte* p, Bytes& low, Bytes& high) {
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i both = _mm512_loadu_si512(p);
    low.v = _mm512_and_si512(both, mask);
    high.v = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
}
GPT2_INLINE void store(std::byte* p, Bytes a) {
    _mm512_storeu_si512(p, a.v);
}
GPT2_INLINE void store_low_bytes(std::byte* p, F32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm512_maskz_cvtepi32_epi8(all, _mm512_castps_si512(a.v)));
}
GPT2_INLINE Bytes broadcast_quad(const std::byte* p) {
    int quad = 0;
    __builtin_memcpy(&quad, p, sizeof quad);
    return {_mm512_set1_epi32(quad)};
}
GPT2_INLINE F32x16 to_float(I32x16 a) {
    return {_mm512_maskz_cvtepi32_ps(all, bits(a))};
}

namespace plain {
inline constexpr std::size_t most_dot_rows = 4; ///< of a tile
template <std::int32_t Zero> GPT2_INLINE I32x16 start_dot(std::int32_t correction) {
    return as_ints(_mm512_set1_epi32(Zero == 8 ? correction : 0));
}
template <std::int32_t Zero> GPT2_INLINE I32x16 dot(I32x16 sum, Bytes w, Bytes x) {
    __m512i pairs;
    if constexpr (Zero == 8) { // 2 * 15 * 127 < 2^15
        pairs = _mm512_maddubs_epi16(w.v, x.v);
    } else { // |x| times w with the sign of x: 2 * 127 * 127 < 2^15
        const __m512i zero = _mm512_setzero_si512();
        const __m512i weight = _mm512_xor_si512(w.v, _mm512_set1_epi8(-128));
        const __m512i with_sign = _mm512_mask_sub_epi8(weight, _mm512_movepi8_mask(x.v), zero, weight);
        pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(x.v), with_sign);
    }
    return as_ints(_mm512_add_epi32(bits(sum), _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))));
}
} // namespace plain

namespace vnni {
#define GPT2_INLINE_VNNI inline __attribute__((always_inline)) GPT2_TARGET_AVX512_VNNI
inline constexpr std::size_t most_dot_rows = 4;
template <std::int32_t> GPT2_INLINE_VNNI I32x16 start_dot(std::int32_t correction) {
    return as_ints(_mm512_set1_epi32(correction));
}
template <std::int32_t> GPT2_INLINE_VNNI I32x16 dot(I32x16 sum, Bytes w, Bytes x) {
    return as_ints(_mm512_dpbusd_epi32(bits(sum), w.v, x.v));
}
#undef GPT2_INLINE_VNNI
} // namespace vnni

} // namespace gpt2::kernels::avx512

#undef GPT2_INLINE

#endif // GPT2_X86
