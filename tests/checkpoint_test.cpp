// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/float16.hpp>
#include <gpt2/io/checkpoint.hpp>

#include "../tools/random_model.hpp"
#include "support/files.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <sys/stat.h>
#endif

using namespace gpt2;
using namespace gpt2::test;
using gpt2::tools::RandomModelOptions;
using gpt2::tools::RandomTensor;
using gpt2::tools::write_random_model;

namespace {

Config small_config() {
    Config config;
    config.vocab_size = 11;
    config.n_positions = 5;
    config.n_embd = 6;
    config.n_layer = 2;
    config.n_head = 3;
    config.n_inner = 7;
    config.eos_token_id = 10;
    return config;
}

/// The tensors of a model, to be damaged and put together again.
struct Parts {
    struct Part {
        std::string dtype = "F32";
        std::vector<std::size_t> shape;
        std::string data;
    };
    Config config = small_config();
    std::optional<bool> tied; ///< absent: the key is not written
    std::map<std::string, Part> tensors;

    Parts() {
        for (const ExpectedTensor& tensor : expected_tensors(config, false)) {
            std::size_t size = sizeof(float);
            for (const std::size_t extent : tensor.shape) {
                size *= extent;
            }
            tensors[tensor.name] = {"F32", tensor.shape, std::string(size, '\1')};
        }
    }

    [[nodiscard]] std::string model() const {
        std::string header = "{";
        std::string data;
        for (const auto& [name, part] : tensors) {
            header += detail::concat(header.size() > 1 ? "," : "", "\"", name, "\":{\"dtype\":\"", part.dtype,
                                     "\",\"shape\":", shape_text(part.shape), ",\"data_offsets\":[",
                                     data.size(), ",", data.size() + part.data.size(), "]}");
            data += part.data;
        }
        return safetensors_bytes(header + "}", 0) + data;
    }
    [[nodiscard]] std::string config_text() const {
        const std::string text = tools::config_json_text(config, tied.value_or(true));
        return tied ? text : replaced(text, "  \"tie_word_embeddings\": true,\n", "");
    }
    void write(const std::filesystem::path& directory) const {
        std::filesystem::create_directories(directory);
        write_file(directory / "config.json", config_text());
        write_file(directory / "model.safetensors", model());
    }
    void check_refused(std::initializer_list<std::string_view> parts) const {
        const std::string bytes = model();
        const std::string text = config_text();
        const auto load = [&] { (void)Checkpoint::from_bytes(text, as_bytes(bytes), "dir"); };
        check_throws<FormatError>(load, parts);
        check_throws<FormatError>(load, {"\"dir/", "expected", "found"});
    }
};

float element(const CheckpointTensor& tensor, std::size_t i) {
    const std::byte* at = tensor.data.data() + i * dtype_bits(tensor.dtype) / 8;
    if (tensor.dtype == Dtype::F32) {
        float value = 0;
        std::memcpy(&value, at, sizeof value);
        return value;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, at, sizeof bits);
    if (tensor.dtype == Dtype::F16) {
        half value;
        value.bits = bits;
        return static_cast<float>(value);
    }
    bfloat16 value;
    value.bits = bits;
    return static_cast<float>(value);
}

/// Every element is what the writer made, rounded to the file's type.
void check_contents(const Checkpoint& checkpoint, const Config& config, Dtype dtype, std::uint64_t seed) {
    CHECK(checkpoint.config() == config);
    for (const ExpectedTensor& expected : expected_tensors(config, checkpoint.has_separate_head())) {
        const CheckpointTensor& tensor = checkpoint.tensor(expected.name, expected.shape);
        CAPTURE(expected.name);
        CHECK(tensor.dtype == dtype);
        const RandomTensor values(expected.name, config, seed);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < tensor.size(); ++i) {
            const float value = values(i);
            const float rounded = dtype == Dtype::F16    ? static_cast<float>(half(value))
                                  : dtype == Dtype::BF16 ? static_cast<float>(bfloat16(value))
                                                         : value;
            wrong += element(tensor, i) == rounded ? 0 : 1;
        }
        CHECK(wrong == 0);
        CHECK_FALSE(first_non_finite(tensor).has_value());
    }
}

} // namespace

TEST_CASE("directories of every kind are read: type, prefix, head, shards, alignment") {
    const TemporaryDirectory directory;
    const Config config = small_config();
    std::uint64_t seed = 0;
    for (const Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
        for (const bool prefix : {false, true}) {
            for (const bool tied : {true, false}) {
                for (const std::size_t shards : {1u, 2u, 5u, 26u}) {
                    RandomModelOptions options;
                    options.dtype = dtype;
                    options.prefix = prefix;
                    options.tied = tied;
                    options.shards = shards;
                    options.seed = ++seed;
                    options.header_padding = seed % 5;
                    write_random_model(directory / "model", config, options);
                    const Checkpoint checkpoint = Checkpoint::open(directory / "model");
                    CHECK(checkpoint.has_separate_head() == !tied);
                    check_contents(checkpoint, config, dtype, seed);
                }
            }
        }
    }
}

TEST_CASE("random weights have the scale of GPT-2 and depend on seed and name") {
    const Config config = tools::config_by_name("tiny").value();
    const auto moments = [&](std::string_view name) {
        const RandomTensor values(name, config, 3);
        double sum = 0;
        double squares = 0;
        constexpr std::size_t n = 100'000;
        for (std::size_t i = 0; i < n; ++i) {
            const double x = values(i);
            sum += x;
            squares += x * x;
        }
        const double mean = sum / n;
        return std::pair(mean, std::sqrt(squares / n - mean * mean));
    };
    CHECK(moments("wte.weight").first == doctest::Approx(0).epsilon(0.001));
    CHECK(moments("wte.weight").second == doctest::Approx(0.02).epsilon(0.02));
    CHECK(moments("h.1.mlp.c_proj.weight").second == doctest::Approx(0.01).epsilon(0.02)); // 2 layers
    CHECK(moments("h.1.ln_2.weight").first == doctest::Approx(1).epsilon(0.001));
    CHECK(moments("h.1.ln_2.weight").second == doctest::Approx(0.02).epsilon(0.02));
    CHECK(moments("h.1.ln_2.bias").first == doctest::Approx(0).epsilon(0.001));
    CHECK(RandomTensor("a", config, 1)(0) == RandomTensor("a", config, 1)(0));
    CHECK(RandomTensor("a", config, 1)(0) != RandomTensor("a", config, 2)(0));
    CHECK(RandomTensor("a", config, 1)(0) != RandomTensor("b", config, 1)(0));
}

TEST_CASE("a checkpoint from memory, and tensors that outlive the checkpoint") {
    const TemporaryDirectory directory;
    write_random_model(directory.path(), small_config());
    const std::string config = read_file(directory / "config.json");
    const std::string model = read_file(directory / "model.safetensors");
    check_contents(Checkpoint::from_bytes(config, as_bytes(model)), small_config(), Dtype::F32, 0);
    std::optional<Checkpoint> checkpoint = Checkpoint::open(directory.path());
    const CheckpointTensor kept = checkpoint->tensor("ln_f.bias");
    checkpoint.reset();
    CHECK(element(kept, 5) == RandomTensor("ln_f.bias", small_config(), 0)(5));
    CHECK(kept.file.ends_with("model.safetensors"));
}

TEST_CASE("asking for a tensor that is not there, or of another shape, is an error") {
    const Parts parts;
    const std::string model = parts.model();
    const Checkpoint checkpoint = Checkpoint::from_bytes(parts.config_text(), as_bytes(model));
    check_throws<OptionError>([&] { (void)checkpoint.tensor("h.2.ln_1.bias"); },
                              {"memory/", "\"h.2.ln_1.bias\""});
    check_throws<OptionError>([&] { (void)checkpoint.tensor("lm_head.weight"); }, {"\"lm_head.weight\""});
    check_throws<FormatError>(
        [&] {
            (void)checkpoint.tensor("wpe.weight", {6, 5});
        },
        {"\"wpe.weight\"", "expected shape [6, 5]", "found [5, 6]"});
    CHECK(checkpoint.tensor("wpe.weight", {5, 6}).size() == 30);
}

TEST_CASE("mask buffers are left out, whatever they are") {
    Parts parts;
    parts.tensors["h.0.attn.bias"] = {"BOOL", {1, 1, 5, 5}, std::string(25, '\1')};
    parts.tensors["transformer.h.1.attn.bias"] = {"U8", {1, 1, 5, 5}, std::string(25, '\1')};
    parts.tensors["h.1.attn.masked_bias"] = {"F32", {}, std::string(4, '\0')};
    const std::string model = parts.model();
    const Checkpoint checkpoint = Checkpoint::from_bytes(parts.config_text(), as_bytes(model));
    CHECK_THROWS_AS((void)checkpoint.tensor("h.0.attn.bias"), OptionError);
}

TEST_CASE("each tensor is missed by name") {
    const Parts whole;
    for (const auto& [name, part] : whole.tensors) {
        Parts parts;
        parts.tensors.erase(name);
        parts.check_refused({"\"dir/model.safetensors\"",
                             "expected tensor \"" + name + "\" of shape " + shape_text(part.shape),
                             "\"dir/config.json\"", "found no such tensor"});
    }
}

TEST_CASE("each tensor's shape and type are checked") {
    const Parts whole;
    for (const auto& [name, part] : whole.tensors) {
        Parts parts;
        parts.tensors[name].shape.push_back(1);
        parts.check_refused({"\"dir/model.safetensors\"", "tensor \"" + name + "\"",
                             "expected shape " + shape_text(part.shape),
                             "found " + shape_text(parts.tensors[name].shape)});
        parts = {};
        parts.tensors[name].dtype = "I32";
        parts.check_refused(
            {"\"dir/model.safetensors\"", "tensor \"" + name + "\"", "F32, F16 or BF16", "found I32"});
    }
    Parts parts;
    parts.tensors["h.0.attn.c_attn.weight"].shape = {18, 6};
    parts.check_refused({"expected shape [6, 18]", "found [18, 6] (transposed)"});
    parts = {};
    parts.config.vocab_size = 12;
    parts.check_refused({"\"wte.weight\"", "expected shape [12, 6]", "found [11, 6]"});
    for (const char* dtype : {"F64", "F8_E4M3"}) {
        parts = {};
        auto& tensor = parts.tensors["ln_f.bias"];
        tensor.dtype = dtype;
        tensor.data.resize(dtype == std::string_view("F64") ? 48 : 6);
        parts.check_refused({"\"ln_f.bias\"", std::string("found ") + dtype});
    }
}

TEST_CASE("tensors that the model would not use are refused") {
    for (const char* name :
         {"score.weight", "h.0.crossattention.c_attn.weight", "h.0.attn.q_proj.weight", "lm_head.bias",
          "transformer.lm_head.weight", "model.embed_tokens.weight", "h.01.ln_1.weight", "h.", "h.0",
          "h.x.ln_1.weight", "h.-1.ln_1.weight", "h.99999999999999999999999.a", ""}) {
        Parts parts;
        parts.tensors[name] = {"F32", {1}, std::string(4, '\0')};
        parts.check_refused({"\"dir/model.safetensors\"", std::string("tensor \"") + name + "\"", "GPT-2"});
    }
    Parts parts;
    parts.tensors["transformer.ln_f.bias"] = parts.tensors["ln_f.bias"];
    parts.check_refused({"\"transformer.ln_f.bias\"", "every tensor once"});
}

TEST_CASE("more layers than the configuration has are refused, fewer too") {
    Parts parts;
    parts.config.n_layer = 1;
    parts.check_refused(
        {"tensor \"h.1.", "expected 1 layers (n_layer in \"dir/config.json\")", "found layer 1"});
    parts = {};
    parts.config.n_layer = 3;
    parts.check_refused({"expected tensor \"h.2.ln_1.weight\"", "found no such tensor"});
}

TEST_CASE("the head: tied, separate, a copy, a contradiction") {
    Parts parts;
    const auto separate = [&] {
        const std::string model = parts.model();
        return Checkpoint::from_bytes(parts.config_text(), as_bytes(model), "dir").has_separate_head();
    };
    CHECK_FALSE(separate());
    parts.tied = true;
    CHECK_FALSE(separate());
    parts.tied = false;
    parts.check_refused({"expected tensor \"lm_head.weight\" of shape [11, 6]", "found no such tensor"});

    parts.tensors["lm_head.weight"] = parts.tensors["wte.weight"];
    CHECK(separate());
    parts.tied = true;
    CHECK_FALSE(separate());
    parts.tied.reset();
    CHECK_FALSE(separate());
    const std::string copied = parts.model();
    CHECK_THROWS_AS(
        (void)Checkpoint::from_bytes(parts.config_text(), as_bytes(copied)).tensor("lm_head.weight"),
        OptionError);

    parts.tensors["lm_head.weight"].data.back() = '\2';
    parts.check_refused({"\"lm_head.weight\"", "a copy of \"wte.weight\"", "tie_word_embeddings"});
    parts.tied = true;
    parts.check_refused({"\"lm_head.weight\"", "a copy of \"wte.weight\""});
    parts.tied = false;
    CHECK(separate());
    parts.tensors["lm_head.weight"].shape = {6, 11};
    parts.check_refused({"\"lm_head.weight\"", "expected shape [11, 6]", "found [6, 11]"});
}

TEST_CASE("weights that are not finite are found, wherever they are and whatever else is there") {
    for (const Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
        const std::size_t width = dtype_bits(dtype) / 8;
        const auto put = [&](std::string& bytes, std::size_t i, float value) {
            const auto f = static_cast<half>(value);
            const auto b = static_cast<bfloat16>(value);
            const void* source = dtype == Dtype::F32   ? static_cast<const void*>(&value)
                                 : dtype == Dtype::F16 ? static_cast<const void*>(&f.bits)
                                                       : static_cast<const void*>(&b.bits);
            std::memcpy(bytes.data() + i * width, source, width);
        };
        const auto scan = [&](const std::string& bytes) {
            return CheckpointTensor{"t", "f", dtype, {bytes.size() / width}, as_bytes(bytes), nullptr};
        };
        for (const std::size_t n : {1u, 2u, 3u, 1023u, 1024u, 2048u, 2049u, 5000u}) {
            std::string bytes(n * width, '\0');
            for (std::size_t i = 0; i < n;
                 ++i) { // the largest finite numbers of either sign, zeros, subnormals
                const float largest = dtype == Dtype::F16 ? 65504.0f : 3.3895314e38f;
                put(bytes, i, i % 4 == 0 ? largest : i % 4 == 1 ? -largest : i % 4 == 2 ? -0.0f : 1e-7f);
            }
            CHECK_FALSE(first_non_finite(scan(bytes)).has_value());
            for (std::size_t i = 0; i < n; i += 1 + n / 37) {
                for (const float value :
                     {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
                    std::string bad = bytes;
                    put(bad, i, value);
                    CHECK(first_non_finite(scan(bad)) == i);
                    put(bad, n - 1, value);
                    CHECK(first_non_finite(scan(bad)) == i);
                }
            }
        }
        CHECK_FALSE(first_non_finite(scan("")).has_value());
    }
}

TEST_CASE("every bit pattern of 16 bits is judged right") {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const auto low = static_cast<std::uint16_t>(bits);
        std::string bytes(2, '\0');
        std::memcpy(bytes.data(), &low, 2);
        half f;
        bfloat16 b;
        f.bits = b.bits = low;
        const bool f16 = first_non_finite({"t", "f", Dtype::F16, {1}, as_bytes(bytes), nullptr}).has_value();
        const bool bf16 =
            first_non_finite({"t", "f", Dtype::BF16, {1}, as_bytes(bytes), nullptr}).has_value();
        if (f16 == std::isfinite(static_cast<float>(f)) || bf16 == std::isfinite(static_cast<float>(b))) {
            FAIL_CHECK("wrong for ", bits);
        }
    }
}

TEST_CASE("the error for weights that are not finite says where and what") {
    const auto check = [](float value, std::string_view found) {
        Parts parts;
        std::memcpy(parts.tensors["wpe.weight"].data.data() + 7 * sizeof value, &value, sizeof value);
        const std::string model = parts.model();
        const Checkpoint checkpoint = Checkpoint::from_bytes(parts.config_text(), as_bytes(model), "dir");
        require_finite(checkpoint.tensor("wte.weight"));
        check_throws<FormatError>([&] { require_finite(checkpoint.tensor("wpe.weight")); },
                                  {"\"dir/model.safetensors\"", "\"wpe.weight\"", "[5, 6]", "expected finite",
                                   found, "at element 7"});
    };
    check(std::numeric_limits<float>::quiet_NaN(), "found NaN");
    check(std::numeric_limits<float>::infinity(), "found infinity");
    check(-std::numeric_limits<float>::infinity(), "found -infinity");
}

TEST_CASE("places that are no model directory are refused with help") {
    const TemporaryDirectory directory;
    check_throws<FileError>(
        [&] { (void)Checkpoint::open(directory / "missing"); },
        {"/missing\"", "or a directory with config.json", "found nothing", "No such file"});
    Parts().write(directory / "model");
    check_throws<FileError>([&] { (void)Checkpoint::open(directory / "model/model.safetensors"); },
                            {"model.safetensors\"", "expected a directory", "found a file", "/model\")"});
    std::filesystem::remove(directory / "model/config.json");
    check_throws<FileError>([&] { (void)Checkpoint::open(directory / "model"); },
                            {"config.json\"", "No such file"});
    std::filesystem::create_directory(directory / "model/config.json");
    check_throws<FileError>([&] { (void)Checkpoint::open(directory / "model"); },
                            {"config.json\"", "expected a regular file", "found a directory"});
}

TEST_CASE("weights that are absent, empty or no regular file are refused by name") {
    const TemporaryDirectory directory;
    const std::filesystem::path weights = directory / "model.safetensors";
    const auto open = [&] { (void)Checkpoint::open(directory.path()); };
    Parts().write(directory.path());
    (void)Checkpoint::open(directory.path());
    std::filesystem::remove(weights);
    check_throws<FileError>(
        open, {directory.path().filename().string(), "expected model.safetensors", "found neither"});
    write_file(directory / "pytorch_model.bin", "x");
    check_throws<FileError>(open, {"expected model.safetensors", "found pytorch_model.bin", "converted"});
    write_file(weights, "");
    check_throws<FormatError>(open, {"model.safetensors\"", "expected", "found a file of 0 bytes"});
    std::filesystem::remove(weights);
    std::filesystem::create_directory(weights);
    check_throws<FileError>(open, {"model.safetensors\"", "expected a regular file", "found a directory"});
#if !defined(_WIN32)
    std::filesystem::remove(weights);
    REQUIRE(::mkfifo(weights.c_str(), 0600) == 0);
    check_throws<FileError>(open, {"model.safetensors\"", "expected a regular file", "found a pipe"});
    std::filesystem::remove(weights);
    std::filesystem::create_symlink("nowhere", weights);
    check_throws<FileError>(open, {"model.safetensors\"", "cannot open", "No such file"});
#endif
}

TEST_CASE("a weights file cut anywhere is refused") {
    const TemporaryDirectory directory;
    Parts().write(directory.path());
    const std::string model = Parts().model();
    const std::filesystem::path weights = directory / "model.safetensors";
    std::uint64_t header = 0;
    std::memcpy(&header, model.data(), sizeof header);
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{9}, std::size_t{7 + header},
          std::size_t{8 + header}, std::size_t{9 + header}, model.size() / 2 + header / 2,
          model.size() - 1}) {
        CAPTURE(length);
        write_file(weights, model.substr(0, length));
        check_throws<FormatError>([&] { (void)Checkpoint::open(directory.path()); },
                                  {"model.safetensors\"", "expected", "found"});
    }
}

TEST_CASE("an index must be right about every tensor, and its files must lie beside it") {
    const TemporaryDirectory directory;
    RandomModelOptions options;
    options.shards = 3;
    write_random_model(directory.path(), small_config(), options);
    const std::filesystem::path index = directory / "model.safetensors.index.json";
    const std::string good = read_file(index);
    const std::string first = "model-00001-of-00003.safetensors";
    const std::string second = "model-00002-of-00003.safetensors";
    const auto refused = [&]<class E>(E*, const std::string& text,
                                      std::initializer_list<std::string_view> parts) {
        write_file(index, text);
        check_throws<E>([&] { (void)Checkpoint::open(directory.path()); }, parts);
    };
    constexpr FormatError* format = nullptr;
    constexpr FileError* file = nullptr;
    check_contents(Checkpoint::open(directory.path()), small_config(), Dtype::F32, 0);

    for (const char* name :
         {"../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..\\\\b.safetensors",
          "C:b.safetensors", "", "..", "weights.bin", "a\\u0000.safetensors", "..safetensors"}) {
        CAPTURE(name);
        refused(format, replaced(good, first, name),
                {"index.json\"", "\"weight_map\"", "\"wte.weight\"",
                 "expected the name of a .safetensors file in the same"});
    }
    refused(format, replaced(good, "\"" + first + "\"", "7"),
            {"\"wte.weight\"", "expected a string", "found 7"});
    refused(format, replaced(good, first, second),
            {second, "expected tensor \"wte.weight\"", "index.json\"", "found no such tensor"});
    refused(file, replaced(good, first, "absent.safetensors"), {"/absent.safetensors\"", "cannot open"});
    refused(format, replaced(good, "\"wte.weight\": \"" + first + "\",\n", ""),
            {first, "\"wte.weight\"", "index.json\""});
    refused(format, replaced(good, "weight_map", "weights"), {"\"weight_map\"", "found nothing"});
    refused(format, "{\"weight_map\": []}", {"\"weight_map\"", "a JSON object", "array"});
    refused(format, "{\"weight_map\": {}}",
            {"index.json\"", "expected tensor \"wte.weight\"", "found no such tensor"});
    refused(format, "[]", {"index.json\"", "a JSON object"});
    refused(format, good.substr(0, good.size() / 2), {"index.json\"", "at byte"});
    refused(format, replaced(good, "\"wpe.weight\"", "\"wte.weight\""),
            {"index.json\"", "\"wte.weight\" twice"});

    write_file(index, good);
    std::filesystem::copy_file(directory / first, directory / second,
                               std::filesystem::copy_options::overwrite_existing);
    check_throws<FormatError>([&] { (void)Checkpoint::open(directory.path()); },
                              {second, "found no such tensor"});
    write_file(directory / second, "");
    check_throws<FormatError>([&] { (void)Checkpoint::open(directory.path()); },
                              {second, "found a file of 0 bytes"});
}

TEST_CASE("the single file wins over an index") {
    const TemporaryDirectory directory;
    write_random_model(directory.path(), small_config());
    write_file(directory / "model.safetensors.index.json", "not looked at");
    check_contents(Checkpoint::open(directory.path()), small_config(), Dtype::F32, 0);
}

TEST_CASE("the expected tensors of 124M are its parameters") {
    std::size_t parameters = 0;
    const auto list = expected_tensors(Config{}, false);
    for (const ExpectedTensor& tensor : list) {
        std::size_t count = 1;
        for (const std::size_t extent : tensor.shape) {
            count *= extent;
        }
        parameters += count;
    }
    CHECK(list.size() == 148);
    CHECK(parameters == 124'439'808); // V C + T C + 12 (12 C^2 + 13 C) + 2 C
}
