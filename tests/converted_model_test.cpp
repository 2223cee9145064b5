// SPDX-License-Identifier: MIT

// The files were made by the converter, in Python (convert/make_fixtures.py): what it writes, this library
// reads.

#include "support/files.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using gpt2::ConvertedModel;
using gpt2::FormatError;
using gpt2::Gpt2Model;
using gpt2::OptionError;
using gpt2::TokenId;
using gpt2::Tokenizer;
using gpt2::WeightType;
using gpt2::test::as_bytes;
using gpt2::test::check_throws;
using gpt2::test::fixture;
using gpt2::test::read_file;

namespace {

/// A file that can be changed: the header as JSON, and the data.
struct File {
    nlohmann::ordered_json header;
    std::string data;

    explicit File(std::string_view name = "tiny-f16.safetensors") {
        const std::string bytes = read_file(fixture(name));
        std::uint64_t length = 0;
        std::memcpy(&length, bytes.data(), sizeof length);
        header = nlohmann::ordered_json::parse(bytes.substr(sizeof length, length));
        data = bytes.substr(sizeof length + length);
    }

    /// The bytes of a tensor.
    [[nodiscard]] std::span<char> tensor(const std::string& name) {
        const auto offsets = header.at(name).at("data_offsets");
        return std::span(data).subspan(offsets[0].get<std::size_t>(),
                                       offsets[1].get<std::size_t>() - offsets[0].get<std::size_t>());
    }
    template <class T> void set(const std::string& name, std::size_t index, T value) {
        REQUIRE((index + 1) * sizeof value <= tensor(name).size());
        std::memcpy(tensor(name).data() + index * sizeof value, &value, sizeof value);
    }
    template <class T> [[nodiscard]] T get(const std::string& name, std::size_t index) {
        T value{};
        std::memcpy(&value, tensor(name).data() + index * sizeof value, sizeof value);
        return value;
    }

    /// The file, at an aligned address, with a checksum that agrees with the data.
    [[nodiscard]] gpt2::Tensor<std::byte, 1> bytes(std::size_t alignment = 64) {
        std::string sum(9, '\0');
        std::snprintf(sum.data(), sum.size(), "%08x",
                      static_cast<unsigned>(gpt2::detail::crc32(as_bytes(data))));
        if (header.contains("__metadata__") && header["__metadata__"].contains("gpt2.crc32")) {
            header["__metadata__"]["gpt2.crc32"] = sum.substr(0, 8);
        }
        std::string text = header.dump();
        text.resize((8 + text.size() + alignment - 1) / alignment * alignment - 8, ' ');
        const std::string file = gpt2::test::safetensors_bytes(text, 0) + data;
        gpt2::Tensor<std::byte, 1> aligned({file.size()});
        std::memcpy(aligned.data(), file.data(), file.size());
        return aligned;
    }

    /// Loads and verifies it, and expects an error that says all of that.
    void refused(std::initializer_list<std::string_view> parts) {
        const auto file = bytes();
        check_throws<FormatError>([&] { (void)Gpt2Model::load(file.flat(), {.verify = true}); }, parts);
    }
};

const std::vector<TokenId> tokens{84, 257, 32, 99, 299, 0, 13, 256, 64, 200, 31, 258};

std::vector<float> logits(const Gpt2Model& model) {
    gpt2::Session session(model, {.pool = nullptr, .kv_dtype = gpt2::KvDtype::float32});
    const gpt2::BatchItem item{&session, tokens, gpt2::Logits::all};
    gpt2::forward({&item, 1});
    const std::span<const float> all = session.logits().flat();
    return {all.begin(), all.end()};
}

bool identical(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && std::ranges::all_of(a, [](float x) { return std::isfinite(x); }) &&
           std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

template <class T> bool same_bytes(std::span<const T> a, std::span<const T> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

} // namespace

TEST_CASE("a converted model gives the logits of the directory it came from, bit for bit") {
    for (const auto& [file, type] : {std::pair("tiny-f32.safetensors", WeightType::float32),
                                     std::pair("tiny-f16.safetensors", WeightType::float16),
                                     std::pair("tiny-bf16.safetensors", WeightType::bfloat16)}) {
        const char* const name = file; // CAPTURE makes a lambda, and Clang 14 has no binding in it
        CAPTURE(name);
        const auto expected = logits(Gpt2Model::load(fixture("tiny"), {.weights = type}));
        const auto model = Gpt2Model::load(fixture(name), {.verify = true});
        CHECK(identical(logits(model), expected));
        CHECK(
            identical(logits(Gpt2Model::load(fixture("tiny-f32.safetensors"), {.weights = type})), expected));
        const auto verification = model.verify();
        CHECK(verification.has_self_test);
        CHECK(verification.largest_difference <= verification.bound);
        CHECK(verification.bound < 1e-3f); // which is no mere formality
    }
    const auto untied = logits(Gpt2Model::load(fixture("untied")));
    CHECK(identical(logits(Gpt2Model::load(fixture("untied.safetensors"))), untied));
    CHECK(!identical(untied, logits(Gpt2Model::load(fixture("tiny")))));
}

TEST_CASE("the default model, converted, is the Hugging Face directory that it can be written as") {
    const auto directory = Gpt2Model::load(fixture("novella"));
    const auto file = Gpt2Model::load(gpt2::test::novella(), {.verify = true});
    CHECK(file.config() == directory.config());
    CHECK(identical(logits(file), logits(directory)));
    CHECK(!directory.verify().has_self_test);
}

TEST_CASE("integer formats: the converter rounds as loading does, and its self-test holds") {
    struct Made {
        const char* file;
        WeightType blocks, head;
    };
    for (const Made& made : {Made{"tiny-int8.safetensors", WeightType::int8, WeightType::int8},
                             Made{"tiny-int4.safetensors", WeightType::int4, WeightType::int8},
                             Made{"tiny-int4-int4.safetensors", WeightType::int4, WeightType::int4}}) {
        CAPTURE(made.file);
        const auto model = Gpt2Model::load(fixture(made.file), {.verify = true});
        const auto expected =
            logits(Gpt2Model::load(fixture("tiny"), {.weights = made.blocks, .head = made.head}));
        CHECK(identical(logits(model), expected));
    }
    for (const char* const file :
         {"tiny-int4-f16.safetensors", "tiny-int8-calibrated.safetensors", "tiny-int4-calibrated.safetensors",
          "tiny-mixed.safetensors", "novella-int8.safetensors", "novella-int4.safetensors"}) {
        CAPTURE(file);
        const auto verification = Gpt2Model::load(fixture(file)).verify();
        CHECK(verification.has_self_test);
        CHECK(verification.largest_difference <= verification.bound);
    }
}

TEST_CASE("matrices of a file may each have a type of their own") {
    const auto file = gpt2::ConvertedModel::open(fixture("tiny-mixed.safetensors"));
    std::array<std::size_t, gpt2::n_weight_types> found{};
    std::size_t bytes = file.matrix("wte.weight").bytes();
    for (const std::string& name : file.matrix_names()) {
        if (name != "wte.weight") {
            ++found[static_cast<std::size_t>(file.matrix(name).type())];
            bytes += file.matrix(name).bytes();
        }
    }
    const std::size_t narrow = found[static_cast<std::size_t>(WeightType::int4)];
    const std::size_t wide = found[static_cast<std::size_t>(WeightType::int8)];
    CHECK(narrow > 0);
    CHECK(wide > 0);
    CHECK(narrow + wide == 8);
    const auto model = Gpt2Model::load(fixture("tiny-mixed.safetensors"), {.verify = true});
    CHECK(model.bytes_read() == bytes);
    const auto expected = logits(model);
    for (const auto type : {WeightType::int4, WeightType::int8}) {
        CHECK(!identical(logits(Gpt2Model::load(fixture("tiny-mixed.safetensors"), {.weights = type})),
                         expected));
    }
}

TEST_CASE("integer formats: a scale that is not finite is found") {
    const auto file = gpt2::test::read_file(fixture("tiny-int8.safetensors"));
    auto bytes = gpt2::Tensor<std::byte, 1>({file.size()});
    std::memcpy(bytes.data(), file.data(), file.size());
    const auto model = gpt2::ConvertedModel::from_bytes(bytes.flat(), "int8");
    const auto tensor = *model.file().find("h.1.mlp.c_fc.weight");
    const std::uint16_t infinity = 0x7f80;
    std::memcpy(const_cast<std::byte*>(tensor.data.data()) + 2048 + 2 * 7, &infinity, sizeof infinity);
    gpt2::ThreadPool pool(2);
    check_throws<FormatError>([&] { gpt2::detail::require_finite_scales(tensor, "int8"); },
                              {"h.1.mlp.c_fc.weight", "finite scales", "inf"});
    check_throws<FormatError>([&] { model.check_data(pool); }, {"int8"});
}

TEST_CASE("a copy in huge pages gives the same logits, and is verified like the file") {
    for (const char* const file : {"tiny-f16.safetensors", "tiny-f32.safetensors"}) {
        const auto copied =
            Gpt2Model::load(fixture(file), {.verify = true, .residency = gpt2::Residency::huge_pages});
        CHECK(identical(logits(copied), logits(Gpt2Model::load(fixture(file)))));
    }
    check_throws<gpt2::FileError>(
        [] {
            (void)Gpt2Model::load(fixture("no such file.safetensors"),
                                  {.residency = gpt2::Residency::huge_pages});
        },
        {"no such file"});
}

TEST_CASE("formats are converted into one another as they are read from a checkpoint") {
    const auto half = Gpt2Model::load(fixture("tiny-f16.safetensors"), {.weights = WeightType::float32});
    CHECK(identical(logits(half), logits(Gpt2Model::load(fixture("tiny-f16.safetensors")))));
    const auto brain = Gpt2Model::load(fixture("tiny-bf16.safetensors"), {.weights = WeightType::float32});
    CHECK(identical(logits(brain), logits(Gpt2Model::load(fixture("tiny-bf16.safetensors")))));
    check_throws<OptionError>([&] { (void)half.verify(); },
                              {"verify", "the file's own formats", "converted"});
    File large("tiny-f32.safetensors");
    large.set("h.1.mlp.c_fc.weight", 77, 70000.0f);
    const auto bytes = large.bytes();
    check_throws<gpt2::NumericError>(
        [&] { (void)Gpt2Model::load(bytes.flat(), {.weights = WeightType::float16}); },
        {"h.1.mlp.c_fc.weight"});
}

TEST_CASE("a file in memory is used in place if it is aligned, and copied if not") {
    const auto expected = logits(Gpt2Model::load(fixture("tiny"), {.weights = WeightType::float16}));
    const std::string bytes = read_file(fixture("tiny-f16.safetensors"));
    gpt2::Tensor<std::byte, 1> memory({bytes.size() + 1});
    for (const std::size_t shift : {0u, 1u}) {
        std::memcpy(memory.data() + shift, bytes.data(), bytes.size());
        const std::span<const std::byte> file(memory.data() + shift, bytes.size());
        const auto model = ConvertedModel::from_bytes(file, "memory");
        const std::byte* const weights = model.matrix("wte.weight").panels();
        CHECK((weights >= file.data() && weights < file.data() + file.size()) == (shift == 0));
        CHECK(identical(logits(Gpt2Model::load(file)), expected));
    }
}

TEST_CASE("a model outlives its file's name, and its handle the model") {
    const gpt2::test::TemporaryDirectory directory;
    std::filesystem::copy_file(fixture("tiny-f32.safetensors"), directory / "model.safetensors");
    const auto expected = logits(Gpt2Model::load(directory / "model.safetensors"));
    auto tokenizer = Tokenizer::load(directory / "model.safetensors");
    {
        const auto model = Gpt2Model::load(directory / "model.safetensors");
        std::filesystem::remove(directory / "model.safetensors");
        CHECK(identical(logits(model), expected));
        tokenizer = model.tokenizer();
    }
    CHECK(tokenizer.encode("the th") == std::vector<TokenId>{259, 32, 258});
}

TEST_CASE("the tokenizer's tables are those that the library builds, byte for byte") {
    for (const auto& [source, file] :
         {std::pair("gpt2", fixture("gpt2-vocabulary.safetensors")),
          std::pair("tiny", fixture("tiny-f16.safetensors")), std::pair("novella", gpt2::test::novella())}) {
        const char* const directory = source;
        CAPTURE(directory);
        const auto owned =
            gpt2::detail::TokenizerBuilder::build(read_file(fixture(directory) / "vocab.json"),
                                                  read_file(fixture(directory) / "merges.txt"), "v", "m");
        const auto expected = owned.view();
        const auto opened = gpt2::SafetensorsFile::open(file);
        const auto found = gpt2::detail::ConvertedTokenizer::read(opened);
        CHECK(same_bytes(found.token_ends, expected.token_ends));
        CHECK(found.token_bytes == expected.token_bytes);
        CHECK(same_bytes(found.is_special, expected.is_special));
        CHECK(same_bytes(found.specials, expected.specials));
        CHECK(same_bytes(found.byte_tokens, expected.byte_tokens));
        CHECK(same_bytes(found.products, expected.products));
        CHECK(same_bytes(found.short_tokens, expected.short_tokens));
        CHECK(same_bytes(found.long_tokens, expected.long_tokens));
        CHECK(same_bytes(found.pairs, expected.pairs));
        CHECK(same_bytes(found.pair_filter, expected.pair_filter));
    }
    const auto tiny = Tokenizer::load(fixture("tiny-f16.safetensors"));
    CHECK(tiny.special_token("<a space>") == 257);
    CHECK(tiny.is_special(256));
    const auto vocabulary = Tokenizer::load(fixture("gpt2-vocabulary.safetensors"));
    CHECK(vocabulary.encode("Hello, my dog") == std::vector<TokenId>{15496, 11, 616, 3290});
}

TEST_CASE("files that are no converted models") {
    check_throws<FormatError>(
        [] { (void)Gpt2Model::load(fixture("tiny") / "model.safetensors"); },
        {"model.safetensors", "expected a converted model", "is loaded by its directory"});
    check_throws<FormatError>([] { (void)Gpt2Model::load(fixture("tiny") / "config.json"); },
                              {"config.json\"", "is loaded by its directory", "/tiny\")"});
    check_throws<FormatError>([] { (void)Tokenizer::load(fixture("tiny") / "vocab.json"); },
                              {"vocab.json\"", "is loaded by its directory", "/tiny\")"});
    check_throws<FormatError>([] { (void)Tokenizer::load(fixture("tiny") / "model.safetensors"); },
                              {"model.safetensors", "expected a converted model"});
    check_throws<gpt2::FileError>(
        [] { (void)Gpt2Model::load(fixture("nothing")); },
        {"nothing\"", "the file of a converted model, or a directory", "No such file"});
    const std::string bytes = read_file(fixture("tiny-f16.safetensors"));
    for (std::size_t size = 0; size < bytes.size(); size += size < 256 ? 1 : 997) {
        gpt2::Tensor<std::byte, 1> part({size});
        std::memcpy(part.data(), bytes.data(), size);
        CHECK_THROWS_AS((void)Gpt2Model::load(part.flat()), FormatError);
    }
}

TEST_CASE("headers that lie") {
    const auto changed = [](const auto& change, std::initializer_list<std::string_view> parts) {
        File file;
        change(file.header);
        file.refused(parts);
    };
    changed([](auto& h) { h["__metadata__"]["gpt2.format_version"] = "2"; },
            {"expected format version 1", "found \"2\"", "convert it again"});
    changed([](auto& h) { h["__metadata__"]["gpt2.layout"] = "panels-64"; },
            {"gpt2.layout", "panels-32", "panels-64"});
    changed([](auto& h) { h["__metadata__"].erase("gpt2.config"); }, {"gpt2.config", "no such key"});
    changed([](auto& h) { h["__metadata__"]["gpt2.config"] = "{}"; }, {"\"wte.weight\"", "[1571, 768, 32]"});
    changed([](auto& h) { h["__metadata__"]["gpt2.config"] = "nonsense"; }, {"gpt2.config", "valid JSON"});
    changed([](auto& h) { h["wte.weight"]["dtype"] = "I16"; },
            {"\"wte.weight\"", "expected element type F32 or F16 or BF16", "found I16"});
    changed([](auto& h) { h["ln_f.bias"]["dtype"] = "I32"; }, {"\"ln_f.bias\"", "expected element type F32"});
    changed(
        [](auto& h) {
            h["ln_f.bias"]["shape"] = {24, 2};
        },
        {"\"ln_f.bias\"", "expected shape [48]", "found [24, 2]"});
    changed(
        [](auto& h) {
            h["h.1.mlp.c_fc.weight"]["shape"] = {2, 60, 32};
        },
        {"\"h.1.mlp.c_fc.weight\"", "expected shape [3, 40, 32]", "found [2, 60, 32]"});
    for (const char* name : {"h.0.ln_1.bias", "self_test.bound", "tokenizer.pairs", "tokenizer.lengths"}) {
        changed(
            [&](auto& h) {
                h["tokenizer.unknown"] = h[name];
                h.erase(name);
            },
            {std::string_view(name).starts_with("h.") ? name : "tokenizer.unknown"});
    }
    changed(
        [](auto& h) {
            h["lm_head.bias"] = h["self_test.bound"];
            h.erase("self_test.bound");
        },
        {"lm_head.bias", "expected only tensors of the format"});
    File without_bound;
    without_bound.header.erase("self_test.bound");
    without_bound.data.resize(without_bound.data.size() - 64);
    without_bound.refused({"\"self_test.bound\"", "expected one of shape [16], found none"});
    File shifted;
    const auto odd = shifted.bytes(8);
    if (std::as_const(odd).size() % 64 != 0) {
        check_throws<FormatError>([&] { (void)Gpt2Model::load(odd.flat()); }, {"at a multiple of 64 bytes"});
    }
}

TEST_CASE("data that are damaged") {
    File damaged;
    const auto good = damaged.bytes();
    CHECK(Gpt2Model::load(good.flat(), {.verify = true}).config().n_embd == 40);
    auto flipped = good.clone();
    flipped.data()[flipped.size() - damaged.data.size() + 100] ^= std::byte{1}; // of wte
    check_throws<FormatError>([&] { (void)Gpt2Model::load(flipped.flat(), {.verify = true}); },
                              {"checksum", "gpt2.crc32", "damaged"});

    // The checksum agrees: whoever made these files made them so.
    File nan;
    nan.set("h.1.attn.c_proj.weight", 99, std::uint16_t{0x7e00});
    nan.refused({"\"h.1.attn.c_proj.weight\"", "expected finite weights", "NaN at element 99"});
    File infinite;
    infinite.set("wpe.weight", 7, -std::numeric_limits<float>::infinity());
    infinite.refused({"\"wpe.weight\"", "-infinity"});
    File other;
    other.set("self_test.logits", 11, other.get<float>("self_test.logits", 11) + 0.01f);
    other.refused({"self-test", "expected logits within", "found a difference of 0.0"});
    File weight;
    weight.set("h.0.mlp.c_fc.bias", 3, 3.0f);
    weight.refused({"self-test"});
    File token;
    token.set("self_test.tokens", 2, 300);
    token.refused({"self_test.tokens", "ids from 0 to 299", "found 300"});
    File none;
    none.set("self_test.tokens", 0, -1);
    none.refused({"self_test.tokens", "1 to 24 tokens", "found 0"});
    File bound;
    bound.set("self_test.bound", 0, std::numeric_limits<float>::quiet_NaN());
    bound.refused({"self_test.bound", "not negative"});
}

TEST_CASE("tables of the tokenizer that would lead outside of them, or nowhere") {
    const auto changed = [](std::string_view table, std::size_t index, std::uint32_t value,
                            std::initializer_list<std::string_view> parts) {
        File file;
        file.set("tokenizer." + std::string(table), index, value);
        file.refused(parts);
    };
    for (std::size_t table = 0; table < 10; ++table) {
        changed("lengths", table, 0xfffffff0u, {"tokenizer."});
        changed("lengths", table, 0, {"tokenizer."});
        changed("lengths", table, 5, {"tokenizer."});
    }
    changed("token_ends", 5, 2, {"tokenizer.token_ends", "ends that rise"});
    changed("token_ends", 5, 0x80000000u, {"tokenizer.token_ends", "ends that rise"});
    changed("token_ends", 259, 5000, {"tokenizer.token_bytes"});
    changed("byte_tokens", 65, 260, {"tokenizer.byte_tokens", "ids below 260"});
    changed("byte_tokens", 65, 66, {"tokenizer.byte_tokens", "found another for byte 65"});
    changed("specials", 0, 257 + 0x10000, {"tokenizer.specials"});
    changed("specials", 0, 256, {"tokenizer.specials", "sorted by name"});
    changed("is_special", 3, 1, {"tokenizer.byte_tokens", "not special"});
    changed("is_special", 64, 0, {"tokenizer.specials", "0 tokens, as many as is_special marks, found 2"});
    changed("products", 0, 260, {"tokenizer.products", "ids below 260"});
    changed("products", 0, 259, {"tokenizer.products", "the bytes of both parts"});
    File special; // "th", which text would then bring forth
    special.set("tokenizer.is_special", 258, std::uint8_t{1});
    special.set("tokenizer.lengths", 3, 3u);
    special.set("tokenizer.specials", 2, 258u);
    special.refused({"tokenizer.specials", "products of merges, found token 258"});
    File file;
    std::size_t slot = 0;
    while (file.get<std::uint32_t>("tokenizer.pairs", 3 * slot + 2) != 0) {
        ++slot;
    }
    changed("pairs", 3 * slot, 260, {"tokenizer.pairs", "ids below 260"});
    changed("pairs", 3 * slot + 2, 1, {"tokenizer.products", "the merge of rank 1"});
    changed("pairs", 3 * slot + 2, 2, {"tokenizer.pairs", "each rank below 2 once"});
    changed("pairs", 3 * slot + 2, gpt2::detail::no_rank,
            {"tokenizer.pairs", "2 pairs and a free slot, found 1"});

    File full; // no slot is free: a search for what is not there would not end
    const std::size_t size = full.tensor("tokenizer.short_tokens").size() / 16;
    for (std::size_t i = 0; i < size; ++i) {
        full.set("tokenizer.short_tokens", 4 * i + 3, gpt2::detail::not_encoded | 1);
    }
    full.refused({"tokenizer.short_tokens", "a free slot"});
    File wrong;
    for (std::size_t i = 0; i < size; ++i) {
        if (wrong.get<std::uint32_t>("tokenizer.short_tokens", 4 * i + 3) == 1) {
            wrong.set("tokenizer.short_tokens", 4 * i + 2, 0x7fffffffu);
            break;
        }
    }
    wrong.refused({"tokenizer.short_tokens", "ids below 260"});
    File other;
    for (std::size_t i = 0; i < size; ++i) {
        if (other.get<std::uint32_t>("tokenizer.short_tokens", 4 * i + 2) == 259) { // "the"
            other.set("tokenizer.short_tokens", 4 * i + 1, 1u);
        }
    }
    other.refused({"tokenizer.short_tokens", "the bytes of token 259"});
    File hidden; // no piece of less than 2 GiB compares with it, but longer ones do
    hidden.set("tokenizer.long_tokens", 0, 260u);
    hidden.set("tokenizer.long_tokens", 2, gpt2::detail::not_encoded | 16);
    hidden.set("tokenizer.long_tokens", 3, gpt2::detail::no_token);
    hidden.refused({"tokenizer.long_tokens", "ids below 260"});
}

TEST_CASE("a piece as long as a number in a table says is compared with what is there") {
    const std::string piece(1000, 'x');
    const std::string bytes =
        gpt2::detail::concat('x', piece.substr(0, 9), std::string(gpt2::detail::token_padding, '\0'));
    const std::array<std::uint32_t, 2> ends{1, 10};
    const gpt2::detail::Piece whole{piece.data(), piece.size(), piece.size()};
    std::array<gpt2::detail::LongToken, 2> slots;
    slots.fill({1, static_cast<std::uint32_t>(whole.long_hash()), 1000}); // of token 1, which has 9 bytes
    slots[1 - gpt2::detail::first_slot(whole.long_hash(), 2)] = {};
    gpt2::detail::TokenizerTables tables;
    tables.token_ends = ends;
    tables.token_bytes = bytes;
    tables.long_tokens = slots;
    CHECK(tables.whole_token(whole) == gpt2::detail::no_token);
}

#if defined(__linux__)

namespace {

/// Kilobytes of a field of /proc/self/smaps, over all mappings of a file.
std::size_t mapped(const std::filesystem::path& file, std::string_view field) {
    std::ifstream maps("/proc/self/smaps");
    const std::string name = std::filesystem::canonical(file).string();
    bool inside = false;
    std::size_t sum = 0;
    for (std::string line; std::getline(maps, line);) {
        if (line.find("-") < line.find(" ")) { // the first line of a mapping: addresses, ..., file
            inside = line.ends_with(name);
        } else if (inside && line.starts_with(field)) {
            sum += std::stoul(line.substr(line.find(':') + 1));
        }
    }
    return sum;
}

} // namespace

TEST_CASE("weights are not copied: pages are mapped, read when needed, and shared between processes") {
    const auto path = gpt2::test::novella();
    const std::size_t size = std::filesystem::file_size(path) / 1024;
    const auto model = Gpt2Model::load(path);
    CHECK(mapped(path, "Size:") >= size);
    // Read so far: the header and the tokenizer, with what the system reads ahead.
    CHECK(mapped(path, "Rss:") < size / 2);
    (void)logits(model);
    CHECK(mapped(path, "Rss:") > size / 2);
    CHECK(mapped(path, "Private_Dirty:") == 0); // a page that was written would be a copy
    CHECK(mapped(path, "Anonymous:") == 0);

    std::array<int, 2> done{};
    REQUIRE(::pipe(done.data()) == 0);
    const pid_t child = ::fork();
    if (child == 0) { // it has the pages through the same cache: it maps the file anew
        ::close(done[1]);
        char end = 0;
        const auto same = ConvertedModel::open(path);
        volatile unsigned sum = 0;
        for (const std::byte b : same.file().data()) {
            sum = sum + static_cast<unsigned>(b);
        }
        const bool waited = ::read(done[0], &end, 1) == 1;
        ::_exit(waited && mapped(path, "Shared_Clean:") > size / 2 && mapped(path, "Private_Dirty:") == 0
                    ? 0
                    : 1);
    }
    REQUIRE(child > 0);
    ::close(done[0]);
    REQUIRE(::write(done[1], "", 1) == 1);
    int status = 1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    ::close(done[1]);
}

#endif

TEST_CASE("CRC-32 is zlib's") { // check values: "123456789" (Koopman's and everybody's catalogues), RFC 1952
    CHECK(gpt2::detail::crc32(as_bytes("")) == 0);
    CHECK(gpt2::detail::crc32(as_bytes("123456789")) == 0xcbf43926u);
    CHECK(gpt2::detail::crc32(as_bytes("The quick brown fox jumps over the lazy dog")) == 0x414fa339u);
}
