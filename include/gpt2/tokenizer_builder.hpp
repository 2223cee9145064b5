// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/merges_text.hpp"
#include "gpt2/io/vocabulary_json.hpp"
#include "gpt2/tokenizer_tables.hpp"
#include "gpt2/whole_tokens.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// From `vocab.json` and `merges.txt` to the tables that the tokenizer works with.

namespace gpt2::detail {

/// The tables in memory of their own.
struct OwnedTokenizerTables {
    std::vector<std::uint32_t> token_ends;
    std::string token_bytes;
    std::vector<std::uint8_t> is_special;
    std::vector<std::uint32_t> specials;
    std::array<std::uint32_t, 256> byte_tokens{};
    std::vector<std::uint32_t> products;
    std::vector<ShortToken> short_tokens;
    std::vector<LongToken> long_tokens;
    std::vector<MergePair> pairs;
    std::vector<std::uint64_t> pair_filter;

    [[nodiscard]] TokenizerTables view() const noexcept {
        return {token_ends, token_bytes,  is_special,  specials, byte_tokens,
                products,   short_tokens, long_tokens, pairs,    pair_filter};
    }
};

class TokenizerBuilder {
public:
    /// @param vocab_name  of vocab.json, for messages
    /// @param merges_name  of merges.txt
    /// @throws FormatError
    GPT2_HEAVY [[nodiscard]] static OwnedTokenizerTables build(std::string_view vocab_json,
                                                               std::string_view merges_txt,
                                                               std::string_view vocab_name,
                                                               std::string_view merges_name);

private:
    TokenizerBuilder(std::string_view vocab_json, std::string_view name)
        : name_(name), vocabulary_(VocabularyReader(vocab_json, name).read()) {
        sort_by_id();
        add_tokens();
    }

    [[noreturn]] void fail(std::string_view reason) const {
        throw FormatError(concat(detail::quoted(name_, 4096), ": ", reason));
    }

    [[nodiscard]] std::string spelling(std::uint32_t id) const {
        return detail::quoted(vocabulary_.spelling(vocabulary_.entries[id]));
    }

    /// Puts each entry to the place of its id. n ids below n, none twice, are 0 to n - 1.
    void sort_by_id() {
        std::vector<VocabularyEntries::Entry>& entries = vocabulary_.entries;
        std::vector<VocabularyEntries::Entry> sorted(entries.size());
        for (const VocabularyEntries::Entry& entry : entries) {
            if (entry.id >= entries.size()) {
                fail(concat("expected ", entries.size(), " tokens to have the ids 0 to ", entries.size() - 1,
                            ", found token ", detail::quoted(vocabulary_.spelling(entry)), " with id ",
                            entry.id));
            }
            if (sorted[entry.id].size != 0) {
                fail(concat("expected every id once, found ", entry.id, " for ",
                            detail::quoted(vocabulary_.spelling(sorted[entry.id])), " and for ",
                            detail::quoted(vocabulary_.spelling(entry))));
            }
            sorted[entry.id] = entry;
        }
        entries = std::move(sorted);
    }

    /// Fills the tables that find tokens by their bytes. Those not spelled in the alphabet are special.
    void add_tokens() {
        std::size_t n_short = 0;
        std::size_t n_long = 0;
        for (const VocabularyEntries::Entry& entry : vocabulary_.entries) {
            ++(entry.size <= max_short_token ? n_short : n_long);
        }
        tables_.short_tokens.resize(slots_for(n_short));
        tables_.long_tokens.resize(slots_for(n_long));
        for (const VocabularyEntries::Entry& entry : vocabulary_.entries) {
            if (entry.spelled) {
                add_token(entry);
            }
        }
        refuse_equal_names();
        tables_.is_special.assign(vocabulary_.entries.size(), 1); // until found to be a byte or a product
    }

    void add_token(const VocabularyEntries::Entry& entry) {
        const std::uint32_t id = entry.id;
        const std::uint32_t other = find(vocabulary_.bytes_of(entry), [&](auto& slot, std::uint64_t key) {
            slot.id = id;
            slot.size = entry.size | not_encoded;
            if constexpr (requires { slot.bytes; }) {
                slot.bytes = key;
            } else {
                slot.hash = static_cast<std::uint32_t>(key);
            }
        });
        if (other != no_token) {
            fail(concat("expected every token once, found ", spelling(id), " with the ids ",
                        std::min(id, other), " and ", std::max(id, other)));
        }
    }

    /// The same for the tokens that are in no table.
    void refuse_equal_names() const {
        std::vector<std::pair<std::string_view, std::uint32_t>> names;
        for (const VocabularyEntries::Entry& entry : vocabulary_.entries) {
            if (!entry.spelled) {
                names.emplace_back(vocabulary_.bytes_of(entry), entry.id);
            }
        }
        std::sort(names.begin(), names.end());
        const auto same = std::adjacent_find(names.begin(), names.end(),
                                             [](const auto& a, const auto& b) { return a.first == b.first; });
        if (same != names.end()) {
            fail(concat("expected every token once, found ", detail::quoted(same->first), " with the ids ",
                        same->second, " and ", (same + 1)->second));
        }
    }

    /// The id of a token given by its bytes. If there is none, hands the free slot and the key that belongs
    /// in it to @p fill, and returns no_token.
    template <class Fill> std::uint32_t find(std::string_view bytes, Fill fill) {
        const Piece piece{bytes.data(), bytes.size(), bytes.size()};
        if (bytes.size() <= max_short_token) {
            const std::uint64_t packed = piece.packed();
            std::size_t at = first_slot(short_hash(packed, bytes.size()), tables_.short_tokens.size());
            for (;; at = (at + 1) & (tables_.short_tokens.size() - 1)) {
                ShortToken& slot = tables_.short_tokens[at];
                if (slot.size == 0) {
                    fill(slot, packed);
                    return no_token;
                }
                if (slot.bytes == packed && (slot.size & ~not_encoded) == bytes.size()) {
                    return slot.id;
                }
            }
        }
        const std::uint64_t hash = piece.long_hash();
        std::size_t at = first_slot(hash, tables_.long_tokens.size());
        for (;; at = (at + 1) & (tables_.long_tokens.size() - 1)) {
            LongToken& slot = tables_.long_tokens[at];
            if (slot.id == no_token) {
                fill(slot, hash);
                return no_token;
            }
            if (slot.hash == static_cast<std::uint32_t>(hash) &&
                vocabulary_.bytes_of(vocabulary_.entries[slot.id]) == bytes) {
                return slot.id;
            }
        }
    }

    [[nodiscard]] std::uint32_t find(std::string_view bytes) {
        return find(bytes, [](auto&, std::uint64_t) {});
    }

    void add_bytes() {
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            const char text = static_cast<char>(static_cast<unsigned char>(byte));
            const std::uint32_t id = find({&text, 1});
            if (id == no_token) {
                fail(concat("expected a token for every byte, found none for byte ", byte, " (spelled ",
                            detail::quoted(spell({&text, 1})), ")"));
            }
            tables_.byte_tokens[byte] = id;
            tables_.is_special[id] = 0;
        }
    }

    void add_merges(MergesReader merges) {
        std::size_t first_line = 0;
        std::uint32_t product = 0;
        while (merges.next()) {
            if (merges_.empty()) {
                first_line = merges.line();
            }
            const auto token = [&](std::string_view bytes) {
                const std::uint32_t id = find(bytes);
                if (id == no_token) {
                    merges.fail(merges.line(), concat("expected tokens of the vocabulary, found ",
                                                      detail::quoted(spell(bytes)), ", which is not in it"));
                }
                return id;
            };
            const auto rank = static_cast<std::uint32_t>(merges_.size());
            merges_.push_back({token(merges.left()), token(merges.right()), rank});
            // Products mostly have their ids in the order of the merges, which saves looking them up.
            const bool is_next = product + 1 < vocabulary_.entries.size() &&
                                 vocabulary_.entries[product + 1].spelled &&
                                 vocabulary_.bytes_of(vocabulary_.entries[product + 1]) == merges.product();
            product = is_next ? product + 1 : token(merges.product());
            tables_.products.push_back(product);
            tables_.is_special[product] = 0;
        }
        tables_.pairs.resize(slots_for(merges_.size()));
        tables_.pair_filter.resize(std::max<std::size_t>(tables_.pairs.size() / 8, 1));
        for (const MergePair& pair : merges_) {
            add_pair(pair, merges, first_line);
        }
    }

    void add_pair(const MergePair& pair, const MergesReader& merges, std::size_t first_line) {
        for (const std::uint32_t part : {pair.left, pair.right}) {
            if (tables_.is_special[part] != 0) {
                merges.fail(first_line + pair.rank,
                            concat("expected single bytes or products of merges, found ", spelling(part),
                                   ", which is neither"));
            }
        }
        const std::uint64_t hash = pair_hash(pair.left, pair.right);
        tables_.pair_filter[filter_word(hash, tables_.pair_filter.size())] |= filter_bit(hash);
        std::size_t slot = first_slot(hash, tables_.pairs.size());
        for (; tables_.pairs[slot].rank != no_rank; slot = (slot + 1) & (tables_.pairs.size() - 1)) {
            const MergePair& other = tables_.pairs[slot];
            if (other.left == pair.left && other.right == pair.right) {
                merges.fail(first_line + pair.rank,
                            concat("expected every merge once, found ", spelling(pair.left), " ",
                                   spelling(pair.right), " again (first in line ", first_line + other.rank,
                                   ")"));
            }
        }
        tables_.pairs[slot] = pair;
    }

    /// Lays the tokens' bytes out by id, and the special ones' names, which are meant literally.
    void add_specials() {
        const std::size_t n = vocabulary_.entries.size();
        tables_.token_ends.reserve(n);
        tables_.token_bytes.reserve(vocabulary_.bytes.size() + 2 * token_padding);
        for (const VocabularyEntries::Entry& entry : vocabulary_.entries) {
            if (tables_.is_special[entry.id] != 0) {
                tables_.token_bytes += vocabulary_.spelling(entry);
                tables_.specials.push_back(entry.id);
            } else {
                tables_.token_bytes += vocabulary_.bytes_of(entry);
            }
            tables_.token_ends.push_back(static_cast<std::uint32_t>(tables_.token_bytes.size()));
        }
        tables_.token_bytes.append(token_padding, '\0');
        const TokenizerTables view = tables_.view();
        std::sort(tables_.specials.begin(), tables_.specials.end(),
                  [&](std::uint32_t a, std::uint32_t b) { return view.token(a) < view.token(b); });
    }

    /// Lets the encoder take a piece that is a token as that token, where the merges lead to it.
    void mark_whole_tokens() {
        const TokenizerTables view = tables_.view();
        const std::vector<std::uint8_t> whole = WholeTokens(view, merges_).find();
        for (ShortToken& slot : tables_.short_tokens) {
            if (slot.size != 0 && whole[slot.id] != 0) {
                slot.size &= ~not_encoded;
            }
        }
        for (LongToken& slot : tables_.long_tokens) {
            if (slot.id != no_token && whole[slot.id] != 0) {
                slot.size &= ~not_encoded;
            }
        }
    }

    std::string_view name_;
    VocabularyEntries vocabulary_;
    std::vector<MergePair> merges_; ///< in the order of their ranks
    OwnedTokenizerTables tables_;
};

template <class>
OwnedTokenizerTables TokenizerBuilder::build(std::string_view vocab_json, std::string_view merges_txt,
                                             std::string_view vocab_name, std::string_view merges_name) {
    TokenizerBuilder builder(vocab_json, vocab_name);
    builder.add_bytes();
    builder.add_merges(MergesReader(merges_txt, merges_name));
    builder.add_specials();
    builder.mark_whole_tokens();
    return std::move(builder.tables_);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE OwnedTokenizerTables TokenizerBuilder::build<void>(std::string_view, std::string_view,
                                                                 std::string_view, std::string_view);
#endif

} // namespace gpt2::detail
