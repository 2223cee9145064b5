// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/io/config_json.hpp>

#include "../tools/random_model.hpp"
#include "support/files.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

using namespace gpt2;
using namespace gpt2::test;

namespace {

ConfigJson parse(std::string_view text) {
    return parse_config(text, "dir/config.json");
}

void check_refused(std::string_view text, std::initializer_list<std::string_view> parts) {
    CAPTURE(text);
    check_throws<FormatError>([&] { (void)parse(text); }, parts);
    check_throws<FormatError>([&] { (void)parse(text); }, {"\"dir/config.json\"", "expected", "found"});
}

} // namespace

TEST_CASE("an empty object is the 124M model, as in transformers") {
    const ConfigJson json = parse("{}");
    const Config& c = json.config;
    CHECK(c.vocab_size == 50257);
    CHECK(c.n_positions == 1024);
    CHECK(c.n_embd == 768);
    CHECK(c.n_layer == 12);
    CHECK(c.n_head == 12);
    CHECK(c.n_inner == 3072);
    CHECK(c.layer_norm_epsilon == 1e-5f);
    CHECK(c.activation == Activation::gelu_tanh);
    CHECK(c.scale_attn_weights);
    CHECK_FALSE(c.scale_attn_by_inverse_layer_idx);
    CHECK(c.bos_token_id == 50256);
    CHECK(c.eos_token_id == 50256);
    CHECK(c.head_size() == 64);
    CHECK(json.tie_word_embeddings);
    CHECK(c == Config{.bos_token_id = 50256, .eos_token_id = 50256});
}

TEST_CASE("every key that matters is read") {
    const ConfigJson json =
        parse(R"({"vocab_size": 100, "n_positions": 32, "n_ctx": 7, "n_embd": 24, "n_layer": 3,
        "n_head": 6, "n_inner": 50, "layer_norm_epsilon": 1e-6, "activation_function": "relu",
        "scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true, "reorder_and_upcast_attn": true,
        "bos_token_id": 1, "eos_token_id": [99], "tie_word_embeddings": false, "model_type": "gpt2",
        "add_cross_attention": false, "architectures": ["GPT2LMHeadModel"], "pruned_heads": {},
        "task_specific_params": {"text-generation": {"do_sample": true}}, "torch_dtype": "float32"})");
    CHECK(json.config == Config{.vocab_size = 100,
                                .n_positions = 32,
                                .n_embd = 24,
                                .n_layer = 3,
                                .n_head = 6,
                                .n_inner = 50,
                                .layer_norm_epsilon = 1e-6f,
                                .activation = Activation::relu,
                                .scale_attn_weights = false,
                                .scale_attn_by_inverse_layer_idx = true,
                                .bos_token_id = 1,
                                .eos_token_id = 99});
    CHECK_FALSE(json.tie_word_embeddings);
}

TEST_CASE("n_inner null or absent is four times the embedding") {
    CHECK(parse(R"({"n_embd": 24, "n_head": 2, "n_inner": null})").config.n_inner == 96);
    CHECK(parse(R"({"n_embd": 24, "n_head": 2})").config.n_inner == 96);
}

TEST_CASE("other names of transformers' attribute_map are understood, contradictions are not") {
    const Config c = parse(R"({"hidden_size": 24, "max_position_embeddings": 9, "num_attention_heads": 3,
                               "num_hidden_layers": 5})")
                         .config;
    CHECK(c.n_embd == 24);
    CHECK(c.n_positions == 9);
    CHECK(c.n_head == 3);
    CHECK(c.n_layer == 5);
    CHECK(parse(R"({"hidden_size": 24, "n_embd": 24, "n_head": 2})").config.n_embd == 24);
    check_refused(R"({"hidden_size": 24, "n_embd": 48})", {"\"hidden_size\"", "\"n_embd\", 48", "found 24"});
}

TEST_CASE("all names of the tanh formula are accepted, and both other activations; the rest is named") {
    for (const char* name : {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"}) {
        CHECK(parse(std::string(R"({"activation_function": ")") + name + "\"}").config.activation ==
              Activation::gelu_tanh);
    }
    CHECK(parse(R"({"activation_function": "gelu"})").config.activation == Activation::gelu_erf);
    CHECK(parse(R"({"activation_function": "relu"})").config.activation == Activation::relu);
    for (const char* name : {"GELU", "gelu_10", "silu", "quick_gelu", "tanh", "", "GELU_NEW"}) {
        const std::string quoted = std::string("\"") + name + "\"";
        check_refused(R"({"activation_function": )" + quoted + "}",
                      {"\"activation_function\"", "found " + quoted});
    }
    check_refused(R"({"activation_function": null})", {"\"activation_function\"", "a string", "found null"});
}

TEST_CASE("special tokens: absent, null, one, several, outside") {
    CHECK_FALSE(parse(R"({"eos_token_id": null})").config.eos_token_id.has_value());
    CHECK(parse(R"({"eos_token_id": 0})").config.eos_token_id == 0);
    CHECK(parse(R"({"vocab_size": 50258})").config.eos_token_id == 50256);
    // the default of transformers beside a smaller vocabulary: nobody chose a token
    CHECK_FALSE(parse(R"({"vocab_size": 100})").config.eos_token_id.has_value());
    CHECK_FALSE(parse(R"({"vocab_size": 100, "eos_token_id": 50256})").config.eos_token_id.has_value());
    check_refused(R"({"vocab_size": 100, "eos_token_id": 100})",
                  {"\"eos_token_id\"", "0 to 99", "found 100"});
    check_refused(R"({"bos_token_id": -1})", {"\"bos_token_id\"", "0 to 50256", "found -1"});
    check_refused(R"({"eos_token_id": [1, 2]})", {"\"eos_token_id\"", "one token", "array of 2 elements"});
    check_refused(R"({"eos_token_id": []})", {"array of 0 elements"});
    check_refused(R"({"eos_token_id": 4294967296})", {"found 4294967296"});
    check_refused(R"({"eos_token_id": "x"})", {"found \"x\""});
    check_refused(R"({"eos_token_id": 1.0})", {"found 1.0"});
}

TEST_CASE("other models are refused by key and value") {
    check_refused(R"({"model_type": "llama"})", {"\"model_type\"", "\"gpt2\"", "found \"llama\""});
    check_refused(R"({"model_type": 2})", {"\"model_type\"", "a string", "found 2"});
    check_refused(R"({"add_cross_attention": true})", {"\"add_cross_attention\"", "false", "found true"});
    check_refused(R"({"is_encoder_decoder": true})", {"\"is_encoder_decoder\"", "found true"});
    check_refused(R"({"pruned_heads": {"0": [1]}})", {"\"pruned_heads\"", "an object"});
    check_refused(R"({"quantization_config": {"bits": 4}})", {"\"quantization_config\"", "an object"});
}

TEST_CASE("values of the wrong kind are refused by key and value") {
    for (const char* key :
         {"vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "hidden_size"}) {
        for (const char* value :
             {"0", "-1", "1.0", "1e3", "\"twelve\"", "[]", "{}", "true", "99999999999999999999"}) {
            const std::string text = std::string("{\"") + key + "\": " + value + "}";
            check_refused(text, {std::string("\"") + key + "\"", "a positive integer"});
        }
        check_refused(std::string("{\"") + key + "\": 18446744073709551615}",
                      {"expected 1 to", "found 18446744073709551615"});
    }
    check_refused(R"({"n_head": "twelve"})", {"\"n_head\": expected a positive integer, found \"twelve\""});
    check_refused(R"({"n_layer": null})", {"\"n_layer\"", "found null"});
    for (const char* key : {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"}) {
        check_refused(std::string("{\"") + key + "\": 1}", {key, "true or false", "found 1"});
        check_refused(std::string("{\"") + key + "\": \"true\"}", {key, "true or false", "found \"true\""});
    }
    for (const char* value : {"0", "0.0", "-1e-5", "1e-300", "2", "1e300"}) {
        check_refused(std::string("{\"layer_norm_epsilon\": ") + value + "}",
                      {"\"layer_norm_epsilon\"", "positive"});
    }
    check_refused(R"({"layer_norm_epsilon": "1e-5"})",
                  {"\"layer_norm_epsilon\"", "a number", "found \"1e-5\""});
}

TEST_CASE("shapes that cannot be are refused") {
    check_refused(R"({"n_head": 5})", {"\"n_head\"", "a divisor of n_embd (768)", "found 5"});
    check_refused(R"({"n_layer": 4097})", {"\"n_layer\"", "1 to 4096", "found 4097"});
    check_refused(R"({"n_embd": 1048577, "n_head": 1})", {"\"n_embd\"", "1 to 1048576", "found 1048577"});
    check_refused(R"({"n_positions": 1048577})", {"\"n_positions\"", "found 1048577"});
}

TEST_CASE("texts that are not JSON objects are refused with the place") {
    check_refused("", {"at byte 0", "empty"});
    check_refused(" ", {"at byte", "valid JSON"});
    check_refused("[]", {"a JSON object", "array"});
    check_refused("12", {"a JSON object", "found 12"});
    check_refused("model: gpt2", {"at byte", "valid JSON"});
    check_refused("{\"n_layer\": 12", {"at byte", "line 1", "end of input"});
    check_refused("{\n\"n_layer\": 12,\n}", {"line 3"});
    check_refused("{} {}", {"at byte"});
    check_refused("{} // comment", {"at byte"});
    check_refused(std::string_view("{}\0\0", 4), {"at byte 2", "zero byte"});
    check_refused("{\"model_type\": \"gpt\xff\"}", {"at byte", "UTF-8", "\\xff"});
    check_refused("\xff\xfe{\0}\0", {"at byte", "valid JSON"});
    check_refused(R"({"n_layer": 12, "n_layer": 12})", {"at byte 25", "\"n_layer\" twice"});
    check_refused(R"({"task": {"a": 1, "a": 2}})", {"\"a\" twice"});
    check_refused("{\"a\": " + std::string(100, '[') + std::string(100, ']') + "}", {"64 levels"});
    const std::string text = R"({"vocab_size": 100, "n_embd": 24, "n_head": 2})";
    for (std::size_t length = 0; length < text.size(); ++length) {
        check_refused(text.substr(0, length), {"at byte"});
    }
}

TEST_CASE("validate() holds for configurations that no file produced") {
    const auto check = [](auto change, std::string_view key) {
        Config config;
        change(config);
        check_throws<FormatError>([&] { validate(config, "mine"); }, {"\"mine\"", key, "expected", "found"});
    };
    validate(Config{}, "mine");
    check([](Config& c) { c.n_layer = 0; }, "\"n_layer\"");
    check([](Config& c) { c.n_inner = 0; }, "\"n_inner\"");
    check([](Config& c) { c.n_head = 7; }, "\"n_head\"");
    check([](Config& c) { c.layer_norm_epsilon = std::numeric_limits<float>::quiet_NaN(); },
          "\"layer_norm_epsilon\"");
    check([](Config& c) { c.layer_norm_epsilon = -1e-5f; }, "\"layer_norm_epsilon\"");
    check([](Config& c) { c.eos_token_id = 50257; }, "\"eos_token_id\"");
    check([](Config& c) { c.bos_token_id = -1; }, "\"bos_token_id\"");
}

TEST_CASE("a written configuration is read back as it was") {
    for (const char* name : {"124M", "355M", "774M", "1558M", "novella", "tiny"}) {
        Config config = tools::config_by_name(name).value();
        config.layer_norm_epsilon = 3.3e-6f;
        config.scale_attn_by_inverse_layer_idx = true;
        config.bos_token_id.reset();
        for (const auto activation : {Activation::gelu_tanh, Activation::gelu_erf, Activation::relu}) {
            config.activation = activation;
            const ConfigJson json = parse(tools::config_json_text(config, false));
            CHECK(json.config == config);
            CHECK_FALSE(json.tie_word_embeddings);
        }
    }
}
