// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

/// Before a function that runs when something is wrong, or once in a while: compilers keep it out of line and
/// small, which takes seconds off the compilation of every program that includes the library.
#if defined(__GNUC__)
#define GPT2_COLD __attribute__((cold, noinline))
#else
#define GPT2_COLD
#endif

/// @file
/// The exceptions of the library. Every message names the thing (file, tensor, option), what was
/// expected and what was found.

namespace gpt2 {

/// Base of everything this library throws on purpose.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The operating system refused: no such file, no permission, a directory where a file was expected.
class FileError : public Error {
public:
    using Error::Error;
};

/// A file or a buffer does not hold what its format demands.
class FormatError : public Error {
public:
    using Error::Error;
};

/// An option or an argument has no meaning, or contradicts another.
class OptionError : public Error {
public:
    using Error::Error;
};

/// The tokens asked for do not fit into the positions that the model has.
class ContextError : public Error {
public:
    using Error::Error;
};

/// A computation left the finite numbers.
class NumericError : public Error {
public:
    using Error::Error;
};

namespace detail {

/// A piece of a message: text, or a number in the shortest form that reads back the same.
class MessagePart {
public:
    // NOLINTBEGIN(google-explicit-constructor): so that concat() takes them as they are
    MessagePart(std::string_view text) noexcept : text_(text) {}
    MessagePart(const char* text) noexcept : text_(text) {}
    MessagePart(const std::string& text) noexcept : text_(text) {}
    MessagePart(char c) noexcept : digits_{c}, text_(digits_.data(), 1) {}
    template <class Number>
    requires std::is_arithmetic_v<Number> MessagePart(Number value)
    noexcept { print(value); }
    // NOLINTEND(google-explicit-constructor)
    MessagePart(const MessagePart&) = delete; // text_ may point into digits_
    MessagePart& operator=(const MessagePart&) = delete;

    [[nodiscard]] std::string_view text() const noexcept { return text_; }

private:
    template <class Number> GPT2_COLD void print(Number value) noexcept {
        const auto end = std::to_chars(digits_.data(), digits_.data() + digits_.size(), value).ptr;
        text_ = {digits_.data(), static_cast<std::size_t>(end - digits_.data())};
    }

    std::array<char, 32> digits_{};
    std::string_view text_;
};

[[nodiscard]] GPT2_COLD inline std::string join(const MessagePart* parts, std::size_t n) {
    std::string out;
    for (std::size_t i = 0; i < n; ++i) {
        out += parts[i].text();
    }
    return out;
}

/// Joins text, characters and numbers into one message.
template <class... Parts> [[nodiscard]] GPT2_COLD std::string concat(const Parts&... parts) {
    const MessagePart list[] = {parts...};
    return join(list, sizeof...(parts));
}

/// Text from outside in quotation marks, for a message: control characters and bytes that are not
/// ASCII become \xNN, and text beyond @p limit bytes is cut with a note of its full length.
[[nodiscard]] GPT2_COLD inline std::string quoted(std::string_view text, std::size_t limit = 120) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out = "\"";
    for (const char c : text.substr(0, limit)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte >= 0x7f) {
            out += "\\x";
            out += digits[byte >> 4];
            out += digits[byte & 15];
        } else {
            if (c == '"' || c == '\\') {
                out += '\\';
            }
            out += c;
        }
    }
    out += '"';
    if (text.size() > limit) {
        out += concat("... (", text.size(), " bytes)");
    }
    return out;
}

} // namespace detail
} // namespace gpt2
