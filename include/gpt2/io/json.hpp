// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// JSON from files that nobody vouches for: strict parsing, and typed access with messages that name the
/// file, the key, what was expected and what was found. Internal; no public signature shows it.
/// (`detail::quoted` is qualified throughout: a std::string argument would also find std::quoted.)

namespace gpt2::detail {

using Json = nlohmann::json;

/// Text that goes into a message without quotation marks: made printable and cut.
[[nodiscard]] GPT2_COLD inline std::string printable(std::string_view text, std::size_t limit = 240) {
    std::string out;
    for (const char c : text.substr(0, limit)) {
        out += c >= 0x20 && c < 0x7f ? std::string(1, c) : detail::quoted({&c, 1}).substr(1, 4);
    }
    return text.size() > limit ? out + "..." : out;
}

/// A value as a message shows it: `12`, `"twelve"`, `null`, `an array of 3 elements`, `an object`.
[[nodiscard]] GPT2_COLD inline std::string describe(const Json& value) {
    if (value.is_string()) {
        return detail::quoted(value.get_ref<const std::string&>());
    }
    if (value.is_array()) {
        return concat("an array of ", value.size(), value.size() == 1 ? " element" : " elements");
    }
    if (value.is_object()) {
        return "an object";
    }
    return value.dump();
}

/// Walks over a text and lets others see how far it came.
class JsonCursor {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    JsonCursor(const char* at, const char** reached) noexcept : at_(at), reached_(reached) {}
    reference operator*() const noexcept { return *at_; }
    JsonCursor& operator++() noexcept {
        *reached_ = ++at_;
        return *this;
    }
    JsonCursor operator++(int) noexcept {
        JsonCursor before = *this;
        ++*this;
        return before;
    }
    friend bool operator==(const JsonCursor& a, const JsonCursor& b) noexcept { return a.at_ == b.at_; }
    friend bool operator!=(const JsonCursor& a, const JsonCursor& b) noexcept { return a.at_ != b.at_; }

private:
    const char* at_;
    const char** reached_;
};

/// Parses @p text and tells @p events what is in it. @p reached always points behind what has been read.
/// Everything that reads JSON comes through here, so that a program holds one copy of the parser.
GPT2_HEAVY GPT2_COLD void read_json(std::string_view text, const char*& reached, Json::json_sax_t& events) {
    reached = text.data();
    Json::sax_parse(JsonCursor(text.data(), &reached), JsonCursor(text.data() + text.size(), &reached),
                    &events);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE void read_json<void>(std::string_view, const char*&, Json::json_sax_t&);
#endif

/// Receives the parser's events and builds the document; refuses what the parser itself lets pass:
/// a key that stands twice in an object, and nesting without limit.
class JsonBuilder final : public Json::json_sax_t {
public:
    JsonBuilder(std::string_view text, std::string_view where, std::size_t max_depth)
        : text_(text), where_(where), reached_(text.data()), max_depth_(max_depth) {}

    /// Reads the whole text. @throws FormatError
    [[nodiscard]] Json read() {
        read_json(text_, reached_, *this);
        return std::move(root_);
    }

    // The events; names and signatures are the parser's.
    bool null() override { return add(nullptr); }
    bool boolean(bool value) override { return add(value); }
    bool number_integer(std::int64_t value) override { return add(value); }
    bool number_unsigned(std::uint64_t value) override { return add(value); }
    bool number_float(double value, const std::string&) override { return add(value); }
    bool string(std::string& value) override { return add(std::move(value)); }
    bool binary(Json::binary_t& value) override { return add(std::move(value)); }
    bool start_object(std::size_t) override { return open(Json::object()); }
    bool start_array(std::size_t) override { return open(Json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }
    bool key(std::string& name) override {
        if (open_.back()->contains(name)) {
            fail(position(), concat("expected every key once, found ", detail::quoted(name), " twice"));
        }
        key_ = std::move(name);
        return true;
    }
    /// @throws FormatError always
    bool parse_error(std::size_t at, const std::string&, const Json::exception& error) override {
        std::string_view reason = error.what(); // "[json.exception.parse_error.101] parse error at line ..."
        reason.remove_prefix(std::min(reason.find("] ") + 2, reason.size()));
        fail(at, concat("expected valid JSON, found ", printable(reason)));
        return false;
    }
    /// @throws FormatError naming the document and how many bytes of it had been read
    [[noreturn]] void fail(std::size_t at, std::string_view reason) const {
        throw FormatError(concat(where_, ": at byte ", at, ": ", reason));
    }

private:
    [[nodiscard]] std::size_t position() const noexcept {
        return static_cast<std::size_t>(reached_ - text_.data());
    }

    bool add(Json value) {
        place(std::move(value));
        return true;
    }

    bool open(Json container) {
        if (open_.size() == max_depth_) {
            fail(position(), concat("expected at most ", max_depth_, " levels of nesting, found more"));
        }
        open_.push_back(place(std::move(container)));
        return true;
    }

    bool close() {
        open_.pop_back();
        return true;
    }

    Json* place(Json value) {
        if (open_.empty()) {
            root_ = std::move(value);
            return &root_;
        }
        Json& parent = *open_.back();
        if (parent.is_array()) {
            parent.push_back(std::move(value));
            return &parent.back();
        }
        return &(parent[key_] = std::move(value));
    }

    std::string_view text_;
    std::string_view where_;
    const char* reached_;
    std::size_t max_depth_;
    Json root_;
    std::vector<Json*> open_; ///< the containers that are not closed yet, outermost first
    std::string key_;
};

/// Parses a whole text as one JSON value (RFC 8259).
/// @param where  what messages begin with: the file's name in quotation marks, and the place in it
/// @throws FormatError naming @p where and the position: not JSON, not UTF-8, something behind the value,
///         a key twice, more than @p max_depth levels.
[[nodiscard]] GPT2_COLD inline Json parse_json_at(std::string_view text, std::string_view where,
                                                  std::size_t max_depth = 64) {
    JsonBuilder builder(text, where, max_depth);
    // The parser takes a zero byte for the end of the text and would not look at what follows.
    if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
        builder.fail(zero, "expected valid JSON, found a zero byte");
    }
    if (text.empty()) {
        builder.fail(0, "expected valid JSON, found an empty text");
    }
    return builder.read();
}

/// The same of a whole file, which @p name is the name of.
[[nodiscard]] GPT2_COLD inline Json parse_json(std::string_view text, std::string_view name,
                                               std::size_t max_depth = 64) {
    return parse_json_at(text, detail::quoted(name, 4096), max_depth);
}

/// One JSON object, and what its members must be. Holds a reference to the object.
class JsonObject {
public:
    /// @param value  must outlive this
    /// @param where  what messages begin with: the file's name in quotation marks, and the place in it
    /// @throws FormatError when @p value is not an object
    JsonObject(const Json& value, std::string where) : value_(value), where_(std::move(where)) {
        if (!value.is_object()) {
            throw FormatError(concat(where_, ": expected a JSON object, found ", describe(value)));
        }
    }

    [[nodiscard]] const Json& json() const noexcept { return value_; }

    /// The member, or null when it is absent.
    [[nodiscard]] const Json* find(std::string_view key) const {
        const auto it = value_.find(key);
        return it == value_.end() ? nullptr : &*it;
    }

    /// The member; @throws FormatError when it is absent
    [[nodiscard]] const Json& at(std::string_view key, std::string_view expected) const {
        const Json* member = find(key);
        if (member == nullptr) {
            fail(key, expected, std::string_view("nothing"));
        }
        return *member;
    }

    /// @throws FormatError always: `where: "key": expected ..., found ...`
    [[noreturn]] void fail(std::string_view key, std::string_view expected, std::string_view found) const {
        throw FormatError(
            concat(where_, ": ", detail::quoted(key), ": expected ", expected, ", found ", found));
    }
    [[noreturn]] void fail(std::string_view key, std::string_view expected, const Json& found) const {
        fail(key, expected, std::string_view(describe(found)));
    }

    /// A whole number above 0, or nothing when the key is absent.
    [[nodiscard]] std::optional<std::size_t> positive(std::string_view key) const {
        const Json* member = find(key);
        if (member == nullptr) {
            return std::nullopt;
        }
        const std::optional<std::size_t> value = to_size(*member);
        if (!value || *value == 0) {
            fail(key, "a positive integer", *member);
        }
        return value;
    }

    [[nodiscard]] std::optional<bool> boolean(std::string_view key) const {
        return get<bool>(key, "true or false", [](const Json& j) { return j.is_boolean(); });
    }

    [[nodiscard]] std::optional<double> number(std::string_view key) const {
        return get<double>(key, "a number", [](const Json& j) { return j.is_number(); });
    }

    [[nodiscard]] std::optional<std::string> string(std::string_view key) const {
        return get<std::string>(key, "a string", [](const Json& j) { return j.is_string(); });
    }

    /// The value as a size, or nothing when it is negative, has a fraction or an exponent, or is too large.
    [[nodiscard]] static std::optional<std::size_t> to_size(const Json& value) noexcept {
        const auto* number = value.get_ptr<const Json::number_unsigned_t*>();
        if (number == nullptr || *number > std::numeric_limits<std::size_t>::max()) {
            return std::nullopt;
        }
        return static_cast<std::size_t>(*number);
    }

private:
    template <class T, class Check>
    [[nodiscard]] std::optional<T> get(std::string_view key, std::string_view expected,
                                       Check is_right) const {
        const Json* member = find(key);
        if (member == nullptr) {
            return std::nullopt;
        }
        if (!is_right(*member)) {
            fail(key, expected, *member);
        }
        return member->get<T>();
    }

    const Json& value_;
    std::string where_;
};

} // namespace gpt2::detail
