// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/byte_pair_encoding.hpp"
#include "gpt2/compiled.hpp"
#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/converted_file.hpp"
#include "gpt2/io/converted_tokenizer.hpp"
#include "gpt2/io/mapped_file.hpp"
#include "gpt2/io/safetensors.hpp"
#include "gpt2/pre_tokenizer.hpp"
#include "gpt2/tokenizer_builder.hpp"
#include "gpt2/tokenizer_tables.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Text to tokens and back.

namespace gpt2 {

/// What encode() does with the name of a special token, such as `<|endoftext|>`, that stands in a text.
enum class SpecialTokens {
    as_text,    ///< nothing: it is text like any other, so that no input can smuggle one in
    recognized, ///< takes it for that token; of several names that begin at one place, the longest
};

/// The byte-level byte-pair encoding of GPT-2.
///
/// The tokens of every valid text are those of the original encoder (https://github.com/openai/gpt-2,
/// src/encoder.py) with the letters, numbers and white space of Unicode 15.0. Bytes that are not valid
/// UTF-8 are encoded too, each maximal invalid subpart for itself (pre_tokenizer.hpp), so decode() gives
/// back any bytes whatever.
///
/// A special token is one that is neither a single byte nor the product of a merge. It never comes out of
/// text unless asked for.
///
/// A handle on immutable tables: cheap to copy, and any number of threads may use one at once.
class Tokenizer {
public:
    // No moves: a handle that was moved from is as good as before.
    Tokenizer(const Tokenizer&) = default;
    Tokenizer& operator=(const Tokenizer&) = default;

    /// Loads `vocab.json` and `merges.txt` from a directory (they may change afterwards), or the tokenizer in
    /// the file of a converted model, which is mapped.
    /// @throws FileError when one of them cannot be read
    /// @throws FormatError naming file, line or token: not JSON; ids other than 0 to V - 1, each once; a
    ///         token twice; no token for some byte; a merge whose parts or product are not in the vocabulary;
    ///         a merge twice. Of a converted model: naming file and tensor; another version of the format
    [[nodiscard]] static Tokenizer load(const std::filesystem::path& path) {
        if (detail::is_file(path)) {
            const SafetensorsFile file = detail::open_converted(path);
            detail::check_converted_version(file);
            return of_converted(file);
        }
        const MappedFile vocab = MappedFile::open(path / "vocab.json");
        const MappedFile merges = MappedFile::open(path / "merges.txt");
        return Tokenizer(detail::TokenizerBuilder::build(
            vocab.text(), merges.text(), detail::path_text(vocab.path()), detail::path_text(merges.path())));
    }

    /// The tokenizer of a converted model, used where it lies in the file, whose version has been checked.
    /// @throws FormatError as load()
    [[nodiscard]] static Tokenizer of_converted(const SafetensorsFile& file) {
        return Tokenizer(std::make_shared<const State>(detail::ConvertedTokenizer::read(file), file.owner()));
    }

    /// The same from the files' contents, of which nothing is kept.
    /// @param name  what messages call the place where they come from
    /// @throws FormatError as load()
    [[nodiscard]] static Tokenizer from_memory(std::string_view vocab_json, std::string_view merges_txt,
                                               std::string_view name = "memory") {
        return Tokenizer(detail::TokenizerBuilder::build(vocab_json, merges_txt,
                                                         detail::concat(name, ": vocab.json"),
                                                         detail::concat(name, ": merges.txt")));
    }

    /// The tokens of a text: any bytes, valid UTF-8 or not. The time is proportional to their number but for
    /// words of more than 64 bytes, which take O(n log n).
    /// @throws OptionError when one word is 4 GiB long
    [[nodiscard]] std::vector<TokenId> encode(std::string_view bytes,
                                              SpecialTokens special = SpecialTokens::as_text) const {
        return encode_all(bytes, special);
    }

    /// The bytes of all @p tokens, one after the other: exactly what was encoded. They may end inside a
    /// character, or be no UTF-8 at all (see Utf8Stream). A special token gives its name.
    /// @throws OptionError on an id that is not in the vocabulary
    [[nodiscard]] std::string decode(std::span<const TokenId> tokens) const {
        std::size_t size = 0;
        for (const TokenId token : tokens) {
            size += token_bytes(token).size();
        }
        constexpr std::size_t stroke = detail::token_padding;
        std::string out(size + stroke, '\0');
        char* end = out.data();
        for (const TokenId token : tokens) {
            const std::string_view bytes = state_->tables.token(static_cast<std::size_t>(token));
            if (bytes.size() <= stroke) { // what is copied too much is overwritten by the next, or cut off
                std::memcpy(end, bytes.data(), stroke);
            } else {
                std::memcpy(end, bytes.data(), bytes.size());
            }
            end += bytes.size();
        }
        out.resize(size);
        return out;
    }

    /// The bytes of one token; of a special token its name. Valid as long as any copy of this tokenizer.
    /// @throws OptionError when it is not in the vocabulary
    [[nodiscard]] std::string_view token_bytes(TokenId token) const {
        check(token);
        return state_->tables.token(static_cast<std::size_t>(token));
    }

    /// V, the number of tokens; their ids are 0 to V - 1.
    [[nodiscard]] std::size_t size() const noexcept { return state_->tables.token_ends.size(); }

    /// The id of a special token by its whole name.
    [[nodiscard]] std::optional<TokenId> special_token(std::string_view name) const {
        const detail::TokenizerTables& tables = state_->tables;
        const auto found =
            std::lower_bound(tables.specials.begin(), tables.specials.end(), name,
                             [&](std::uint32_t id, std::string_view key) { return tables.token(id) < key; });
        if (found == tables.specials.end() || tables.token(*found) != name) {
            return std::nullopt;
        }
        return static_cast<TokenId>(*found);
    }

    /// Whether @p token is a special one; false for an id outside the vocabulary.
    [[nodiscard]] bool is_special(TokenId token) const noexcept {
        return token >= 0 && static_cast<std::size_t>(token) < size() &&
               state_->tables.is_special[static_cast<std::size_t>(token)] != 0;
    }

private:
    struct State {
        explicit State(detail::OwnedTokenizerTables tables_in_memory)
            : owned(std::move(tables_in_memory)), tables(owned.view()) {
            index_specials();
        }
        State(const detail::TokenizerTables& tables_in_file, std::shared_ptr<const void> owner)
            : file(std::move(owner)), tables(tables_in_file) {
            index_specials();
        }
        State(const State&) = delete; // tables point into owned
        State& operator=(const State&) = delete;

        void index_specials() noexcept {
            for (const std::uint32_t id : tables.specials) {
                special_begins[static_cast<unsigned char>(tables.token(id)[0])] = true;
            }
        }

        detail::OwnedTokenizerTables owned; ///< empty where the tables are in a file
        std::shared_ptr<const void> file;   ///< keeps the tables mapped
        detail::TokenizerTables tables;
        std::array<bool, 256> special_begins{}; ///< whether a special token's name begins with the byte
    };

    explicit Tokenizer(detail::OwnedTokenizerTables tables)
        : state_(std::make_shared<const State>(std::move(tables))) {}
    explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

    void check(TokenId token) const {
        if (token < 0 || static_cast<std::size_t>(token) >= size()) {
            throw OptionError(
                detail::concat("token: expected an id from 0 to ", size() - 1, ", found ", token));
        }
    }

    GPT2_HEAVY [[nodiscard]] std::vector<TokenId> encode_all(std::string_view bytes,
                                                             SpecialTokens special) const;

    void encode_text(std::string_view text, detail::PairMerger& merger, std::vector<TokenId>& out) const {
        const detail::TokenizerTables tables = state_->tables;
        const detail::PreTokenizer pieces(text);
        for (std::size_t begin = 0; begin < text.size();) {
            const std::size_t end = pieces.piece_end(begin);
            const std::uint32_t whole =
                tables.whole_token({text.data() + begin, end - begin, text.size() - begin});
            if (whole != detail::no_token) {
                out.push_back(static_cast<TokenId>(whole));
            } else {
                merger.merge(text.substr(begin, end - begin), out);
            }
            begin = end;
        }
    }

    /// The special token with the longest name that @p text begins with. The names are sorted, so those
    /// that agree with the text in the first bytes lie side by side, the shortest of them first.
    [[nodiscard]] std::optional<TokenId> special_at(std::string_view text) const {
        if (!state_->special_begins[static_cast<unsigned char>(text[0])]) {
            return std::nullopt;
        }
        const detail::TokenizerTables& tables = state_->tables;
        std::optional<TokenId> longest;
        auto first = tables.specials.begin();
        auto last = tables.specials.end();
        for (std::size_t size = 1; size <= text.size() && first != last; ++size) {
            const auto byte_of = [&](std::uint32_t id) {
                return static_cast<unsigned char>(tables.token(id)[size - 1]);
            };
            const auto byte = static_cast<unsigned char>(text[size - 1]);
            first = std::partition_point(first, last, [&](std::uint32_t id) { return byte_of(id) < byte; });
            last = std::partition_point(first, last, [&](std::uint32_t id) { return byte_of(id) <= byte; });
            if (first != last && tables.token(*first).size() == size) {
                longest = static_cast<TokenId>(*first++);
            }
        }
        return longest;
    }

    std::shared_ptr<const State> state_;
};

template <class>
std::vector<TokenId> Tokenizer::encode_all(std::string_view bytes, SpecialTokens special) const {
    std::vector<TokenId> out;
    out.reserve(bytes.size() / 4 + 8); // English has more than 4 bytes to a token
    detail::PairMerger merger(state_->tables);
    if (special == SpecialTokens::as_text || state_->tables.specials.empty()) {
        encode_text(bytes, merger, out);
        return out;
    }
    std::size_t begin = 0; // of the text since the last special token
    for (std::size_t at = 0; at < bytes.size();) {
        const std::optional<TokenId> token = special_at(bytes.substr(at));
        if (!token) {
            ++at;
            continue;
        }
        encode_text(bytes.substr(begin, at - begin), merger, out);
        out.push_back(*token);
        begin = at += token_bytes(*token).size();
    }
    encode_text(bytes.substr(begin), merger, out);
    return out;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<TokenId> Tokenizer::encode_all<void>(std::string_view, SpecialTokens) const;
#endif

} // namespace gpt2
