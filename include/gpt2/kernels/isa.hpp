// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <cstdlib>
#include <optional>
#include <string_view>

/// @file
/// The instruction sets that kernels exist for, and which of them this machine runs.

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
/// 1 where the AVX2 and AVX-512 kernels are compiled. It depends on the processor family alone, never on
/// `-m` flags, so that every translation unit of a program agrees.
#define GPT2_X86 1
#else
#define GPT2_X86 0
#endif

namespace gpt2 {

/// Levels in ascending order; each kernel is compiled for every one of them.
enum class Isa {
    portable, ///< 128-bit vectors that every processor of the family has: SSE2, NEON, or scalar code
    avx2,     ///< AVX2 with FMA and F16C
    avx512,   ///< AVX-512 F, BW, DQ and VL, beside all of the above
};

[[nodiscard]] constexpr std::string_view to_string(Isa isa) noexcept {
    switch (isa) {
    case Isa::avx512:
        return "avx512";
    case Isa::avx2:
        return "avx2";
    case Isa::portable:
        break;
    }
    return "portable";
}

/// The highest level that the processor and the operating system support. (The compiler's builtin asks
/// XGETBV whether the wide registers are saved.)
[[nodiscard]] inline Isa supported_isa() noexcept {
#if GPT2_X86
    __builtin_cpu_init();
    // F16C has no name in the builtin of GCC 12 and Clang 14; every processor with AVX2 and FMA has it.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return Isa::avx512;
    }
    if (avx2) {
        return Isa::avx2;
    }
#endif
    return Isa::portable;
}

/// The level to use: @p wanted if given, else the environment variable `GPT2_ISA`, else the highest.
/// @throws OptionError for an unknown name, or a level that this machine does not have.
[[nodiscard]] inline Isa choose_isa(std::optional<Isa> wanted = {}) {
    const Isa highest = supported_isa();
    std::string_view source = "LoadOptions::isa";
    if (!wanted) {
        const char* variable = std::getenv("GPT2_ISA");
        if (variable == nullptr || *variable == '\0') {
            return highest;
        }
        source = "environment variable GPT2_ISA";
        for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
            if (to_string(isa) == variable) {
                wanted = isa;
            }
        }
        if (!wanted) {
            throw OptionError(detail::concat(source, ": expected portable, avx2 or avx512, found ",
                                             detail::quoted(variable)));
        }
    }
    if (*wanted > highest) {
        throw OptionError(detail::concat(source, ": expected at most ", to_string(highest),
                                         ", which is what this machine supports, found ",
                                         to_string(*wanted)));
    }
    return *wanted;
}

} // namespace gpt2
