// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

/// @file
/// The checksum of zlib, gzip and PNG.

namespace gpt2::detail {

static_assert(std::endian::native == std::endian::little);

/// Entry [n][b]: the remainder that byte b leaves n bytes later.
inline constexpr auto crc32_tables = [] {
    std::array<std::array<std::uint32_t, 256>, 8> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t rest = byte;
        for (int bit = 0; bit < 8; ++bit) {
            rest = (rest >> 1) ^ ((rest & 1) != 0 ? 0xedb88320u : 0u);
        }
        tables[0][byte] = rest;
    }
    for (std::size_t n = 1; n < tables.size(); ++n) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[n - 1][byte];
            tables[n][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
    return tables;
}();

/// CRC-32 of @p bytes: the reflected polynomial 0xedb88320, all bits inverted before and after (ISO 3309;
/// zlib's crc32). @p before, the checksum of what lies before, makes it that of both. Eight bytes at a time
/// (Kounavis and Berry, "A Systematic Approach to Building High Performance, Software-based, CRC Generators",
/// 2005).
[[nodiscard]] inline std::uint32_t crc32(std::span<const std::byte> bytes,
                                         std::uint32_t before = 0) noexcept {
    std::uint32_t crc = ~before;
    std::size_t at = 0;
    for (; at + 8 <= bytes.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, sizeof word);
        word ^= crc;
        crc = 0;
        for (std::size_t i = 0; i < 8; ++i) {
            crc ^= crc32_tables[7 - i][(word >> (8 * i)) & 0xff];
        }
    }
    for (; at < bytes.size(); ++at) {
        crc = (crc >> 8) ^ crc32_tables[0][(crc ^ static_cast<std::uint32_t>(bytes[at])) & 0xff];
    }
    return ~crc;
}

} // namespace gpt2::detail
