// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <array>
#include <cstdlib>
#include <optional>
#include <string_view>

/// @file
/// The instruction sets that kernels exist for, and which of them this machine runs.

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
/// 1 where the AVX2 and AVX-512 kernels are compiled. It depends on the processor family alone, never on
/// `-m` flags, so that every translation unit of a program agrees.
#define GPT2_X86 1
#include <cpuid.h>
#else
#define GPT2_X86 0
#endif

namespace gpt2 {

/// Levels in ascending order; each kernel is compiled for every one of them.
enum class Isa {
    portable,    ///< 128-bit vectors that every processor of the family has: SSE2, NEON, or scalar code
    avx2,        ///< AVX2 with FMA and F16C
    avx2_vnni,   ///< and AVX-VNNI, dot products of bytes
    avx512,      ///< AVX-512 F, BW, DQ and VL, beside AVX2, FMA and F16C
    avx512_vnni, ///< and AVX-512 VNNI
};

/// All of them, in ascending order.
inline constexpr std::array<Isa, 5> all_isas{Isa::portable, Isa::avx2, Isa::avx2_vnni, Isa::avx512,
                                             Isa::avx512_vnni};

[[nodiscard]] constexpr std::string_view to_string(Isa isa) noexcept {
    switch (isa) {
    case Isa::avx512_vnni:
        return "avx512_vnni";
    case Isa::avx512:
        return "avx512";
    case Isa::avx2_vnni:
        return "avx2_vnni";
    case Isa::avx2:
        return "avx2";
    case Isa::portable:
        break;
    }
    return "portable";
}

/// Whether the processor and the operating system support a level. (The compiler's builtin asks XGETBV
/// whether the wide registers are saved.)
[[nodiscard]] inline bool supports(Isa isa) noexcept {
    if (isa == Isa::portable) {
        return true;
    }
#if GPT2_X86
    __builtin_cpu_init();
    // F16C has no name in the builtin of GCC 12 and Clang 14; every processor with AVX2 and FMA has it.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        return false;
    }
    if (isa == Isa::avx2_vnni) { // AVX-VNNI has no name in Clang 14's: CPUID.(7, 1):EAX[4]
        unsigned eax = 0;
        unsigned ebx = 0;
        unsigned ecx = 0;
        unsigned edx = 0;
        return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
    }
    return isa == Isa::avx2 || (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                                (isa == Isa::avx512 || __builtin_cpu_supports("avx512vnni")));
#else
    return false;
#endif
}

/// The highest level that this machine supports.
[[nodiscard]] inline Isa supported_isa() noexcept {
    Isa highest = Isa::portable;
    for (const Isa isa : all_isas) {
        if (supports(isa)) {
            highest = isa;
        }
    }
    return highest;
}

/// The level to use: @p wanted if given, else the environment variable `GPT2_ISA`, else the highest.
/// @throws OptionError for an unknown name, or a level that this machine does not have.
[[nodiscard]] inline Isa choose_isa(std::optional<Isa> wanted = {}) {
    std::string_view source = "LoadOptions::isa";
    if (!wanted) {
        const char* variable = std::getenv("GPT2_ISA");
        if (variable == nullptr || *variable == '\0') {
            return supported_isa();
        }
        source = "environment variable GPT2_ISA";
        for (const Isa isa : all_isas) {
            if (to_string(isa) == variable) {
                wanted = isa;
            }
        }
        if (!wanted) {
            throw OptionError(detail::concat(source, ": expected portable, avx2, avx2_vnni, avx512 or ",
                                             "avx512_vnni, found ", detail::quoted(variable)));
        }
    }
    if (!supports(*wanted)) {
        throw OptionError(detail::concat(source, ": expected a level that this machine supports, at best ",
                                         to_string(supported_isa()), ", found ", to_string(*wanted)));
    }
    return *wanted;
}

} // namespace gpt2
