// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <iostream>

/// @file
/// Tells once, at run time, that a program was compiled without optimisation.

namespace gpt2::detail {

/// Whether some translation unit of the program was compiled without optimisation, and nobody was told yet.
inline std::atomic<bool> unoptimized_build{false};

inline bool note_build(bool optimized) noexcept {
    if (!optimized) {
        unoptimized_build.store(true, std::memory_order_relaxed);
    }
    return optimized;
}

/// Prints the warning to std::clog, at the first call that finds a reason.
inline void warn_of_unoptimized_build() {
    if (unoptimized_build.exchange(false, std::memory_order_relaxed)) {
        std::clog << "gpt2: compiled without optimisation, which makes inference many times slower; "
                     "use -O2 (CMake: -DCMAKE_BUILD_TYPE=Release)\n";
    }
}

// One object for each translation unit: flags may differ between them, inline functions may not.
namespace {
// NOLINTNEXTLINE(misc-definitions-in-headers): one for each is what is wanted
[[maybe_unused]] const bool this_unit_is_optimized = note_build(
#if defined(__GNUC__) && !defined(__OPTIMIZE__)
    false
#else
    true
#endif
);
} // namespace

} // namespace gpt2::detail
