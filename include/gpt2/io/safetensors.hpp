// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/huge_pages.hpp"
#include "gpt2/io/json.hpp"
#include "gpt2/io/mapped_file.hpp"
#include "gpt2/tensor.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

/// @file
/// The safetensors format (https://huggingface.co/docs/safetensors): 8 bytes with the length N of the
/// header, little-endian; N bytes of JSON, `{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets":
/// [0, 24]}, ..., "__metadata__": {"key": "text"}}`, padded with spaces; then the data, to which the
/// offsets refer. Numbers are little-endian, arrays are in row-major order.

namespace gpt2 {

static_assert(std::endian::native == std::endian::little,
              "gpt2: the formats that this library reads are little-endian, and it reads them in place");

/// The element types of the format, under the format's names.
enum class Dtype {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
};

namespace detail {

struct DtypeFacts {
    std::string_view name;
    std::size_t bits; ///< per element
};

/// In the order of Dtype.
inline constexpr std::array<DtypeFacts, 22> dtype_facts{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

} // namespace detail

/// The format's name of an element type, `F32`.
[[nodiscard]] GPT2_COLD inline std::string_view dtype_name(Dtype dtype) noexcept {
    return detail::dtype_facts[static_cast<std::size_t>(dtype)].name;
}

/// Bits of one element (fewer than 8 for the packed 4- and 6-bit formats).
[[nodiscard]] GPT2_COLD inline std::size_t dtype_bits(Dtype dtype) noexcept {
    return detail::dtype_facts[static_cast<std::size_t>(dtype)].bits;
}

/// The element type of that name, or nothing.
[[nodiscard]] GPT2_COLD inline std::optional<Dtype> dtype_from_name(std::string_view name) noexcept {
    for (std::size_t i = 0; i < detail::dtype_facts.size(); ++i) {
        if (detail::dtype_facts[i].name == name) {
            return static_cast<Dtype>(i);
        }
    }
    return std::nullopt;
}

/// A shape as messages show it: `[50257, 768]`.
[[nodiscard]] GPT2_COLD inline std::string shape_text(std::span<const std::size_t> shape) {
    std::string out = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        out += detail::concat(i == 0 ? "" : ", ", shape[i]);
    }
    return out + "]";
}

/// One tensor of a file.
struct TensorInfo {
    std::string name;
    Dtype dtype;
    std::vector<std::size_t> shape; ///< empty for a single number
    /// The elements. They begin wherever the file has them, at any address: copy them out with std::memcpy,
    /// or test the alignment before reading through a pointer to a wider type.
    std::span<const std::byte> data;
};

/// A safetensors file whose header has been checked against the file to the last byte: every tensor's
/// bytes lie inside the file, match its shape and type, and together they cover the data without gap or
/// overlap. Immutable and thread-safe; copies are cheap and share the mapping.
class SafetensorsFile {
public:
    /// The longest header that the reference implementation accepts, in bytes.
    static constexpr std::uint64_t max_header_size = 100'000'000;

    /// Maps a file. The mapping lives as long as a copy of the object or of owner(); see MappedFile for
    /// what happens when somebody changes the file meanwhile.
    /// @throws FileError    the file cannot be opened or mapped
    /// @throws FormatError  naming the file, the tensor, what was expected and what was found
    [[nodiscard]] static SafetensorsFile open(const std::filesystem::path& path) {
        auto file = std::make_shared<const MappedFile>(MappedFile::open(path));
        return SafetensorsFile(file->bytes(), detail::path_text(path), file);
    }

    /// Reads a file that lies in memory. The bytes are not copied.
    /// @param name   stands for the file in messages
    /// @param owner  keeps the bytes alive; if null, they must outlive the object
    /// @throws FormatError  as open()
    [[nodiscard]] static SafetensorsFile from_bytes(std::span<const std::byte> bytes, std::string_view name,
                                                    std::shared_ptr<const void> owner = nullptr) {
        return SafetensorsFile(bytes, std::string(name), std::move(owner));
    }

    /// The same, from a copy of the bytes that the object keeps, at a multiple of 64 bytes and in huge pages
    /// where the system gives them.
    [[nodiscard]] static SafetensorsFile copy_of(std::span<const std::byte> bytes, std::string_view name) {
        auto memory = std::make_shared<Tensor<std::byte, 1>>(Tensor<std::byte, 1>::Shape{bytes.size()});
        detail::prefer_huge_pages(memory->data(), bytes.size());
        std::memcpy(memory->data(), bytes.data(), bytes.size());
        const std::span<const std::byte> copy = std::as_const(*memory).flat();
        return SafetensorsFile(copy, std::string(name), std::move(memory));
    }

    /// The path, or the name given to from_bytes().
    [[nodiscard]] const std::string& name() const noexcept { return state_->name; }

    /// All tensors, in the order of their data.
    [[nodiscard]] std::span<const TensorInfo> tensors() const noexcept { return state_->tensors; }

    /// The tensor of that name, or null. Lives as long as the file.
    [[nodiscard]] const TensorInfo* find(std::string_view name) const {
        const auto it = state_->index.find(name);
        return it == state_->index.end() ? nullptr : &state_->tensors[it->second];
    }

    /// The whole file.
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return state_->bytes; }

    /// All of the data, which the tensors share.
    [[nodiscard]] std::span<const std::byte> data() const noexcept { return state_->data; }

    /// The strings under `__metadata__`.
    [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const noexcept {
        return state_->metadata;
    }

    /// Keeps the bytes of every tensor alive (unless they were given to from_bytes()).
    [[nodiscard]] std::shared_ptr<const void> owner() const noexcept { return state_; }

private:
    struct State {
        std::string name;
        std::shared_ptr<const void> memory; ///< null when the bytes belong to the caller
        std::span<const std::byte> bytes;
        std::span<const std::byte> data; ///< behind the header
        std::vector<TensorInfo> tensors;
        std::map<std::string, std::size_t, std::less<>> index; ///< name to place in tensors
        std::map<std::string, std::string, std::less<>> metadata;
    };

    SafetensorsFile(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> memory)
        : state_(parse(bytes, std::move(name), std::move(memory))) {}

    GPT2_HEAVY [[nodiscard]] static std::shared_ptr<const State>
    parse(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> memory);

    static std::string_view header_text(std::span<const std::byte> bytes, const std::string& name);
    static TensorInfo read_tensor(const std::string& where, const std::string& tensor,
                                  const detail::Json& entry, std::span<const std::byte> data);
    static std::pair<std::size_t, std::size_t> read_offsets(const detail::JsonObject& object,
                                                            std::size_t data_size);
    static std::size_t byte_size(const detail::JsonObject& object, Dtype dtype,
                                 std::span<const std::size_t> shape);
    static void check_cover(const std::string& where, std::span<const TensorInfo> tensors,
                            std::span<const std::byte> data);

    std::shared_ptr<const State> state_;
};

template <class>
GPT2_COLD std::shared_ptr<const SafetensorsFile::State>
SafetensorsFile::parse(std::span<const std::byte> bytes, std::string name,
                       std::shared_ptr<const void> memory) {
    const std::string where = detail::quoted(std::string_view(name), 4096);
    const std::string_view text = header_text(bytes, name);
    const detail::Json json = detail::parse_json(text, name + " (header)", 8);
    const std::span<const std::byte> data = bytes.subspan(sizeof(std::uint64_t) + text.size());

    auto state = std::make_shared<State>();
    state->bytes = bytes;
    for (const auto& [key, value] : json.items()) {
        if (key == "__metadata__") {
            const detail::JsonObject object(value, where + ": \"__metadata__\"");
            for (const auto& [item, content] : value.items()) {
                state->metadata.emplace(item, *object.string(item));
            }
        } else {
            state->tensors.push_back(read_tensor(where, key, value, data));
        }
    }
    std::ranges::sort(state->tensors, {}, [](const TensorInfo& tensor) {
        return std::tuple(tensor.data.data(), tensor.data.size(), std::string_view(tensor.name));
    });
    check_cover(where, state->tensors, data);
    for (std::size_t i = 0; i < state->tensors.size(); ++i) {
        state->index.emplace(state->tensors[i].name, i);
    }
    state->name = std::move(name);
    state->memory = std::move(memory);
    state->data = data;
    return state;
}

GPT2_COLD inline std::string_view SafetensorsFile::header_text(std::span<const std::byte> bytes,
                                                               const std::string& name) {
    const auto fail = [&](const auto&... reason) {
        throw FormatError(detail::concat(detail::quoted(std::string_view(name), 4096), ": ", reason...));
    };
    std::uint64_t length = 0;
    if (bytes.size() < sizeof length) {
        fail("expected a safetensors file, which begins with 8 bytes of header length, found a file of ",
             bytes.size(), " bytes");
    }
    std::memcpy(&length, bytes.data(), sizeof length);
    const std::size_t available = bytes.size() - sizeof length;
    if (length > max_header_size) {
        fail("expected a safetensors header of at most ", max_header_size,
             " bytes, found a header length of ", length, " (truncated or not a safetensors file?)");
    }
    if (length > available) {
        fail("expected a safetensors header of ", length, " bytes, found only ", available,
             " bytes behind its length (truncated?)");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof length,
                                static_cast<std::size_t>(length));
    if (!text.starts_with('{')) {
        fail("expected a safetensors header that begins with \"{\", found ",
             text.empty() ? "an empty header" : detail::quoted(text, 16));
    }
    return text;
}

GPT2_COLD inline TensorInfo SafetensorsFile::read_tensor(const std::string& where, const std::string& tensor,
                                                         const detail::Json& entry,
                                                         std::span<const std::byte> data) {
    const detail::JsonObject object(
        entry, detail::concat(where, ": tensor ", detail::quoted(std::string_view(tensor))));
    for (const auto& [key, value] : entry.items()) {
        if (key != "dtype" && key != "shape" && key != "data_offsets") {
            object.fail(key, "only dtype, shape and data_offsets", value);
        }
    }
    const detail::Json& type = object.at("dtype", "the name of an element type");
    const std::optional<Dtype> dtype =
        type.is_string() ? dtype_from_name(type.get_ref<const std::string&>()) : std::nullopt;
    if (!dtype) {
        object.fail("dtype", "an element type of the safetensors format", type);
    }
    const detail::Json& extents = object.at("shape", "an array of whole numbers");
    if (!extents.is_array()) {
        object.fail("shape", "an array of whole numbers", extents);
    }
    std::vector<std::size_t> shape;
    for (const detail::Json& extent : extents) {
        const std::optional<std::size_t> value = detail::JsonObject::to_size(extent);
        if (!value) {
            object.fail("shape", "an array of whole numbers", extent);
        }
        shape.push_back(*value);
    }
    const auto [begin, end] = read_offsets(object, data.size());
    const std::size_t size = byte_size(object, *dtype, shape);
    if (end - begin != size) {
        object.fail("data_offsets",
                    detail::concat(size, " bytes for shape ", shape_text(shape), " of ", dtype_name(*dtype)),
                    std::string_view(detail::concat(end - begin, " bytes, ", begin, " to ", end)));
    }
    return {tensor, *dtype, std::move(shape), data.subspan(begin, size)};
}

/// Two numbers, the first not above the second, both inside the data.
GPT2_COLD inline std::pair<std::size_t, std::size_t>
SafetensorsFile::read_offsets(const detail::JsonObject& object, std::size_t data_size) {
    constexpr std::string_view expected = "two whole numbers, [begin, end]";
    const detail::Json& offsets = object.at("data_offsets", expected);
    if (!offsets.is_array() || offsets.size() != 2) {
        object.fail("data_offsets", expected, offsets);
    }
    std::array<std::size_t, 2> values{};
    for (std::size_t i = 0; i < 2; ++i) {
        const std::optional<std::size_t> value = detail::JsonObject::to_size(offsets[i]);
        if (!value) {
            object.fail("data_offsets", expected, offsets[i]);
        }
        values[i] = *value;
    }
    const auto [begin, end] = values;
    if (begin > end || end > data_size) {
        object.fail(
            "data_offsets",
            detail::concat("offsets in order and within the ", data_size, " bytes of data in the file"),
            std::string_view(detail::concat(begin, " to ", end)));
    }
    return {begin, end};
}

GPT2_COLD inline std::size_t SafetensorsFile::byte_size(const detail::JsonObject& object, Dtype dtype,
                                                        std::span<const std::size_t> shape) {
    std::size_t bits = dtype_bits(dtype);
    bool empty = false; // a zero in the shape must not hide an overflow that depends on the order
    for (const std::size_t extent : shape) {
        if (extent == 0) {
            empty = true;
        } else if (bits > std::numeric_limits<std::size_t>::max() / extent) {
            object.fail("shape", "a number of elements that fits 64 bits",
                        std::string_view(shape_text(shape)));
        } else {
            bits *= extent;
        }
    }
    if (bits % 8 != 0 && !empty) {
        object.fail("shape", "whole bytes",
                    std::string_view(detail::concat(bits, " bits for ", shape_text(shape))));
    }
    return empty ? 0 : bits / 8;
}

/// @param tensors  in the order of their data
GPT2_COLD inline void SafetensorsFile::check_cover(const std::string& where,
                                                   std::span<const TensorInfo> tensors,
                                                   std::span<const std::byte> data) {
    std::size_t covered = 0;
    for (const TensorInfo& tensor : tensors) {
        const auto begin = static_cast<std::size_t>(tensor.data.data() - data.data());
        if (begin != covered) {
            throw FormatError(detail::concat(
                where, ": tensor ", detail::quoted(std::string_view(tensor.name)),
                ": \"data_offsets\": expected ", covered, ", the end of the data before it, found ", begin,
                begin < covered ? " (tensors overlap)" : " (bytes that belong to no tensor)"));
        }
        covered += tensor.data.size();
    }
    if (covered != data.size()) {
        throw FormatError(detail::concat(where, ": expected ", covered, " bytes of data for ", tensors.size(),
                                         " tensors, found ", data.size(),
                                         " (bytes that belong to no tensor)"));
    }
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::shared_ptr<const SafetensorsFile::State>
    SafetensorsFile::parse<void>(std::span<const std::byte>, std::string, std::shared_ptr<const void>);
#endif

} // namespace gpt2
