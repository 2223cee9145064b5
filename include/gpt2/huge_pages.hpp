// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/// @file
/// Pages of 2 MiB instead of 4 KiB for memory of our own, where the system gives them on request.

namespace gpt2::detail {

/// Asks for huge pages in the range, as far as it holds any (Linux: transparent huge pages, "madvise").
/// Memory that nobody has touched yet is then committed faster: one page fault instead of 512. A wish, no
/// more.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t huge_page = std::uintptr_t{1} << 21;
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t begin = (address + huge_page - 1) & ~(huge_page - 1);
    const std::uintptr_t end = (address + bytes) & ~(huge_page - 1);
    if (begin < end) {
        static_cast<void>(
            ::madvise(static_cast<std::byte*>(data) + (begin - address), end - begin, MADV_HUGEPAGE));
    }
#endif
}

} // namespace gpt2::detail
