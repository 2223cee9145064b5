// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cfloat>
#include <cstdint>

#if defined(__SSE__) || defined(_M_X64)
#define GPT2_FP_MXCSR 1
#include <xmmintrin.h>
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define GPT2_FP_FPCR 1
#else
#include <cfenv>
#endif

/// @file
/// The floating-point state that all arithmetic of the library runs in. Bit-identical results need the
/// same rounding and the same treatment of subnormal numbers on every thread, and threads inherit
/// whatever state their creator happened to have (flush-to-zero, say, from a program that was linked
/// with -ffast-math or from an audio library).

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || defined(__ASSOCIATIVE_MATH__) ||                        \
    defined(__RECIPROCAL_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error                                                                                                       \
    "gpt2 must not be compiled with -ffast-math, -Ofast, /fp:fast or any of their parts: they reorder the \
fixed summation order that makes results reproducible, and remove the checks for NaN and infinity. Compile \
the files that include gpt2 headers without them."
#endif

// 16 differs from 0 only for _Float16 (C23 annex H): float is still evaluated as float.
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "gpt2 needs FLT_EVAL_METHOD 0 (float arithmetic rounds to float after each operation), or results \
would depend on which values the compiler keeps in wider registers. On 32-bit x86 use -msse2 -mfpmath=sse."
#endif

namespace gpt2 {

/// While it lives, this thread rounds to nearest (ties to even), keeps subnormal numbers (neither
/// flush-to-zero nor denormals-are-zero) and raises no floating-point trap; the former state returns at
/// the end, with the exception flags the thread had. Costs a few nanoseconds when nothing has to change.
///
/// Only for the thread that made it, and to be destroyed in reverse order of making: a local variable.
///
/// Registers: MXCSR on x86 (Intel SDM vol. 1, 10.2.3), FPCR on arm64 (Arm ARM, C5.2.8), elsewhere
/// `fesetenv(FE_DFL_ENV)`. The x87 control word is left alone: float and double arithmetic does not use it.
class FloatingPointScope {
public:
#if defined(GPT2_FP_MXCSR)
    FloatingPointScope() noexcept : saved_(_mm_getcsr()) {
        // 0x1f80: all six traps masked, round to nearest, no FTZ (bit 15), no DAZ (bit 6). Bits 0 to 5 are
        // flags, which change no result.
        constexpr unsigned flags = 0x003f;
        constexpr unsigned wanted = 0x1f80;
        if ((saved_ & ~flags) != wanted) {
            _mm_setcsr(wanted | (saved_ & flags));
        }
        keep_order();
    }
    ~FloatingPointScope() {
        keep_order();
        if (_mm_getcsr() != saved_) {
            _mm_setcsr(saved_);
        }
    }
#elif defined(GPT2_FP_FPCR)
    FloatingPointScope() noexcept : saved_(read_fpcr()) {
        // FIZ, AH, NEP (0 to 2), trap enables (8 to 12, 15), FZ16 (19), rounding (22, 23), FZ (24), DN (25).
        constexpr std::uint64_t control = 0x7u | 0x9f00u | (1u << 19) | (0xfu << 22);
        if ((saved_ & control) != 0) {
            write_fpcr(saved_ & ~control);
        }
        keep_order();
    }
    ~FloatingPointScope() {
        keep_order();
        if (read_fpcr() != saved_) {
            write_fpcr(saved_);
        }
    }
#else
    FloatingPointScope() noexcept {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
        keep_order();
    }
    ~FloatingPointScope() {
        keep_order();
        std::fesetenv(&saved_);
    }
#endif
    FloatingPointScope(const FloatingPointScope&) = delete;
    FloatingPointScope& operator=(const FloatingPointScope&) = delete;

private:
    /// Compilers know no dependence of arithmetic on the control register; not letting loads and stores
    /// past this point keeps arithmetic on memory inside the scope.
    static void keep_order() noexcept {
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }

#if defined(GPT2_FP_MXCSR)
    unsigned saved_;
#elif defined(GPT2_FP_FPCR)
    static std::uint64_t read_fpcr() noexcept {
        std::uint64_t value;
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(value));
        return value;
    }
    static void write_fpcr(std::uint64_t value) noexcept {
        __asm__ __volatile__("msr fpcr, %0" : : "r"(value) : "memory");
    }
    std::uint64_t saved_;
#else
    std::fenv_t saved_;
#endif
};

} // namespace gpt2
