// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

/// @file
/// What tests of files share: a directory that goes away, bytes on disk, and errors that name things.

namespace gpt2::test {

/// A new directory, removed with everything in it at the end of the scope.
class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::random_device random;
        do {
            path_ = std::filesystem::temp_directory_path() /
                    ("gpt2-test-" + std::to_string(random()) + std::to_string(random()));
        } while (!std::filesystem::create_directory(path_));
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
    [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

private:
    std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    REQUIRE(out.good());
}

[[nodiscard]] inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE(in.good());
    return {std::istreambuf_iterator<char>(in), {}};
}

[[nodiscard]] inline std::span<const std::byte> as_bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
}

/// A safetensors file from its header, with as many zero bytes of data as asked for.
[[nodiscard]] inline std::string safetensors_bytes(std::string_view header, std::size_t data_size) {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes.append(header).append(data_size, '\0');
}

/// Replaces the first occurrence, which must exist.
[[nodiscard]] inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
    const std::size_t at = text.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, from);
    return text.replace(at, from.size(), to);
}

/// Calls something that must throw exactly @p Exception, with a message that holds all the parts.
template <class Exception, class Function>
void check_throws(Function&& function, std::initializer_list<std::string_view> parts) {
    try {
        std::forward<Function>(function)();
    } catch (const std::exception& error) {
        const std::string message = error.what();
        CAPTURE(message);
        CHECK_MESSAGE(typeid(error) == typeid(Exception), typeid(error).name());
        for (const std::string_view part : parts) {
            CHECK_MESSAGE(message.find(part) != std::string::npos, "missing: ", std::string(part));
        }
        return;
    }
    FAIL_CHECK("nothing was thrown");
}

} // namespace gpt2::test
