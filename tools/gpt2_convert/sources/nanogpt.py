# SPDX-License-Identifier: MIT
"""Checkpoints of nanoGPT: the ckpt.pt that its train.py writes with torch.save.

Facts from https://github.com/karpathy/nanoGPT, model.py and train.py: a dictionary whose "model" is the state
dict and whose "model_args" are the arguments of GPTConfig. Linear layers are nn.Linear's, [out, in]. A model
that went through torch.compile has "_orig_mod." before every name. With bias=False neither linear layers nor
layer norms have biases, which is the same as biases of zero. The layer norms' epsilon is 1e-5, the inner size
4 * n_embd.

The activation is nn.GELU(), the form with erf ("gelu"); early versions (the function new_gelu) computed the
form with tanh ("gelu_new"). A checkpoint does not tell which, so read() takes it as a parameter.

train.py rounds GPT-2's vocabulary of 50257 up to 50304. The rows that fill it up belong to no token.
"""

from __future__ import annotations

from functools import partial
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np

from .. import pytorch_file
from ..errors import ConvertError
from ..messages import quoted, shown
from ..source_model import SourceModel
from ..tensors import NUMPY_TYPES, TensorSource

GPT2_VOCABULARY = 50257
PADDED_VOCABULARY = 50304
COMPILED_PREFIX = "_orig_mod."
LINEAR_LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
OTHER_ARGUMENTS = ("bias", "dropout")  #: dropout acts in training only


def recognizes(path: Path) -> bool:
    """Whether this is a file of PyTorch that is no other program's.

    Beside a config.json it would be Hugging Face's; there it must have the keys of a nanoGPT checkpoint.
    """
    if not pytorch_file.is_pytorch_file(path):
        return False
    if not isfile(path.parent / "config.json"):
        return True
    try:
        return _is_checkpoint(pytorch_file.read(path))
    except ConvertError:
        return False


def _is_checkpoint(value: Any) -> bool:
    return isinstance(value, dict) and {"model", "model_args"} <= value.keys()


def read(
    path: Path,
    *,
    activation: str | None = None,
    vocabulary: str = "trim",
    tokenizer_size: int | None = None,
) -> SourceModel:
    """Reads a checkpoint.

    activation: "gelu_new" for a model of an early version; None: what nanoGPT computes today.
    vocabulary: "trim" drops the rows that belong to no token, "keep" keeps them.
    tokenizer_size: of the tokenizer that will be used; None: GPT-2's where the vocabulary is its padded one.
    """
    checkpoint = pytorch_file.read(path)
    if not _is_checkpoint(checkpoint):
        raise ConvertError(
            f'"{path}": expected a checkpoint of nanoGPT, a dictionary with "model" and "model_args", '
            f"found {_describe(checkpoint)}"
        )
    config_name = f"{path}: model_args"
    arguments = _arguments(checkpoint["model_args"], config_name)
    tensors = _tensors(checkpoint["model"], path)
    if not arguments["bias"]:
        _add_zero_biases(tensors, path)
    size = _vocabulary_size(arguments["vocab_size"], vocabulary, tokenizer_size)
    for name in ("wte.weight", "lm_head.weight"):
        # A tensor of another shape is left as it is, for the check of shapes to name it.
        if name in tensors and tensors[name].shape[:1] == (arguments["vocab_size"],):
            tensors[name] = tensors[name].first_rows(size)
    config = {
        "model_type": "gpt2",
        "vocab_size": size,
        "n_positions": arguments["block_size"],
        "n_embd": arguments["n_embd"],
        "n_layer": arguments["n_layer"],
        "n_head": arguments["n_head"],
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu" if activation is None else activation,
    }
    return SourceModel("nanoGPT checkpoint", config, config_name, tensors, None, None, [path])


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "the keys " + ", ".join(quoted(str(key)) for key in list(value)[:8])
    return "a tensor" if isinstance(value, TensorSource) else shown(value)


def _arguments(values: Any, name: str) -> dict[str, Any]:
    """The arguments of GPTConfig. What is not among nanoGPT's own could change what the model computes."""
    if not isinstance(values, dict):
        raise ConvertError(f'"{name}": expected a dictionary, found {_describe(values)}')
    for key in SIZES:
        if type(values.get(key)) is not int or values[key] < 1:
            raise ConvertError(
                f'"{name}": "{key}": expected a positive whole number, found {shown(values.get(key))}'
            )
    arguments = {"bias": True, **values}  # before bias was an argument, every model had biases
    if type(arguments["bias"]) is not bool:
        raise ConvertError(f'"{name}": "bias": expected true or false, found {shown(arguments["bias"])}')
    for key, value in values.items():
        if key not in SIZES + OTHER_ARGUMENTS and value not in (None, False):
            raise ConvertError(
                f'"{name}": {quoted(str(key))}: expected only the arguments of nanoGPT\'s own model, '
                f"found {shown(value)}"
            )
    return arguments


def _tensors(state: Any, path: Path) -> dict[str, TensorSource]:
    """The weights by Hugging Face's names, linear weights transposed."""
    if not isinstance(state, dict):
        raise ConvertError(f'"{path}": "model": expected a state dict, found {_describe(state)}')
    tensors: dict[str, TensorSource] = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, TensorSource):
            raise ConvertError(f'"{path}": "model": expected tensors by name, found {_describe(tensor)}')
        name = _plain_name(key)
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # the causal mask, a constant
        if name in tensors:
            raise ConvertError(
                f'"{path}": tensor {quoted(key)}: expected every tensor once, found another for "{name}"'
            )
        if tensor.dtype not in NUMPY_TYPES:
            raise ConvertError(
                f'"{path}": tensor {quoted(key)}: expected floating-point weights, found {tensor.dtype}'
            )
        tensor = tensor.renamed(name)
        is_linear = name.endswith(tuple(f".{layer}.weight" for layer in LINEAR_LAYERS))
        tensors[name] = tensor.transposed() if is_linear else tensor
    return tensors


def _plain_name(key: str) -> str:
    for prefix in (COMPILED_PREFIX, "transformer."):
        if key.startswith(prefix):
            key = key[len(prefix) :]
    return key


def _add_zero_biases(tensors: dict[str, TensorSource], path: Path) -> None:
    """Gives a model without biases those that change nothing. Only weights that are there get one."""
    for name in [*tensors]:
        stem, _, kind = name.rpartition(".")
        layer = stem.split(".")[-1]
        if kind == "bias":
            raise ConvertError(f'"{path}": tensor "{name}": expected no biases, because "bias" is false')
        if kind == "weight" and layer in ("ln_1", "ln_2", "ln_f", "c_attn", "c_proj", "c_fc"):
            shape, dtype = tensors[name].shape[-1:], tensors[name].dtype
            # Made when it is needed: then the shape has been checked.
            load = partial(np.zeros, shape, NUMPY_TYPES[dtype])
            tensors[f"{stem}.bias"] = TensorSource(f"{stem}.bias", dtype, shape, str(path), load)


def _vocabulary_size(size: int, vocabulary: str, tokenizer_size: int | None) -> int:
    """How many rows to use. A tokenizer that has more tokens than the model is left for the check of both."""
    if vocabulary not in ("trim", "keep"):
        raise ConvertError(f'the vocabulary: expected "trim" or "keep", found "{vocabulary}"')
    if vocabulary == "keep":
        return size
    if tokenizer_size is None:
        return GPT2_VOCABULARY if size == PADDED_VOCABULARY else size
    return min(size, tokenizer_size)
