# SPDX-License-Identifier: MIT
"""What is accepted as a GPT-2, and what is refused, with key and value."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert import checkpoint
from gpt2_convert.checkpoint import ModelConfig, expected_shapes
from gpt2_convert.errors import ConvertError
from gpt2_convert.source_model import SourceModel
from gpt2_convert.tensors import TensorSource, of_array

CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.from_json(tiny_model.config(**changes), "config.json")


def check(weights: dict[str, Any], **changes: Any) -> checkpoint.Checkpoint:
    sources = {
        name: array if isinstance(array, TensorSource) else of_array(name, array, "weights")
        for name, array in weights.items()
    }
    return checkpoint.check(
        SourceModel("test", tiny_model.config(**changes), "config.json", sources, None, None)
    )


def refused(message: str, weights: dict[str, Any], **changes: Any) -> None:
    with pytest.raises(ConvertError) as error:
        check(weights, **changes)
    assert message in str(error.value)


# The configuration.


def test_defaults_are_those_of_transformers():
    assert ModelConfig.from_json({}, "config.json").to_json() == {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": 3072,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "tie_word_embeddings": True,
    }


def test_what_is_written_out_is_read_back():
    first = config(n_inner=20, tie_word_embeddings=False, eos_token_id=None, scale_attn_weights=False)
    assert ModelConfig.from_json(json.loads(json.dumps(first.to_json())), "again") == first


@pytest.mark.parametrize(
    "name, computed",
    [
        ("gelu_new", "gelu_new"),
        ("gelu_pytorch_tanh", "gelu_new"),
        ("gelu_fast", "gelu_new"),
        ("gelu", "gelu"),
        ("relu", "relu"),
    ],
)
def test_activations(name, computed):
    assert config(activation_function=name).activation_function == computed


def test_other_names_of_sizes():
    values = {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 5,
        "max_position_embeddings": 7,
    }
    found = ModelConfig.from_json(values, "config.json")
    assert (found.n_embd, found.n_head, found.n_layer, found.n_positions) == (24, 3, 5, 7)


def test_keys_that_change_nothing():
    """reorder_and_upcast_attn is about the accuracy of half-precision arithmetic alone."""
    assert (
        config(reorder_and_upcast_attn=True, resid_pdrop=0.5, summary_type="x", use_cache=False) == config()
    )


def test_scores():
    plain = config()
    assert [plain.score_scale(layer) for layer in range(2)] == [0.5, 0.5]
    assert config(scale_attn_weights=False).score_scale(1) == 1.0
    by_layer = config(scale_attn_by_inverse_layer_idx=True)
    assert [by_layer.score_scale(layer) for layer in range(2)] == [0.5, 0.25]


@pytest.mark.parametrize(
    "value, token", [(3, 3), (None, None), ([3], 3), (50256, None), (tiny_model.VOCAB_SIZE - 1, 259)]
)
def test_tokens_that_end_a_text(value, token):
    assert config(eos_token_id=value).eos_token_id == token


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("model_type", "gptj", '"gpt2"'),
        ("model_type", "gpt_neox", '"gpt2"'),
        ("model_type", None, '"gpt2"'),
        ("activation_function", "silu", "one of gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, relu"),
        ("activation_function", None, "one of gelu_new"),
        ("activation_function", ["relu"], "one of gelu_new"),
        ("add_cross_attention", True, "false"),
        ("is_encoder_decoder", True, "false"),
        ("pruned_heads", {"0": [1]}, "none"),
        ("quantization_config", {"bits": 4}, "none"),
        ("layer_norm_epsilon", 0, "a positive number of at most 1"),
        ("layer_norm_epsilon", -1e-5, "a positive number of at most 1"),
        ("layer_norm_epsilon", 1e-40, "a positive number of at most 1"),
        ("layer_norm_epsilon", 2, "a positive number of at most 1"),
        ("layer_norm_epsilon", "1e-5", "a positive number of at most 1"),
        ("layer_norm_epsilon", True, "a positive number of at most 1"),
        ("vocab_size", 0, "a whole number from 1 to 1048576"),
        ("vocab_size", 2**20 + 1, "a whole number from 1 to 1048576"),
        ("vocab_size", 260.0, "a whole number from 1 to 1048576"),
        ("vocab_size", True, "a whole number from 1 to 1048576"),
        ("n_embd", "8", "a whole number from 1 to 1048576"),
        ("n_positions", -1, "a whole number from 1 to 1048576"),
        ("n_layer", 4097, "a whole number from 1 to 4096"),
        ("n_layer", None, "a whole number from 1 to 4096"),
        ("n_inner", 0, "a whole number from 1 to 1048576"),
        ("n_inner", [32], "a whole number from 1 to 1048576"),
        ("n_head", 3, "a divisor of n_embd (8)"),
        ("n_head", 16, "a divisor of n_embd (8)"),
        ("hidden_size", 16, 'the value of "n_embd", 8'),
        ("num_hidden_layers", 12, 'the value of "n_layer", 2'),
        ("scale_attn_weights", None, "true or false"),
        ("scale_attn_by_inverse_layer_idx", 1, "true or false"),
        ("tie_word_embeddings", "yes", "true or false"),
        ("eos_token_id", 260, "null or one token of the vocabulary, 0 to 259"),
        ("eos_token_id", -1, "null or one token of the vocabulary, 0 to 259"),
        ("eos_token_id", [1, 2], "null or one token of the vocabulary, 0 to 259"),
        ("bos_token_id", "x", "null or one token of the vocabulary, 0 to 259"),
    ],
)
def test_values_that_stand_in_the_way(key, value, expected):
    with pytest.raises(ConvertError) as error:
        config(**{key: value})
    assert str(error.value).startswith(f'"config.json": "{key}": expected {expected}')
    assert str(error.value).endswith(f", found {json.dumps(value)}")


def test_what_is_shown_of_a_value_is_short():
    with pytest.raises(ConvertError) as error:
        config(activation_function="x" * 100_000)
    assert len(str(error.value)) < 500


# The tensors.


def test_tensors_in_the_order_of_the_computation():
    model = check(dict(reversed(WEIGHTS.items())))
    assert list(model.tensors) == list(expected_shapes(model.config, separate_head=False))
    assert not model.has_separate_head
    for name, array in WEIGHTS.items():
        assert model.tensors[name].name == name
        np.testing.assert_array_equal(model.tensors[name].read(), array)


def test_a_prefix_and_masks():
    weights: dict[str, Any] = {f"transformer.{name}": array for name, array in WEIGHTS.items()}
    weights["lm_head.weight"] = WEIGHTS["wte.weight"]
    masks = {"transformer.h.0.attn.bias": np.tril(np.ones((6, 6), np.float32))[None, None]}
    masks["transformer.h.1.attn.masked_bias"] = np.float32(-1e4)
    model = check({**weights, **masks})
    assert list(model.tensors) == list(WEIGHTS) and not model.has_separate_head


def test_a_mask_need_not_be_of_numbers():
    def load() -> Any:
        raise AssertionError("a mask was read")

    mask = TensorSource("h.0.attn.bias", "BOOL", (1, 1, 6, 6), "weights", load)
    assert list(check({**WEIGHTS, "h.0.attn.bias": mask}).tensors) == list(WEIGHTS)


def test_a_head_of_its_own():
    head = WEIGHTS["wte.weight"] + 1
    model = check({**WEIGHTS, "lm_head.weight": head}, tie_word_embeddings=False)
    assert model.has_separate_head and list(model.tensors)[-1] == "lm_head.weight"
    refused(
        'demands tensor "lm_head.weight" of shape [260, 8], found no such', WEIGHTS, tie_word_embeddings=False
    )


def test_a_head_beside_tied_embeddings():
    wte = WEIGHTS["wte.weight"]
    assert not check({**WEIGHTS, "lm_head.weight": wte.copy()}).has_separate_head
    other = wte.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(9))
    zeros = {**WEIGHTS, "wte.weight": np.zeros_like(wte), "lm_head.weight": np.full_like(wte, -0.0)}
    for weights in (
        {**WEIGHTS, "lm_head.weight": other},
        {**WEIGHTS, "lm_head.weight": wte.astype(np.float64)},
        zeros,
    ):
        refused(
            '"weights": tensor "lm_head.weight": expected a copy of "wte.weight", because "config.json" ties '
            'them, found other weights ("tie_word_embeddings": false there makes it the output head)',
            weights,
        )


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_every_tensor_is_needed(name):
    weights = {key: array for key, array in WEIGHTS.items() if key != name}
    shape = list(WEIGHTS[name].shape)
    refused(f'"config.json" demands tensor "{name}" of shape {shape}, found no such tensor', weights)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_every_shape_is_checked(name):
    array = WEIGHTS[name]
    wrong = np.zeros((*array.shape[:-1], array.shape[-1] + 1), np.float32)
    refused(
        f'"weights": tensor "{name}": expected shape {list(array.shape)}, found {list(wrong.shape)}',
        {**WEIGHTS, name: wrong},
    )
    refused(f"found {[1, *array.shape]}", {**WEIGHTS, name: array[None]})


def test_a_transposed_matrix_is_called_so():
    name = "h.1.attn.c_attn.weight"
    refused("expected shape [8, 24], found [24, 8] (transposed)", {**WEIGHTS, name: WEIGHTS[name].T})


def test_tensors_of_other_models():
    for name in ("h.0.ln_3.weight", "score.weight", "h.0.attn.q_attn.weight", "bias", "h.x.ln_1.weight"):
        refused(
            f'"weights": tensor "{name}": expected only the tensors of a GPT-2 language model',
            {**WEIGHTS, name: np.zeros(8, np.float32)},
        )


def test_more_layers_than_the_configuration_says():
    refused(
        'tensor "h.1.ln_1.weight": expected 1 layers (n_layer in "config.json"), found layer 1',
        WEIGHTS,
        n_layer=1,
    )
    refused('"config.json" demands tensor "h.2.ln_1.weight"', WEIGHTS, n_layer=3)


def test_a_tensor_with_and_without_the_prefix():
    refused(
        'tensor "transformer.wte.weight": expected every tensor once, found it with and without the prefix',
        {**WEIGHTS, "transformer.wte.weight": WEIGHTS["wte.weight"]},
    )


def test_nothing_is_read_for_the_check():
    def load() -> Any:
        raise AssertionError("a tensor was read")

    weights = {name: TensorSource(name, "F32", array.shape, "x", load) for name, array in WEIGHTS.items()}
    assert list(check(weights).tensors) == list(WEIGHTS)


def test_kinds_of_tensors():
    matrices = [name for name in expected_shapes(config(), separate_head=True) if checkpoint.is_matrix(name)]
    assert [name for name in matrices if not name.startswith("h.1.")] == [
        "wte.weight",
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
        "lm_head.weight",
    ]
    assert [name for name in matrices if checkpoint.is_embedding(name)] == ["wte.weight", "lm_head.weight"]
