// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/safetensors.hpp"
#include "gpt2/tokenizer_tables.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// The tokenizer's tables in the file of a converted model (docs/model-format.md), used where they lie.

namespace gpt2::detail {

/// Names of the tables, in the order of `tokenizer.lengths`.
inline constexpr std::array<std::string_view, 10> tokenizer_tables{
    "token_ends", "token_bytes",  "is_special",  "specials", "byte_tokens",
    "products",   "short_tokens", "long_tokens", "pairs",    "pair_filter"};

/// Reads the tables and checks all that the tokenizer relies on, so that no file can make it read outside of
/// them, search without end, or give tokens that spell another text: sizes, ids, ranks, a free slot in every
/// hash table, the bytes of merges and of short tokens (those of long ones are compared when they are found).
class ConvertedTokenizer {
public:
    /// @param file  must outlive the tables
    /// @throws FormatError naming file and tensor, what was expected and what was found
    GPT2_HEAVY [[nodiscard]] static TokenizerTables read(const SafetensorsFile& file);

private:
    static constexpr std::size_t alignment = 64;

    explicit ConvertedTokenizer(const SafetensorsFile& file) : file_(file) {}

    template <class... Parts> [[noreturn]] void fail(std::string_view table, const Parts&... reason) const {
        throw FormatError(concat(detail::quoted(std::string_view(file_.name()), 4096),
                                 ": tensor \"tokenizer.", table, "\": expected ", reason...));
    }

    /// A tensor of one dimension, with its padding.
    template <class T> [[nodiscard]] std::span<const T> tensor(std::string_view name) const {
        constexpr Dtype dtype = sizeof(T) == 1 ? Dtype::U8 : sizeof(T) == 8 ? Dtype::U64 : Dtype::U32;
        const TensorInfo* const found = file_.find(concat("tokenizer.", name));
        if (found == nullptr) {
            fail(name, "a table of the tokenizer, found none");
        }
        if (found->dtype != dtype || found->shape.size() != 1 || found->data.size() % alignment != 0) {
            fail(name, dtype_name(dtype), " in one dimension, filled up to ", alignment, " bytes, found ",
                 dtype_name(found->dtype), ' ', shape_text(found->shape));
        }
        if (reinterpret_cast<std::uintptr_t>(found->data.data()) % alignment != 0) {
            fail(name, "data that begin at a multiple of ", alignment,
                 " bytes in the file, found them elsewhere");
        }
        return {reinterpret_cast<const T*>(found->data.data()), found->data.size() / sizeof(T)};
    }

    /// The next table without its padding.
    /// @tparam Entry  of @p Element, in which lengths are counted
    template <class Entry, class Element> [[nodiscard]] std::span<const Entry> next_table() {
        const std::string_view name = tokenizer_tables[next_];
        const std::span<const Element> elements = tensor<Element>(name);
        const std::size_t length = lengths_[next_++];
        if (length > elements.size() || length * sizeof(Element) % sizeof(Entry) != 0) {
            fail(name, length, " elements (tokenizer.lengths), found ", elements.size());
        }
        return {reinterpret_cast<const Entry*>(elements.data()), length * sizeof(Element) / sizeof(Entry)};
    }

    void read_tables() {
        lengths_ = tensor<std::uint32_t>("lengths");
        if (lengths_.size() != alignment / sizeof(std::uint32_t)) {
            fail("lengths", alignment / sizeof(std::uint32_t), " numbers, found ", lengths_.size());
        }
        tables_.token_ends = next_table<std::uint32_t, std::uint32_t>();
        const auto bytes = next_table<char, std::uint8_t>();
        tables_.token_bytes = {bytes.data(), bytes.size()};
        tables_.is_special = next_table<std::uint8_t, std::uint8_t>();
        tables_.specials = next_table<std::uint32_t, std::uint32_t>();
        tables_.byte_tokens = next_table<std::uint32_t, std::uint32_t>();
        tables_.products = next_table<std::uint32_t, std::uint32_t>();
        tables_.short_tokens = next_table<ShortToken, std::uint32_t>();
        tables_.long_tokens = next_table<LongToken, std::uint32_t>();
        tables_.pairs = next_table<MergePair, std::uint32_t>();
        tables_.pair_filter = next_table<std::uint64_t, std::uint64_t>();
    }

    [[nodiscard]] std::size_t size() const noexcept { return tables_.token_ends.size(); }

    void check_id(std::string_view table, std::uint32_t id) const {
        if (id >= size()) {
            fail(table, "ids below ", size(), ", found ", id);
        }
    }

    void check_tokens() const {
        std::uint32_t before = 0;
        for (const std::uint32_t end : tables_.token_ends) {
            if (end <= before) {
                fail("token_ends", "ends that rise, found ", end, " behind ", before);
            }
            before = end;
        }
        if (tables_.token_bytes.size() != before + token_padding) {
            fail("token_bytes", before, " bytes of tokens and ", token_padding, " more, found ",
                 tables_.token_bytes.size());
        }
        if (tables_.is_special.size() != size()) {
            fail("is_special", size(), " elements, found ", tables_.is_special.size());
        }
        if (tables_.byte_tokens.size() != 256) {
            fail("byte_tokens", "256 elements, found ", tables_.byte_tokens.size());
        }
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t id = tables_.byte_tokens[byte];
            check_id("byte_tokens", id);
            const std::string_view token = tables_.token(id);
            if (token.size() != 1 || static_cast<unsigned char>(token[0]) != byte ||
                tables_.is_special[id] != 0) {
                fail("byte_tokens", "the token of each byte, not special, found another for byte ", byte);
            }
        }
    }

    /// The list has all tokens that are marked, in the order of their names.
    void check_specials() const {
        const auto marked = static_cast<std::size_t>(
            std::ranges::count_if(tables_.is_special, [](std::uint8_t mark) { return mark != 0; }));
        if (marked != tables_.specials.size()) {
            fail("specials", marked, " tokens, as many as is_special marks, found ", tables_.specials.size());
        }
        std::string_view before;
        for (const std::uint32_t id : tables_.specials) {
            check_id("specials", id);
            if (tables_.is_special[id] == 0 || tables_.token(id) <= before) {
                fail("specials", "tokens that is_special marks, sorted by name, found token ", id);
            }
            before = tables_.token(id);
        }
    }

    /// Every rank once, and each product made of its parts' bytes.
    void check_merges() const {
        const std::size_t merges = tables_.products.size();
        check_slots("pairs", tables_.pairs.size());
        if (!std::has_single_bit(tables_.pair_filter.size())) {
            fail("pair_filter", "a power of two of words, found ", tables_.pair_filter.size());
        }
        std::vector<bool> seen(merges);
        std::size_t taken = 0;
        for (const MergePair& pair : tables_.pairs) {
            if (pair.rank == no_rank) {
                continue;
            }
            if (pair.rank >= merges || seen[pair.rank]) {
                fail("pairs", "each rank below ", merges, " once, found ", pair.rank);
            }
            seen[pair.rank] = true;
            ++taken;
            const std::uint32_t product = tables_.products[pair.rank];
            check_id("pairs", pair.left);
            check_id("pairs", pair.right);
            check_id("products", product);
            if (tables_.is_special[product] != 0) {
                fail("specials", "neither single bytes nor products of merges, found token ", product);
            }
            const std::string_view left = tables_.token(pair.left);
            const std::string_view whole = tables_.token(product);
            if (!whole.starts_with(left) || whole.substr(left.size()) != tables_.token(pair.right)) {
                fail("products", "the bytes of both parts of the merge of rank ", pair.rank, ", found token ",
                     product);
            }
        }
        if (taken != merges || taken == tables_.pairs.size()) {
            fail("pairs", merges, " pairs and a free slot, found ", taken, " in ", tables_.pairs.size());
        }
    }

    void check_lookup() const {
        check_lookup("short_tokens", tables_.short_tokens,
                     [](const ShortToken& slot) { return slot.size == 0; });
        check_lookup("long_tokens", tables_.long_tokens,
                     [](const LongToken& slot) { return slot.id == no_token; });
    }

    /// Tokens that the merges lead to must be there with their size, and bytes if the slot has them. The
    /// others have the bytes that they would spell, which may not be those of their names.
    template <class Slot, class IsFree>
    void check_lookup(std::string_view table, std::span<const Slot> slots, IsFree is_free) const {
        check_slots(table, slots.size());
        if (std::ranges::none_of(slots, is_free)) {
            fail(table, "a free slot, found none");
        }
        for (const Slot& slot : slots) {
            if (is_free(slot)) {
                continue;
            }
            check_id(table, slot.id);
            if ((slot.size & not_encoded) != 0) {
                continue;
            }
            const std::string_view token = tables_.token(slot.id);
            if (slot.size != token.size()) {
                fail(table, "the size of token ", slot.id, ", ", token.size(), ", found ", slot.size);
            }
            if constexpr (requires { slot.bytes; }) {
                if (token.size() > max_short_token ||
                    Piece{token.data(), token.size(), token_padding}.packed() != slot.bytes) {
                    fail(table, "the bytes of token ", slot.id, ", found others");
                }
            }
        }
    }

    void check_slots(std::string_view table, std::size_t slots) const {
        if (!std::has_single_bit(slots)) {
            fail(table, "a power of two of slots, found ", slots);
        }
    }

    const SafetensorsFile& file_;
    std::span<const std::uint32_t> lengths_;
    std::size_t next_ = 0; ///< table to read
    TokenizerTables tables_;
};

template <class> TokenizerTables ConvertedTokenizer::read(const SafetensorsFile& file) {
    ConvertedTokenizer reader(file);
    reader.read_tables();
    reader.check_tokens();
    reader.check_specials();
    reader.check_merges();
    reader.check_lookup();
    return reader.tables_;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE TokenizerTables ConvertedTokenizer::read<void>(const SafetensorsFile&);
#endif

} // namespace gpt2::detail
