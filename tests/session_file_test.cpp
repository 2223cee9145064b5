// SPDX-License-Identifier: MIT

// Sessions on disk: what is restored goes on as if it had never been away, and nothing else is restored.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using gpt2::FormatError;
using gpt2::GenerationConfig;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::Logits;
using gpt2::Session;
using gpt2::SessionOptions;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::make_model;
using gpt2::test::mismatch;
namespace test = gpt2::test;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()

const Gpt2Model& model() {
    static const Gpt2Model loaded = make_model();
    return loaded;
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, test::byte_vocabulary_size, seed);
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

Session read(const Gpt2Model& of, std::size_t n, KvDtype dtype = KvDtype::float32) {
    Session session(of, {.pool = nullptr, .kv_dtype = dtype});
    if (n != 0) {
        session.forward(tokens(n));
    }
    return session;
}

std::string saved(const Session& session) {
    const test::TemporaryDirectory directory;
    session.save(directory / "session");
    return test::read_file(directory / "session");
}

Session restored(const Gpt2Model& of, std::string_view file, const SessionOptions& options = {}) {
    return Session::restore(of, test::as_bytes(file), options);
}

/// A file of a session of 20 tokens.
const std::string& file_of_20() {
    static const std::string file = saved(read(model(), 20));
    return file;
}

/// A file with another header or other data, and the checksum that these have.
std::string forged(std::string_view file, const std::function<void(Json& header, std::string& data)>& edit) {
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    Json header = Json::parse(file.substr(sizeof length, length));
    std::string data(file.substr(sizeof length + length));
    edit(header, data);
    header["__metadata__"]["gpt2.crc32"] =
        gpt2::detail::hexadecimal(gpt2::detail::crc32(test::as_bytes(data)));
    return test::safetensors_bytes(header.dump(), 0) + data;
}

/// Writes a number over the data of a tensor.
template <class T>
std::string with_number(std::string_view file, const std::string& tensor, std::size_t index, T number) {
    return forged(file, [&](Json& header, std::string& data) {
        const std::size_t begin = header[tensor]["data_offsets"][0];
        std::memcpy(data.data() + begin + index * sizeof number, &number, sizeof number);
    });
}

void refused(std::string_view file, std::initializer_list<std::string_view> parts) {
    check_throws<FormatError>([&] { (void)restored(model(), file); }, parts);
}

/// Checks that two sessions are in the same state, and go on with the same bits.
void check_equal(Session& found, Session& expected) {
    REQUIRE(std::ranges::equal(found.tokens(), expected.tokens()));
    REQUIRE(found.kv_dtype() == expected.kv_dtype());
    const std::size_t rows = std::min<std::size_t>(expected.logits().dim(0), 1);
    REQUIRE(found.logits().dim(0) == rows);
    if (rows != 0) {
        CHECK(mismatch(found.logits()[0].flat(),
                       copy(expected.logits()[expected.logits().dim(0) - 1].flat())) == "");
    }
    const std::size_t room = n_positions - found.position();
    if (room >= 13 && rows != 0) {
        const GenerationConfig config{.max_new_tokens = 10, .logprobs = true, .ignore_eos = true};
        const auto text = expected.generate({}, config);
        const auto again = found.generate({}, config);
        CHECK(again.tokens == text.tokens);
        CHECK(again.logprobs == text.logprobs);
    }
    if (room >= 3) {
        const auto more = tokens(3, 2);
        CHECK(mismatch(found.forward(more), copy(expected.forward(more))) == "");
    }
}

} // namespace

TEST_CASE("restored equals uninterrupted, for both types of keys and values") {
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::float16}) {
        for (const std::size_t n : {1u, 15u, 16u, 17u, 63u, 64u, 65u, 130u, 150u}) {
            CAPTURE(gpt2::to_string(dtype));
            CAPTURE(n);
            Session session = read(model(), n, dtype);
            const std::string file = saved(session);
            Session again = restored(model(), file);
            CHECK(saved(again) == file);
            std::uint64_t header = 0;
            std::memcpy(&header, file.data(), sizeof header);
            CHECK((sizeof header + header) % 64 == 0);
            check_equal(again, session);
        }
    }
}

TEST_CASE("after a text, in the middle of a conversation") {
    const GenerationConfig config{.max_new_tokens = 20,
                                  .do_sample = true,
                                  .temperature = 0.9f,
                                  .repetition_penalty = 1.2f,
                                  .seed = 7,
                                  .ignore_eos = true};
    Session session(model());
    session.generate(tokens(30), config);
    Session again = restored(model(), saved(session));
    const auto next = tokens(5, 3);
    const auto text = session.generate(next, config);
    CHECK(again.generate(next, config).tokens == text.tokens);
    check_equal(again, session);
}

TEST_CASE("without logits, with many rows of them, without tokens") {
    Session session = read(model(), 20);
    SUBCASE("none") {
        session.truncate(19);
        Session again = restored(model(), saved(session));
        CHECK_THROWS_AS((void)again.generate({}), gpt2::OptionError);
        check_equal(again, session);
    }
    SUBCASE("none asked for") {
        const auto more = tokens(2, 5);
        const gpt2::BatchItem item{&session, more, Logits::none};
        gpt2::forward({&item, 1});
        Session again = restored(model(), saved(session));
        check_equal(again, session);
    }
    SUBCASE("all: the last is kept") {
        const auto more = tokens(4, 5);
        const gpt2::BatchItem item{&session, more, Logits::all};
        gpt2::forward({&item, 1});
        Session again = restored(model(), saved(session));
        check_equal(again, session);
    }
    SUBCASE("of a batch: its own") {
        Session other(model());
        const auto more = tokens(4, 5);
        const gpt2::BatchItem items[] = {{&other, more, Logits::all}, {&session, std::span(more).first(2)}};
        gpt2::forward(items);
        Session again = restored(model(), saved(session));
        check_equal(again, session);
    }
    SUBCASE("an empty session") {
        session.truncate(0);
        Session again = restored(model(), saved(session));
        CHECK(again.position() == 0);
        check_equal(again, session);
    }
}

TEST_CASE("the format") {
    const std::string file = saved(read(model(), 70, KvDtype::float16));
    const auto tensors = gpt2::SafetensorsFile::from_bytes(test::as_bytes(file), "file");
    CHECK(tensors.metadata().at("gpt2.session_version") == "1");
    CHECK(tensors.metadata().at("gpt2.crc32").size() == 8);
    CHECK(tensors.metadata().at("gpt2.model").size() == 17);
    CHECK(tensors.tensors().size() == 4);
    CHECK((file.size() - tensors.data().size()) % 64 == 0);
    const auto& keys = *tensors.find("keys");
    CHECK(keys.dtype == gpt2::Dtype::F16);
    CHECK(keys.shape == std::vector<std::size_t>{3, 5, 70, 9}); // layers, heads, positions, D
    CHECK(tensors.find("values")->shape == keys.shape);
    CHECK(tensors.find("logits")->shape == std::vector<std::size_t>{259});
    // A position's keys and values do not depend on what comes after it.
    const std::string begin = saved(read(model(), 20, KvDtype::float16));
    const auto first = gpt2::SafetensorsFile::from_bytes(test::as_bytes(begin), "file");
    for (const char* const name : {"keys", "values"}) {
        for (std::size_t head = 0; head < 15; ++head) {
            const auto all = tensors.find(name)->data.subspan(head * 70 * 9 * 2, 20 * 9 * 2);
            CHECK(std::ranges::equal(all, first.find(name)->data.subspan(head * 20 * 9 * 2, 20 * 9 * 2)));
        }
    }
    // Nothing but these positions, and nothing random.
    Session longer = read(model(), 70, KvDtype::float16);
    longer.truncate(19);
    const auto first_20 = tokens(20);
    longer.forward(std::span(first_20).last(1));
    CHECK(saved(longer) == begin);
}

TEST_CASE("options: threads, a profile, and the type of keys and values that the file has") {
    const std::string file = saved(read(model(), 20, KvDtype::float16));
    const auto profile = std::make_shared<gpt2::Profile>();
    Session session = restored(
        model(), file,
        {.pool = std::make_shared<gpt2::ThreadPool>(3), .kv_dtype = KvDtype::float16, .profile = profile});
    session.forward(tokens(1));
    CHECK_FALSE(profile->events().empty());
    const auto recorder = std::make_shared<gpt2::Recorder>(gpt2::Recorder::What{.last_hidden_states = true});
    Session observed = restored(model(), file, {.observer = recorder});
    observed.forward(tokens(1));
    CHECK(recorder->last_hidden_state_at(20).size() == model().config().n_embd);
    check_throws<gpt2::OptionError>(
        [&] { (void)restored(model(), file, {.pool = nullptr, .kv_dtype = KvDtype::float32}); },
        {"kv_dtype is float32", "expected float16", "memory"});
}

TEST_CASE("a session belongs to its model: the same weights in the same formats") {
    const std::string& file = file_of_20();
    CHECK(restored(make_model(), file).position() == 20); // loaded once more
    const auto other = [&](const Gpt2Model& of) {
        check_throws<FormatError>(
            [&] { (void)restored(of, file); },
            {"\"memory\"", "expected a session of this model, ", "found one of another"});
    };
    gpt2::Config config = test::odd_config();
    for (const gpt2::ExpectedTensor& tensor : gpt2::expected_tensors(config, false)) {
        CAPTURE(tensor.name);
        other(make_model(config, [&](std::string_view name, std::span<float> values) {
            if (name == tensor.name) {
                values[values.size() / 2] += 0.25f;
            }
        }));
    }
    other(make_model(config, {}, {.weights = gpt2::WeightType::float16}));
    other(make_model(config, {}, {.weights = gpt2::WeightType::float32, .head = gpt2::WeightType::bfloat16}));
    config.n_positions = 151;
    other(make_model(config));
    config = test::odd_config();
    config.layer_norm_epsilon = 2e-5f;
    other(make_model(config));
    config = test::odd_config();
    config.scale_attn_by_inverse_layer_idx = true;
    other(make_model(config));
    config = test::odd_config();
    config.activation = gpt2::Activation::gelu_erf;
    other(make_model(config));
}

TEST_CASE("a converted model, by the checksum of its file") {
    const auto converted = Gpt2Model::load(test::novella());
    const auto prompt = converted.encode_prompt("There was once a poor woodcutter who");
    Session session(converted);
    CHECK(session.kv_dtype() == KvDtype::float16);
    session.forward(prompt);
    const std::string file = saved(session);
    const GenerationConfig config{.max_new_tokens = 12, .logprobs = true};
    Session again = restored(Gpt2Model::load(test::novella()), file);
    const auto text = session.generate({}, config);
    const auto rest = again.generate({}, config);
    CHECK(rest.text == text.text);
    CHECK(rest.logprobs == text.logprobs);
    check_throws<FormatError>(
        [&] {
            (void)restored(Gpt2Model::load(test::novella(), {.weights = gpt2::WeightType::bfloat16}), file);
        },
        {"found one of another"});
    check_throws<FormatError>([&] { (void)restored(model(), file); }, {"found one of another"});
    std::string other = test::read_file(test::novella()); // by its checksum; that is not looked at here
    const std::size_t digit = other.find('"', other.find(':', other.find("gpt2.crc32"))) + 1;
    other[digit] = other[digit] == '0' ? '1' : '0';
    check_throws<FormatError>([&] { (void)restored(Gpt2Model::load(test::as_bytes(other)), file); },
                              {"found one of another"});
}

TEST_CASE("files that end early, and files with a wrong bit") {
    gpt2::Config config = test::odd_config();
    config.n_layer = 1; // fewer bytes to try
    const Gpt2Model small = make_model(config);
    Session session(small);
    session.forward(tokens(2));
    const std::string file = saved(session);
    const auto check = [&](std::string_view bytes) {
        check_throws<FormatError>([&] { (void)restored(small, bytes); }, {"\"memory"});
    };
    for (std::size_t size = 0; size < file.size(); ++size) {
        CAPTURE(size);
        check(std::string_view(file).substr(0, size));
    }
    check(file + '\0');
    REQUIRE(file.size() > 1024);
    for (std::size_t bit = 0; bit < 8 * file.size(); bit += bit < 8 * 512 ? 1 : 9) { // all of the header
        CAPTURE(bit);
        std::string flipped = file;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
        check(flipped);
    }
}

TEST_CASE("files with the right checksum that nobody saved") {
    const std::string& file = file_of_20();
    const auto edited = [&](const std::function<void(Json&)>& edit) {
        return forged(file, [&](Json& header, std::string&) { edit(header); });
    };
    CHECK(restored(model(), edited([](Json&) {})).position() == 20);
    refused("", {"memory", "safetensors"});
    refused(test::safetensors_bytes("{}", 0), {"expected a session", "gpt2.session_version"});
    refused(edited([](Json& h) { h["__metadata__"]["gpt2.session_version"] = "2"; }),
            {"expected session version 1", "found \"2\""});
    refused(edited([](Json& h) { h["__metadata__"].erase("gpt2.model"); }), {"\"gpt2.model\""});
    refused(edited([](Json& h) { h["__metadata__"]["gpt2.model"] = "x"; }), {"of this model", "\"x\""});
    for (const char* const name : {"tokens", "keys", "values"}) {
        refused(edited([&](Json& h) {
                    h["more"] = h[name];
                    h.erase(name);
                }),
                {name, "expected one of shape", "found none"});
    }
    refused(edited([](Json& h) {
                h["more"] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
            }),
            {"expected the tensors tokens, keys, values and logits, found others"});
    refused(edited([](Json& h) { h["tokens"]["dtype"] = "F32"; }), {"tokens", "expected element type I32"});
    refused(edited([](Json& h) { h["keys"]["dtype"] = "I32"; }),
            {"keys", "expected element type F32 or F16"});
    refused(edited([](Json& h) { h["values"]["dtype"] = "U32"; }), {"values", "expected element type F32"});
    refused(forged(file,
                   [](Json& h, std::string& data) { // half of what the type of the keys needs
                       const std::size_t begin = h["values"]["data_offsets"][0];
                       data.resize(begin + (data.size() - begin) / 2);
                       h["values"]["dtype"] = "F16";
                       h["values"]["data_offsets"][1] = data.size();
                   }),
            {"values", "expected element type F32", "F16"});
    refused(edited([](Json& h) { h["tokens"]["shape"] = {4, 5}; }), {"tokens", "shape", "[4, 5]"});
    refused(edited([](Json& h) { h["tokens"]["shape"] = std::size_t{1} << 62; }), {"tokens", "shape"});
    refused(edited([](Json& h) { h["tokens"]["shape"] = {std::size_t{1} << 62}; }), {"tokens"});
    refused(edited([](Json& h) { h["keys"]["shape"] = {3, 5, 9, 20}; }), {"keys", "[3, 5, 20, 9]"});
    refused(edited([](Json& h) { h["logits"]["shape"] = {1, 259}; }), {"logits", "[259]", "[1, 259]"});
    refused(with_number<std::int32_t>(file, "tokens", 19, 259), {"tokens", "below 259", "found 259"});
    refused(with_number<std::int32_t>(file, "tokens", 0, -1), {"tokens", "found -1"});
    const float infinity = std::numeric_limits<float>::infinity();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    refused(with_number(file, "logits", 258, nan), {"logits", "finite", "nan"});
    refused(with_number(file, "keys", 2699, infinity), {"memory", "layer 2", "range of float32", "inf"});
    refused(with_number(file, "values", 0, nan), {"memory", "layer 0", "nan"});
    const std::string halves = saved(read(model(), 20, KvDtype::float16));
    refused(with_number<std::uint16_t>(halves, "keys", 100, 0x7c00), {"memory", "layer 0", "inf"});
    refused(with_number<std::uint16_t>(halves, "values", 2699, 0xfe00), {"memory", "layer 2", "nan"});
}

TEST_CASE("more tokens than positions; logits of nothing") {
    gpt2::Config config = test::odd_config();
    const auto with_tokens = [&](std::size_t n, std::string_view from) {
        return forged(from, [&](Json& header, std::string& data) {
            data.clear();
            for (const auto& [name, tensor] : header.items()) {
                if (name != "__metadata__") {
                    if (name != "logits") {
                        tensor["shape"][name == "tokens" ? 0 : 2] = n;
                    }
                    const std::size_t size = name == "tokens"   ? n * 4
                                             : name == "logits" ? config.vocab_size * 4
                                                                : n * 3 * 45 * 4;
                    tensor["data_offsets"] = {data.size(), data.size() + size};
                    data.resize(data.size() + size);
                }
            }
        });
    };
    CHECK(restored(model(), with_tokens(150, file_of_20())).position() == 150);
    refused(with_tokens(151, file_of_20()), {"tokens", "at most 150", "found 151"});
    refused(with_tokens(0, file_of_20()), {"logits", "without tokens"});
}

TEST_CASE("files: replaced in one step, and errors that name them") {
    const test::TemporaryDirectory directory;
    Session session = read(model(), 5);
    session.save(directory / "session");
    session.forward(tokens(3, 2));
    session.save(directory / "session");
    CHECK(Session::restore(model(), directory / "session").position() == 8);
    CHECK(std::distance(std::filesystem::directory_iterator(directory.path()),
                        std::filesystem::directory_iterator()) == 1); // nothing else
    check_throws<gpt2::FileError>([&] { session.save(directory / "none" / "session"); },
                                  {"none", "cannot write"});
    std::filesystem::create_directory(directory / "folder");
    test::write_file(directory / "folder" / "x", "");
    check_throws<gpt2::FileError>([&] { session.save(directory / "folder"); }, {"folder", "cannot write"});
    CHECK_FALSE(std::filesystem::exists(directory / "folder.part"));
    check_throws<gpt2::FileError>([&] { (void)Session::restore(model(), directory / "nothing"); },
                                  {"nothing"});
    test::write_file(directory / "text", "Once upon a time");
    check_throws<FormatError>([&] { (void)Session::restore(model(), directory / "text"); }, {"text"});
    if (std::filesystem::exists("/dev/full")) {
        std::filesystem::create_symlink("/dev/full", directory / "full.part");
        check_throws<gpt2::FileError>([&] { session.save(directory / "full"); }, {"full", "cannot write"});
        CHECK_FALSE(std::filesystem::exists(directory / "full"));
    }
}

TEST_CASE("a checksum in pieces") {
    const std::string_view text = "Once upon a time";
    const std::uint32_t whole = gpt2::detail::crc32(test::as_bytes(text));
    CHECK(gpt2::detail::crc32(test::as_bytes("123456789")) == 0xcbf43926u); // the usual check value
    for (std::size_t cut = 0; cut <= text.size(); ++cut) {
        const std::uint32_t first = gpt2::detail::crc32(test::as_bytes(text.substr(0, cut)));
        CHECK(gpt2::detail::crc32(test::as_bytes(text.substr(cut)), first) == whole);
    }
}
