// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/pre_tokenizer.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

/// @file
/// What the tokenizer reads while it works: flat arrays without pointers, so that they can live in
/// vectors or in a mapped file alike. Hash tables are open-addressed with linear probing; their size is a
/// power of two, and at most two thirds of their slots are taken.

namespace gpt2::detail {

/// In the place of a token: there is none.
inline constexpr std::uint32_t no_token = 0xffffffffu;
/// In the place of a rank: the pair is never merged. Greater than every rank.
inline constexpr std::uint32_t no_rank = 0xffffffffu;

/// A token of at most 8 bytes, found by its bytes.
struct ShortToken {
    std::uint64_t bytes = 0; ///< the first one in the lowest bits, zeros behind the last
    std::uint32_t id = 0;
    /// 0 where the slot is free. not_encoded is added to tokens that the merges do not lead to.
    std::uint32_t size = 0;
};

/// A longer token, found by the hash of its bytes and then compared.
struct LongToken {
    std::uint32_t id = no_token; ///< no_token where the slot is free
    std::uint32_t hash = 0;      ///< another part of the hash than the one that chooses the slot
    std::uint32_t size = 0;      ///< as in ShortToken
};

/// Two neighbouring tokens that merge.
struct MergePair {
    std::uint32_t left = 0;
    std::uint32_t right = 0;
    std::uint32_t rank = no_rank; ///< no_rank where the slot is free
};

inline constexpr std::size_t max_short_token = 8;
/// Bytes behind the last token's that may be read, so that short tokens can be copied at one stroke.
inline constexpr std::size_t token_padding = 16;
/// Greater than the size of any token, but not than that of every piece of a text.
inline constexpr std::uint32_t not_encoded = 0x80000000u;

/// Two multiplications and a shift: every bit of the key reaches the upper half of the result, from
/// which the slots are taken. (The second factor is that of MurmurHash3's 64-bit finaliser.)
[[nodiscard]] constexpr std::uint64_t mix_bits(std::uint64_t key) noexcept {
    key *= 0x9e3779b97f4a7c15u;
    key ^= key >> 32;
    return key * 0xff51afd7ed558ccdu;
}

/// The slot, out of a power of two, where the search for a hash begins.
[[nodiscard]] constexpr std::size_t first_slot(std::uint64_t hash, std::size_t slots) noexcept {
    return static_cast<std::size_t>(hash >> 32) & (slots - 1);
}

/// The slots of a table for @p n entries.
[[nodiscard]] constexpr std::size_t slots_for(std::size_t n) noexcept {
    return std::bit_ceil(n + n / 2 + 2);
}

/// A piece of a text, to be looked up.
struct Piece {
    const char* begin;
    std::size_t size;
    std::size_t readable; ///< bytes that may be read from begin on; at least size

    /// Its bytes as ShortToken has them; size must be 1 to 8.
    [[nodiscard]] std::uint64_t packed() const noexcept {
        if (readable >= 8) {
            return load_bytes<std::uint64_t>(begin) & (~std::uint64_t{0} >> (64 - 8 * size));
        }
        if (size >= 4) { // two words, which may overlap
            const std::uint64_t last = load_bytes<std::uint32_t>(begin + size - 4);
            return load_bytes<std::uint32_t>(begin) | last << (8 * (size - 4));
        }
        const auto byte = [this](std::size_t at) {
            return std::uint64_t{static_cast<unsigned char>(begin[at])} << (8 * at);
        };
        return byte(0) | byte(size / 2) | byte(size - 1);
    }

    /// The hash of its bytes; size must be at least 8. The last 8 bytes may overlap those before.
    [[nodiscard]] std::uint64_t long_hash() const noexcept {
        std::uint64_t hash = size;
        for (std::size_t at = 0; at + 8 < size; at += 8) {
            hash = mix_bits(hash ^ load_bytes<std::uint64_t>(begin + at));
        }
        return mix_bits(hash ^ load_bytes<std::uint64_t>(begin + size - 8));
    }
};

[[nodiscard]] constexpr std::uint64_t short_hash(std::uint64_t packed, std::size_t size) noexcept {
    return mix_bits(packed ^ (std::uint64_t{size} << 59)); // eight bytes differ from seven and a zero
}

[[nodiscard]] constexpr std::uint64_t pair_hash(std::uint32_t left, std::uint32_t right) noexcept {
    return mix_bits(std::uint64_t{left} << 32 | right);
}

/// Where the filter of pairs has the bit for a hash: bits that do not choose the pair's slot.
[[nodiscard]] constexpr std::size_t filter_word(std::uint64_t hash, std::size_t words) noexcept {
    return static_cast<std::size_t>(hash >> 20) & (words - 1);
}
[[nodiscard]] constexpr std::uint64_t filter_bit(std::uint64_t hash) noexcept {
    return std::uint64_t{1} << (hash >> 58);
}

/// The tables of a vocabulary, as views. V tokens, M merges.
struct TokenizerTables {
    std::span<const std::uint32_t>
        token_ends;               ///< [V]: where each token ends in token_bytes; they follow by id
    std::string_view token_bytes; ///< special tokens as their literal names
    std::span<const std::uint8_t> is_special;   ///< [V]
    std::span<const std::uint32_t> specials;    ///< ids of the special tokens, sorted by name
    std::span<const std::uint32_t> byte_tokens; ///< [256]: the token of each single byte
    std::span<const std::uint32_t> products;    ///< [M]: what the merge of each rank makes
    std::span<const ShortToken> short_tokens;
    std::span<const LongToken> long_tokens;
    std::span<const MergePair> pairs;
    std::span<const std::uint64_t> pair_filter; ///< 8 bits to a slot of pairs

    [[nodiscard]] std::string_view token(std::size_t id) const noexcept {
        const std::size_t begin = id == 0 ? 0 : token_ends[id - 1];
        return {token_bytes.data() + begin, token_ends[id] - begin};
    }

    /// The rank of the merge of two neighbours, or no_rank.
    [[nodiscard]] std::uint32_t rank(std::uint32_t left, std::uint32_t right) const noexcept {
        const std::uint64_t hash = pair_hash(left, right);
        if (!may_merge(hash)) {
            return no_rank;
        }
        std::size_t slot = first_slot(hash, pairs.size());
        for (;; slot = (slot + 1) & (pairs.size() - 1)) {
            const MergePair& pair = pairs[slot];
            if ((pair.left == left && pair.right == right) || pair.rank == no_rank) {
                return pair.rank;
            }
        }
    }

    /// The token that byte-pair encoding makes of the whole piece, or no_token when it makes several.
    [[nodiscard]] std::uint32_t whole_token(const Piece& piece) const noexcept {
        return piece.size <= max_short_token ? short_token(piece) : long_token(piece);
    }

private:
    /// Most neighbours never merge; the filter says so of nearly all of them and stays in the cache.
    [[nodiscard]] bool may_merge(std::uint64_t hash) const noexcept {
        return (pair_filter[filter_word(hash, pair_filter.size())] & filter_bit(hash)) != 0;
    }

    [[nodiscard]] std::uint32_t short_token(const Piece& piece) const noexcept {
        const std::uint64_t packed = piece.packed();
        std::size_t slot = first_slot(short_hash(packed, piece.size), short_tokens.size());
        for (;; slot = (slot + 1) & (short_tokens.size() - 1)) {
            const ShortToken& entry = short_tokens[slot];
            if (entry.bytes == packed && entry.size == piece.size) {
                return entry.id;
            }
            if (entry.size == 0) {
                return no_token;
            }
        }
    }

    [[nodiscard]] std::uint32_t long_token(const Piece& piece) const noexcept {
        const std::uint64_t hash = piece.long_hash();
        std::size_t slot = first_slot(hash, long_tokens.size());
        for (;; slot = (slot + 1) & (long_tokens.size() - 1)) {
            const LongToken& entry = long_tokens[slot];
            if (entry.id == no_token) {
                return no_token;
            }
            // The second test has the token's own size: a piece may be as long as not_encoded.
            if (entry.hash == static_cast<std::uint32_t>(hash) && entry.size == piece.size &&
                token(entry.id) == std::string_view(piece.begin, piece.size)) {
                return entry.id;
            }
        }
    }
};

} // namespace gpt2::detail
