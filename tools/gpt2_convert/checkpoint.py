# SPDX-License-Identifier: MIT
"""A source's model, checked: the same rules for every format, and the same as the library's own loader."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Iterator

import numpy as np

from .errors import ConvertError
from .source_model import SourceModel
from .tensors import TensorSource

MAX_EXTENT = 1 << 20
MAX_LAYERS = 4096
DEFAULT_SPECIAL_TOKEN = 50256  #: what transformers' GPT2Config writes where nobody chose a token

#: Names of activations and what they are called here. gelu_pytorch_tanh and gelu_fast are other ways to
#: compute gelu_new (transformers, activations.py).
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu": "gelu",
    "relu": "relu",
}


class _ConfigReader:
    """Typed access to the keys of a config.json, with the defaults of transformers' GPT2Config."""

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self.values, self.name = values, name

    def fail(self, key: str, expected: str) -> ConvertError:
        found = json.dumps(self.values.get(key), ensure_ascii=False)
        return ConvertError(f'"{self.name}": "{key}": expected {expected}, found {found[:200]}')

    def extent(self, key: str, alias: str | None, default: int, most: int = MAX_EXTENT) -> int:
        keys = [name for name in (key, alias) if name is not None and name in self.values]
        for name in keys:
            if type(self.values[name]) is not int or not 1 <= self.values[name] <= most:
                raise self.fail(name, f"a whole number from 1 to {most}")
        if len(keys) == 2 and self.values[key] != self.values[keys[1]]:
            raise self.fail(keys[1], f'the value of "{key}", {self.values[key]}')
        return int(self.values[keys[0]]) if keys else default

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.fail(key, "true or false")
        return value

    def token(self, key: str, vocab_size: int) -> int | None:
        value = self.values.get(key, DEFAULT_SPECIAL_TOKEN)
        if value is None:
            return None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if type(value) is int and 0 <= value < vocab_size:
            return value
        if value == DEFAULT_SPECIAL_TOKEN:
            return None
        raise self.fail(key, f"null or one token of the vocabulary, 0 to {vocab_size - 1}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, under Hugging Face's names."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    layer_norm_epsilon: float
    activation_function: str  #: gelu_new, gelu or relu
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    bos_token_id: int | None
    eos_token_id: int | None
    tie_word_embeddings: bool

    @staticmethod
    def from_json(values: dict[str, Any], name: str) -> ModelConfig:
        """Refuses, with key and value, what would be computed differently."""
        reader = _ConfigReader(values, name)
        _refuse_other_models(reader)
        activation = values.get("activation_function", "gelu_new")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise reader.fail("activation_function", "one of " + ", ".join(ACTIVATIONS))
        epsilon = values.get("layer_norm_epsilon", 1e-5)
        if type(epsilon) not in (int, float) or not 2.0**-126 <= epsilon <= 1.0:
            raise reader.fail("layer_norm_epsilon", "a positive number of at most 1")
        vocab_size = reader.extent("vocab_size", None, 50257)
        n_embd = reader.extent("n_embd", "hidden_size", 768)
        n_head = reader.extent("n_head", "num_attention_heads", 12)
        if n_embd % n_head != 0:
            raise reader.fail("n_head", f"a divisor of n_embd ({n_embd})")
        has_inner = values.get("n_inner") is not None
        return ModelConfig(
            vocab_size=vocab_size,
            n_positions=reader.extent("n_positions", "max_position_embeddings", 1024),
            n_embd=n_embd,
            n_layer=reader.extent("n_layer", "num_hidden_layers", 12, MAX_LAYERS),
            n_head=n_head,
            n_inner=reader.extent("n_inner", None, 0) if has_inner else 4 * n_embd,
            layer_norm_epsilon=float(epsilon),
            activation_function=ACTIVATIONS[activation],
            scale_attn_weights=reader.boolean("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=reader.boolean("scale_attn_by_inverse_layer_idx", False),
            bos_token_id=reader.token("bos_token_id", vocab_size),
            eos_token_id=reader.token("eos_token_id", vocab_size),
            tie_word_embeddings=reader.boolean("tie_word_embeddings", True),
        )

    def to_json(self) -> dict[str, Any]:
        """Every key written out, so that nothing depends on a default."""
        return {"model_type": "gpt2", **self.__dict__}

    def score_scale(self, layer: int) -> float:
        """What attention scores are multiplied with."""
        scale = 1.0 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


def _refuse_other_models(reader: _ConfigReader) -> None:
    values = reader.values
    if values.get("model_type", "gpt2") != "gpt2":
        raise reader.fail("model_type", '"gpt2"')
    for key in ("add_cross_attention", "is_encoder_decoder"):
        if values.get(key):
            raise reader.fail(key, "false (a decoder without an encoder)")
    if values.get("pruned_heads"):
        raise reader.fail("pruned_heads", "none")
    if values.get("quantization_config") is not None:
        raise reader.fail("quantization_config", "none (weights as F32, F16 or BF16)")


def expected_shapes(config: ModelConfig, separate_head: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of a model, in the order of the computation. Linear weights are [in, out]."""
    c, f = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, c),
        "wpe.weight": (config.n_positions, c),
    }
    for layer in range(config.n_layer):
        block = {
            "ln_1": (c,),
            "attn.c_attn": (c, 3 * c),
            "attn.c_proj": (c, c),
            "ln_2": (c,),
            "mlp.c_fc": (c, f),
            "mlp.c_proj": (f, c),
        }
        for name, shape in block.items():
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (c,)
    if separate_head:
        shapes["lm_head.weight"] = (config.vocab_size, c)
    return shapes


def is_matrix(name: str) -> bool:
    """Whether a tensor is the matrix of a product, which is stored in panels and rounded to --dtype."""
    return name.endswith(
        (
            ".c_attn.weight",
            ".c_proj.weight",
            ".c_fc.weight",
            "wte.weight",
            "lm_head.weight",
        )
    )


def is_embedding(name: str) -> bool:
    """Whether a matrix is [out, in] in a checkpoint."""
    return name in ("wte.weight", "lm_head.weight")


@dataclass
class Checkpoint:
    """A model that can be converted: every tensor there, of its shape, under its plain name."""

    source: SourceModel
    config: ModelConfig
    tensors: dict[str, TensorSource]  #: as expected_shapes() has them

    @property
    def has_separate_head(self) -> bool:
        return "lm_head.weight" in self.tensors


def check(source: SourceModel) -> Checkpoint:
    """Applies the rules of the library's directory loader (io/checkpoint.hpp)."""
    config = ModelConfig.from_json(source.config, source.config_name)
    found = dict(_plain_names(source, config))
    expected = expected_shapes(config, separate_head=True)
    for name, tensor in found.items():
        if name not in expected:
            raise ConvertError(
                f'"{tensor.where}": tensor "{name}": expected only the tensors of a GPT-2 language model'
            )
        if tensor.shape != expected[name]:
            transposed = " (transposed)" if tensor.shape == expected[name][::-1] else ""
            raise ConvertError(
                f'"{tensor.where}": tensor "{name}": expected shape {list(expected[name])}, '
                f"found {list(tensor.shape)}{transposed}"
            )
    for name in expected_shapes(config, separate_head=not config.tie_word_embeddings):
        if name not in found:
            raise ConvertError(
                f'"{source.config_name}" demands tensor "{name}" of shape {list(expected[name])}, '
                "found no such tensor"
            )
    if config.tie_word_embeddings and "lm_head.weight" in found:
        _require_copy(found.pop("lm_head.weight"), found["wte.weight"], source.config_name)
    return Checkpoint(source, config, {name: found[name] for name in expected if name in found})


def _plain_names(source: SourceModel, config: ModelConfig) -> Iterator[tuple[str, TensorSource]]:
    """Names without the prefix, masks left out."""
    seen: dict[str, str] = {}
    for full_name, tensor in source.tensors.items():
        name = full_name
        if name.startswith("transformer.") and name != "transformer.lm_head.weight":
            name = name[len("transformer.") :]
        parts = name.split(".")
        if parts[0] == "h" and len(parts) > 2 and parts[1].isdigit():
            if int(parts[1]) >= config.n_layer:
                raise ConvertError(
                    f'"{tensor.where}": tensor "{full_name}": expected {config.n_layer} layers (n_layer in '
                    f'"{source.config_name}"), found layer {parts[1]}'
                )
            if parts[2:] in (["attn", "bias"], ["attn", "masked_bias"]):
                continue  # the causal mask and the value behind it, constants of the computation
        if name in seen:
            raise ConvertError(
                f'"{tensor.where}": tensor "{full_name}": expected every tensor once, '
                'found it with and without the prefix "transformer."'
            )
        seen[name] = full_name
        yield name, tensor.renamed(name)


def _require_copy(head: TensorSource, wte: TensorSource, config_name: str) -> None:
    """A head beside tied embeddings has no agreed meaning unless it is the same: transformers 4 replaces it
    by wte, transformers 5 uses it."""
    if head.dtype == wte.dtype:
        a, b = head.read(), wte.read()
        bits = f"u{a.itemsize}"
        if np.array_equal(a.view(bits), b.view(bits)):
            return
    raise ConvertError(
        f'"{head.where}": tensor "lm_head.weight": expected a copy of "wte.weight", because "{config_name}" '
        'ties them, found other weights ("tie_word_embeddings": false there makes it the output head)'
    )
