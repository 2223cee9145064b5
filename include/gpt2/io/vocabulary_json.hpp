// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/byte_alphabet.hpp"
#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/json.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// Reads `vocab.json`: one JSON object, a member per token, its spelling (byte_alphabet.hpp) and its id.

namespace gpt2::detail {

/// The tokens in the order of the file.
struct VocabularyEntries {
    struct Entry {
        std::uint32_t begin; ///< in bytes
        std::uint32_t id;
        std::uint16_t size;
        bool spelled; ///< in the alphabet, and so `bytes` are what it stands for; otherwise as written
    };
    std::vector<Entry> entries;
    std::string bytes; ///< of all tokens, one after the other

    [[nodiscard]] std::string_view bytes_of(const Entry& entry) const noexcept {
        return {bytes.data() + entry.begin, entry.size};
    }

    /// The token as the file spells it.
    [[nodiscard]] std::string spelling(const Entry& entry) const {
        return entry.spelled ? spell(bytes_of(entry)) : std::string(bytes_of(entry));
    }
};

/// Receives the parser's events. The document is never built: that would take most of the loading time.
class VocabularyReader final : public Json::json_sax_t {
public:
    // Generous (the longest token of GPT-2 has 128 bytes), and positions fit into 32 bits even where a
    // special token's name takes twice as many bytes as what it would spell.
    static constexpr std::size_t max_token_size = 65535;
    static constexpr std::size_t max_bytes = std::size_t{1} << 30;
    static constexpr std::uint64_t max_id = std::numeric_limits<TokenId>::max() - 1;

    VocabularyReader(std::string_view text, std::string_view name) : text_(text), name_(name) {}

    /// @throws FormatError
    [[nodiscard]] VocabularyEntries read() {
        if (text_.empty()) {
            fail("expected a JSON object of tokens and their ids, found an empty file");
        }
        // The parser takes a zero byte for the end of the text and would not look at what follows.
        if (const std::size_t zero = text_.find('\0'); zero != std::string_view::npos) {
            fail_at(zero, "expected valid JSON, found a zero byte");
        }
        constexpr std::size_t bytes_per_entry = 20; // of the text; a guess that saves copying
        out_.entries.reserve(text_.size() / bytes_per_entry);
        out_.bytes.reserve(text_.size() / 2);
        const char* reached = nullptr;
        read_json(text_, reached, *this);
        return std::move(out_);
    }

    // The events; names and signatures are the parser's.
    bool null() override { return refuse("null"); }
    bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
    bool number_integer(std::int64_t value) override { return refuse(concat(value)); }
    bool number_float(double, const std::string& digits) override { return refuse(printable(digits)); }
    bool string(std::string& value) override { return refuse(detail::quoted(value)); }
    bool binary(Json::binary_t&) override { return refuse("binary data"); }
    bool start_array(std::size_t) override { return refuse("an array"); }
    bool end_array() override { return true; }
    bool end_object() override { return true; }
    bool start_object(std::size_t) override {
        if (inside_) {
            return refuse("an object");
        }
        return inside_ = true;
    }
    bool number_unsigned(std::uint64_t value) override {
        if (!inside_ || value > max_id) {
            return refuse(concat(value));
        }
        out_.entries.back().id = static_cast<std::uint32_t>(value);
        return true;
    }
    bool key(std::string& token) override {
        if (token.empty() || token.size() > max_token_size) {
            fail(concat("expected tokens of 1 to ", max_token_size, " bytes, found one of ", token.size()));
        }
        if (out_.bytes.size() > max_bytes) {
            fail(concat("expected at most ", max_bytes, " bytes of tokens, found more"));
        }
        const std::size_t begin = out_.bytes.size();
        const bool spelled = append_spelled(token, out_.bytes);
        if (!spelled) {
            out_.bytes += token;
        }
        out_.entries.push_back({static_cast<std::uint32_t>(begin), 0,
                                static_cast<std::uint16_t>(out_.bytes.size() - begin), spelled});
        return true;
    }
    bool parse_error(std::size_t at, const std::string&, const Json::exception& error) override {
        std::string_view reason = error.what(); // "[json.exception.parse_error.101] parse error at line ..."
        reason.remove_prefix(std::min(reason.find("] ") + 2, reason.size()));
        fail_at(std::min(at, text_.size()), concat("expected valid JSON, found ", printable(reason)));
    }

private:
    [[noreturn]] void fail(std::string_view reason) const {
        throw FormatError(concat(detail::quoted(name_, 4096), ": ", reason));
    }

    [[noreturn]] void fail_at(std::size_t at, std::string_view reason) const {
        const std::string_view before = text_.substr(0, at);
        fail(concat("line ", 1 + std::count(before.begin(), before.end(), '\n'), ": ", reason));
    }

    /// A value that is no id.
    [[noreturn]] bool refuse(std::string_view found) const {
        if (!inside_) {
            fail(concat("expected a JSON object of tokens and their ids, found ", found));
        }
        fail(concat("token ", detail::quoted(out_.spelling(out_.entries.back())),
                    ": expected an id from 0 to ", max_id, ", found ", found));
    }

    std::string_view text_;
    std::string_view name_;
    VocabularyEntries out_;
    bool inside_ = false; ///< the object, which is the only one
};

} // namespace gpt2::detail
