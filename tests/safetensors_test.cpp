// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/io/safetensors.hpp>

#include "support/files.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using namespace gpt2;
using namespace gpt2::test;

namespace {

SafetensorsFile parse(std::string_view bytes) {
    return SafetensorsFile::from_bytes(as_bytes(bytes), "x.safetensors");
}

void check_refused(std::string_view bytes, std::initializer_list<std::string_view> parts) {
    check_throws<FormatError>([&] { (void)parse(bytes); }, parts);
}

/// A header with one tensor "w" of four floats whose entry is given.
void check_entry_refused(std::string_view entry, std::initializer_list<std::string_view> parts) {
    const std::string header = "{\"w\":" + std::string(entry) + "}";
    CAPTURE(header);
    const std::string bytes = safetensors_bytes(header, 16);
    check_refused(bytes, parts);
    check_refused(bytes, {"\"x.safetensors\"", "tensor \"w\"", "expected", "found"});
}

constexpr std::string_view two_tensors = R"({"__metadata__":{"format":"pt","note":"täxt"},)"
                                         R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
                                         R"("a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                                         R"("empty":{"dtype":"U8","shape":[0,5],"data_offsets":[28,28]},)"
                                         R"("scalar":{"dtype":"I64","shape":[],"data_offsets":[28,36]}}   )";

} // namespace

TEST_CASE("a good file gives its tensors in the order of their data, and its metadata") {
    std::string bytes = safetensors_bytes(two_tensors, 36);
    const float value = 1.5f;
    std::memcpy(bytes.data() + 8 + two_tensors.size() + 4, &value, sizeof value);
    const SafetensorsFile file = parse(bytes);
    REQUIRE(file.tensors().size() == 4);
    CHECK(file.tensors()[0].name == "a");
    CHECK(file.tensors()[1].name == "b");
    const TensorInfo* b = file.find("b");
    REQUIRE(b != nullptr);
    CHECK(b->dtype == Dtype::F32);
    CHECK(b->shape == std::vector<std::size_t>{2, 3});
    CHECK(b->data.size() == 24);
    CHECK(b->data.data() == as_bytes(bytes).data() + 8 + two_tensors.size() + 4);
    float read = 0;
    std::memcpy(&read, b->data.data(), sizeof read);
    CHECK(read == value);
    CHECK(file.find("empty")->data.empty());
    CHECK(file.find("scalar")->shape.empty());
    CHECK(file.find("c") == nullptr);
    CHECK(file.metadata().at("note") == "täxt");
    CHECK(file.metadata().size() == 2);
    CHECK(file.name() == "x.safetensors");
}

TEST_CASE("files without tensors or metadata are legal") {
    CHECK(parse(safetensors_bytes("{}", 0)).tensors().empty());
    CHECK(parse(safetensors_bytes("{}      ", 0)).metadata().empty());
    CHECK(parse(safetensors_bytes(R"({"__metadata__":{}})", 0)).tensors().empty());
}

TEST_CASE("a file on disk stays mapped while something holds it") {
    const TemporaryDirectory directory;
    write_file(directory / "m.safetensors", safetensors_bytes(two_tensors, 36));
    std::shared_ptr<const void> owner;
    std::span<const std::byte> data;
    {
        const SafetensorsFile file = SafetensorsFile::open(directory / "m.safetensors");
        const SafetensorsFile copy = file;
        CHECK(copy.find("b") == file.find("b"));
        CHECK(file.name().ends_with("m.safetensors"));
        owner = copy.owner();
        data = copy.find("scalar")->data;
    }
    CHECK(data[7] == std::byte{0});
    check_throws<FileError>([&] { (void)SafetensorsFile::open(directory / "no"); }, {"/no\"", "cannot open"});
    check_throws<FileError>([&] { (void)SafetensorsFile::open(directory.path()); }, {"a directory"});
    write_file(directory / "empty", "");
    check_throws<FormatError>([&] { (void)SafetensorsFile::open(directory / "empty"); },
                              {"/empty\"", "expected", "8 bytes", "found", "0 bytes"});
}

TEST_CASE("every element type has its size") {
    for (std::size_t i = 0; i < detail::dtype_facts.size(); ++i) {
        const auto dtype = static_cast<Dtype>(i);
        const std::string name(dtype_name(dtype));
        CAPTURE(name);
        CHECK(dtype_from_name(name) == dtype);
        const std::size_t size = 8 * dtype_bits(dtype) / 8; // of eight elements
        const std::string header = "{\"w\":{\"dtype\":\"" + name + "\",\"shape\":[2,4],\"data_offsets\":[0," +
                                   std::to_string(size) + "]}}";
        CHECK(parse(safetensors_bytes(header, size)).find("w")->dtype == dtype);
    }
    CHECK(dtype_bits(Dtype::BF16) == 16);
    CHECK(dtype_bits(Dtype::U64) == 64);
    CHECK_FALSE(dtype_from_name("f32").has_value());
    check_entry_refused(R"({"dtype":"F4","shape":[3],"data_offsets":[0,16]})",
                        {"\"shape\"", "whole bytes", "12 bits"});
}

TEST_CASE("a file cut anywhere is refused") {
    const std::string bytes = safetensors_bytes(two_tensors, 36);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
        CAPTURE(length);
        // a copy of its own, so that a sanitizer sees every read behind the end
        const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
        check_refused({cut.data(), cut.size()}, {"\"x.safetensors\"", "expected", "found"});
    }
    check_refused(bytes + '\0', {"\"x.safetensors\"", "expected 36 bytes of data", "found 37"});
}

TEST_CASE("header lengths that cannot be are refused before anything is read") {
    const auto with_length = [](std::uint64_t length) {
        std::string bytes = safetensors_bytes("{}", 100);
        std::memcpy(bytes.data(), &length, sizeof length);
        return bytes;
    };
    check_refused(with_length(0), {"begins with \"{\"", "found an empty header"});
    check_refused(with_length(1), {"at byte", "valid JSON", "end of input"});
    check_refused(with_length(103), {"expected a safetensors header of 103 bytes", "found only 102"});
    check_refused(with_length(100'000'000), {"100000000 bytes", "found only 102"});
    check_refused(with_length(100'000'001), {"at most 100000000", "found a header length of 100000001"});
    check_refused(with_length(~std::uint64_t{0}), {"found a header length of 18446744073709551615"});
    check_refused(with_length(~std::uint64_t{0} - 7), {"found a header length of 18446744073709551608"});
    check_refused(with_length(std::uint64_t{1} << 63), {"found a header length of 9223372036854775808"});
}

TEST_CASE("headers that are not JSON objects are refused with the place") {
    const auto check_header = [](std::string_view header, std::initializer_list<std::string_view> parts) {
        CAPTURE(header);
        check_refused(safetensors_bytes(header, 0), parts);
        check_refused(safetensors_bytes(header, 0), {"x.safetensors", "expected", "found"});
    };
    check_header("[]", {"begins with \"{\"", "\"[]\""});
    check_header(" {}", {"begins with \"{\"", "\" {}\""});
    check_header("\xef\xbb\xbf{}", {"begins with \"{\"", "\\xef"});
    check_header("{} x", {"at byte", "valid JSON"});
    check_header("{}{}", {"at byte", "valid JSON"});
    check_header(std::string_view("{}\0x", 4), {"at byte 2", "zero byte"});
    check_header("{\"\xff\":1}", {"UTF-8"});
    check_header("{\"\xc0\x80\":1}", {"UTF-8"});
    check_header("{\"\xed\xa0\x80\":1}", {"UTF-8"});
    check_header("{\"a\":1,}", {"at byte"});
    check_header("{'a':1}", {"at byte"});
    check_header("{\"a\":NaN}", {"at byte"});
    check_header("{\"a\":1e999}", {"number overflow"});
    check_header("{\"a\":" + std::string(9, '[') + std::string(9, ']') + "}", {"8 levels of nesting"});
    check_header("{" + std::string(1'000'000, '['), {"at byte"});
    check_header("{\"a\":" + std::string(1'000'000, '['), {"8 levels of nesting"});
}

TEST_CASE("a key that stands twice is refused") {
    const std::string entry = R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})";
    check_refused(safetensors_bytes("{\"w\":" + entry + ",\"w\":" + entry + "}", 16),
                  {"x.safetensors", "every key once", "found \"w\" twice"});
    check_refused(
        safetensors_bytes(R"({"w":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 16),
        {"found \"dtype\" twice"});
    // the same key in another spelling
    check_refused(safetensors_bytes("{\"w\":" + entry + ",\"\\u0077\":" + entry + "}", 16),
                  {"found \"w\" twice"});
    check_refused(safetensors_bytes(R"({"__metadata__":{"a":"1","a":"2"}})", 0), {"found \"a\" twice"});
}

TEST_CASE("metadata other than strings is refused") {
    check_refused(safetensors_bytes(R"({"__metadata__":[]})", 0), {"__metadata__", "object", "array"});
    check_refused(safetensors_bytes(R"({"__metadata__":{"a":1}})", 0),
                  {"__metadata__", "\"a\"", "a string", "found 1"});
    check_refused(safetensors_bytes(R"({"__metadata__":null})", 0), {"__metadata__", "object", "null"});
}

TEST_CASE("entries of the wrong kind are refused by tensor and key") {
    check_entry_refused("1", {"a JSON object", "found 1"});
    check_entry_refused("[]", {"a JSON object", "array of 0"});
    check_entry_refused(R"({"shape":[4],"data_offsets":[0,16]})", {"\"dtype\"", "found nothing"});
    check_entry_refused(R"({"dtype":"F32","data_offsets":[0,16]})", {"\"shape\"", "found nothing"});
    check_entry_refused(R"({"dtype":"F32","shape":[4]})", {"\"data_offsets\"", "found nothing"});
    check_entry_refused(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"strides":[1]})",
                        {"\"strides\""});
    check_entry_refused(R"({"dtype":32,"shape":[4],"data_offsets":[0,16]})", {"\"dtype\"", "found 32"});
    check_entry_refused(R"({"dtype":"F128","shape":[1],"data_offsets":[0,16]})",
                        {"\"dtype\"", "found \"F128\""});
    check_entry_refused(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})", {"\"shape\"", "found 4"});
    check_entry_refused(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})", {"\"shape\"", "found -4"});
    check_entry_refused(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})", {"\"shape\"", "found 4.0"});
    check_entry_refused(R"({"dtype":"F32","shape":["4"],"data_offsets":[0,16]})",
                        {"\"shape\"", "found \"4\""});
    check_entry_refused(R"({"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,16]})",
                        {"\"shape\""});
    check_entry_refused(R"({"dtype":"F32","shape":[null],"data_offsets":[0,16]})",
                        {"\"shape\"", "found null"});
}

TEST_CASE("shapes whose size overflows are refused, in any order of the extents") {
    check_entry_refused(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]})",
                        {"\"shape\"", "64 bits", "[4294967296, 4294967296]"});
    check_entry_refused(R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})",
                        {"64 bits"});
    check_entry_refused(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})",
                        {"64 bits"});
    check_entry_refused(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", {"64 bits"});
    // 2^62 + 4 elements of 4 bytes are 16 bytes modulo 2^64
    check_entry_refused(R"({"dtype":"F32","shape":[4611686018427387908],"data_offsets":[0,16]})",
                        {"64 bits"});
}

TEST_CASE("offsets outside the data, out of order or of the wrong kind are refused") {
    const auto check_offsets = [](std::string_view offsets, std::initializer_list<std::string_view> parts) {
        const std::string entry =
            R"({"dtype":"F32","shape":[4],"data_offsets":)" + std::string(offsets) + "}";
        check_entry_refused(entry, parts);
        check_entry_refused(entry, {"\"data_offsets\""});
    };
    check_offsets("[0,20]", {"within the 16 bytes", "found 0 to 20"});
    check_offsets("[16,0]", {"in order", "found 16 to 0"});
    check_offsets("[-16,0]", {"found -16"});
    check_offsets("[0,-1]", {"found -1"});
    check_offsets("[0.0,16]", {"found 0.0"});
    check_offsets("[0,1.6e1]", {"found 16.0"});
    check_offsets("[0]", {"array of 1 element"});
    check_offsets("[0,16,16]", {"array of 3 elements"});
    check_offsets("{}", {"an object"});
    check_offsets("null", {"null"});
    check_offsets("[18446744073709551600,18446744073709551615]", {"within the 16 bytes"});
    check_offsets("[0,18446744073709551616]", {"two whole numbers"});
    check_offsets("[0,12]", {"16 bytes for shape [4] of F32", "found 12 bytes, 0 to 12"});
}

TEST_CASE("gaps and overlaps between tensors are refused") {
    const auto pair = [](std::string_view a, std::string_view b, std::size_t size) {
        return safetensors_bytes(
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + std::string(a) +
                "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + std::string(b) + "}}",
            size);
    };
    CHECK(parse(pair("[0,4]", "[4,8]", 8)).tensors().size() == 2);
    CHECK(parse(pair("[4,8]", "[0,4]", 8)).tensors()[0].name == "b");
    check_refused(pair("[0,4]", "[3,7]", 7),
                  {"x.safetensors", "tensor \"b\"", "expected 4", "found 3", "overlap"});
    check_refused(pair("[0,4]", "[0,4]", 4), {"expected 4", "found 0", "overlap"});
    check_refused(pair("[0,4]", "[5,9]", 9), {"tensor \"b\"", "expected 4", "found 5", "no tensor"});
    check_refused(pair("[1,5]", "[5,9]", 9), {"tensor \"a\"", "expected 0", "found 1"});
    check_refused(pair("[0,4]", "[4,8]", 9), {"expected 8 bytes of data for 2 tensors", "found 9"});
}

TEST_CASE("random damage gives an error or a file whose tensors lie inside it") {
    const std::string good = safetensors_bytes(two_tensors, 36);
    std::mt19937 random(1);
    for (int round = 0; round < 20'000; ++round) {
        std::string bad = good;
        for (std::uint32_t i = 0; i <= random() % 3; ++i) {
            bad[random() % (bad.size() - 36)] = static_cast<char>(random() % 128);
        }
        try {
            const SafetensorsFile file = parse(bad);
            for (const TensorInfo& tensor : file.tensors()) {
                CHECK(tensor.data.data() >= as_bytes(bad).data());
                CHECK(tensor.data.data() + tensor.data.size() <= as_bytes(bad).data() + bad.size());
            }
        } catch (const FormatError&) {
        }
    }
}
