// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/json.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// @file
/// Hugging Face's `config.json`. Keys, defaults and other names of keys are those of transformers'
/// GPT2Config (`configuration_gpt2.py`) and its base class. Keys without a meaning for inference (dropout,
/// initialisation, summaries, labels, `n_ctx`, `reorder_and_upcast_attn`, which orders the operations of
/// half-precision training) are not looked at.

namespace gpt2 {

/// What a `config.json` says: the model's shape, and how its file relates to it.
struct ConfigJson {
    Config config;
    bool tie_word_embeddings = true; ///< the output head is the token embedding, `wte`
};

namespace detail {

/// Token id that transformers writes when nobody chose one: `<|endoftext|>` of the original vocabulary.
inline constexpr TokenId default_special_token = 50256;

/// The extent under @p key, or under the other name that transformers' attribute_map gives it.
[[nodiscard]] GPT2_COLD inline std::optional<std::size_t>
extent(const JsonObject& object, std::string_view key, std::string_view alias) {
    const std::optional<std::size_t> value = object.positive(key);
    const std::optional<std::size_t> other = object.positive(alias);
    if (value && other && *value != *other) {
        object.fail(alias, concat("the value of ", quoted(key), ", ", *value),
                    std::string_view(concat(*other)));
    }
    return value ? value : other;
}

[[nodiscard]] GPT2_COLD inline Activation read_activation(const JsonObject& object) {
    // gelu_pytorch_tanh and gelu_fast are other ways to compute the formula of gelu_new (transformers,
    // activations.py)
    constexpr std::array<std::pair<std::string_view, Activation>, 5> known{{
        {"gelu_new", Activation::gelu_tanh},
        {"gelu_pytorch_tanh", Activation::gelu_tanh},
        {"gelu_fast", Activation::gelu_tanh},
        {"gelu", Activation::gelu_erf},
        {"relu", Activation::relu},
    }};
    const std::string name = object.string("activation_function").value_or("gelu_new");
    for (const auto& [candidate, activation] : known) {
        if (name == candidate) {
            return activation;
        }
    }
    object.fail("activation_function", "gelu_new, gelu_pytorch_tanh, gelu_fast, gelu or relu",
                std::string_view(detail::quoted(std::string_view(name))));
}

/// A token id; nothing for null. A list of one id is that id. The default stands when the key is absent; the
/// default's value outside a smaller vocabulary is what transformers leaves there when nobody chose a token.
[[nodiscard]] GPT2_COLD inline std::optional<TokenId>
read_token(const JsonObject& object, std::string_view key, std::size_t vocab_size) {
    const Json* member = object.find(key);
    TokenId id = default_special_token;
    if (member != nullptr) {
        if (member->is_null()) {
            return std::nullopt;
        }
        const Json& value = member->is_array() && member->size() == 1 ? member->front() : *member;
        const std::optional<std::size_t> number = JsonObject::to_size(value);
        if (!number || *number >= vocab_size) {
            if (number && *number == static_cast<std::size_t>(default_special_token)) {
                return std::nullopt;
            }
            object.fail(key, concat("null or one token of the vocabulary, 0 to ", vocab_size - 1), *member);
        }
        id = static_cast<TokenId>(*number);
    }
    return static_cast<std::size_t>(id) < vocab_size ? std::optional(id) : std::nullopt;
}

/// Refuses what would change the computation or the file in a way that this library does not know.
GPT2_COLD inline void refuse_other_models(const JsonObject& object) {
    if (const auto type = object.string("model_type"); type && *type != "gpt2") {
        object.fail("model_type", "\"gpt2\"", *object.find("model_type"));
    }
    for (const std::string_view key : {"add_cross_attention", "is_encoder_decoder"}) {
        if (object.boolean(key).value_or(false)) {
            object.fail(key, "false (a decoder without an encoder)", *object.find(key));
        }
    }
    if (const Json* heads = object.find("pruned_heads"); heads != nullptr && !heads->empty()) {
        object.fail("pruned_heads", "none", *heads);
    }
    if (const Json* method = object.find("quantization_config"); method != nullptr && !method->is_null()) {
        object.fail("quantization_config", "none (weights as F32, F16 or BF16)", *method);
    }
}

} // namespace detail

/// Reads the text of a `config.json`. Absent keys have the defaults of transformers' GPT2Config, which are
/// those of the 124M model.
/// @param name  the file, for messages
/// @throws FormatError naming the file, the key, what was expected and what was found: not JSON, a value of
///         the wrong kind, a shape that cannot be, a model or an activation that this library does not
///         compute
GPT2_HEAVY [[nodiscard]] GPT2_COLD ConfigJson parse_config(std::string_view text, std::string_view name) {
    const detail::Json json = detail::parse_json(text, name);
    const detail::JsonObject object(json, detail::quoted(name, 4096));
    detail::refuse_other_models(object);

    ConfigJson result;
    Config& config = result.config;
    config.vocab_size = object.positive("vocab_size").value_or(config.vocab_size);
    config.n_positions =
        detail::extent(object, "n_positions", "max_position_embeddings").value_or(config.n_positions);
    config.n_embd = detail::extent(object, "n_embd", "hidden_size").value_or(config.n_embd);
    config.n_layer = detail::extent(object, "n_layer", "num_hidden_layers").value_or(config.n_layer);
    config.n_head = detail::extent(object, "n_head", "num_attention_heads").value_or(config.n_head);
    detail::check_extent(name, "n_embd", config.n_embd, detail::max_extent);
    detail::check_extent(name, "vocab_size", config.vocab_size, detail::max_extent);

    const detail::Json* inner = object.find("n_inner");
    config.n_inner = inner == nullptr || inner->is_null() ? 4 * config.n_embd : *object.positive("n_inner");
    const double epsilon = object.number("layer_norm_epsilon").value_or(1e-5);
    if (!(epsilon >= double{std::numeric_limits<float>::min()} && epsilon <= 1.0)) {
        object.fail("layer_norm_epsilon", "a positive number of at most 1",
                    *object.find("layer_norm_epsilon"));
    }
    config.layer_norm_epsilon = static_cast<float>(epsilon);
    config.activation = detail::read_activation(object);
    config.scale_attn_weights = object.boolean("scale_attn_weights").value_or(true);
    config.scale_attn_by_inverse_layer_idx =
        object.boolean("scale_attn_by_inverse_layer_idx").value_or(false);
    config.bos_token_id = detail::read_token(object, "bos_token_id", config.vocab_size);
    config.eos_token_id = detail::read_token(object, "eos_token_id", config.vocab_size);
    result.tie_word_embeddings = object.boolean("tie_word_embeddings").value_or(true);
    validate(config, name);
    return result;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE ConfigJson parse_config<void>(std::string_view, std::string_view);
#endif

} // namespace gpt2
