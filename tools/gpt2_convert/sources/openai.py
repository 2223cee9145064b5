# SPDX-License-Identifier: MIT
"""OpenAI's original checkpoints, and what programs that train in TensorFlow make of them.

A directory as https://github.com/openai/gpt-2/blob/master/download_model.py leaves it: `hparams.json`,
`encoder.json`, `vocab.bpe`, and a TensorFlow checkpoint, `checkpoint` and `model.ckpt.*`. The names of the
variables and the keys of `hparams.json` are those of src/model.py there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import json_text, tensor_bundle
from ..errors import ConvertError
from ..file_access import read_all
from ..messages import quoted, shown
from ..source_model import END_OF_TEXT, SourceModel
from ..tensors import NUMPY_TYPES, TensorSource

_KIND = "OpenAI checkpoint (TensorFlow)"

#: hparams.json's keys, and config.json's.
_CONFIG_KEYS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}

_SUFFIX = ".index"
_SMALL = 100_000  #: bytes of the file `checkpoint`
_MAX_TOKENIZER_SIZE = 100_000_000

_LINEAR = {"w": "weight", "b": "bias"}
_NORM = {"g": "weight", "b": "bias"}
_VARIABLES = {"attn/c_attn": _LINEAR, "attn/c_proj": _LINEAR, "mlp/c_fc": _LINEAR, "mlp/c_proj": _LINEAR}
_VARIABLES.update({"ln_1": _NORM, "ln_2": _NORM})


def recognizes(path: Path) -> bool:
    """A directory with the index of a TensorFlow checkpoint in it, or that index."""
    try:
        return tensor_bundle.recognizes(_prefix(path))
    except (ConvertError, OSError, ValueError):
        return False


def read(path: Path) -> SourceModel:
    prefix = _prefix(path)
    directory = prefix.parent
    config_path = directory / "hparams.json"
    vocab, merges = _tokenizer(directory)
    config = _config(config_path)
    if vocab is not None:
        end_of_text = _end_of_text(vocab, directory / "encoder.json")
        config.update(bos_token_id=end_of_text, eos_token_id=end_of_text)
    tensors = _tensors(prefix)
    data_files = sorted({Path(tensor.where) for tensor in tensors.values()})
    return SourceModel(
        kind=_KIND,
        config=config,
        config_name=str(config_path),
        tensors=tensors,
        vocab_json=vocab,
        merges_txt=merges,
        files=[tensor_bundle.index_of(prefix), *data_files],
    )


def _prefix(path: Path) -> Path:
    """What the names of the checkpoint's files begin with."""
    if path.name.endswith(_SUFFIX) and not path.is_dir():
        return path.with_name(path.name[: -len(_SUFFIX)])
    state = path / "checkpoint"
    if state.is_file():
        return path / _latest(state)
    indices = sorted(path.glob("*" + _SUFFIX))
    if len(indices) != 1:
        found = ", ".join(quoted(index.name) for index in indices[:8]) or "none"
        raise ConvertError(
            f'"{path}": expected a file "checkpoint" that names one checkpoint, or one file "*{_SUFFIX}", '
            f"found {found} (name the file itself to choose one)"
        )
    return indices[0].with_name(indices[0].name[: -len(_SUFFIX)])


def _latest(state: Path) -> str:
    """The name in a CheckpointState (tensorflow/python/training/checkpoint_state.proto), a message as text.

    The directory in it is left out: it is where the checkpoint was written, not where it may have been moved.
    """
    text = read_all(state, _SMALL).decode("utf-8", "replace")
    match = re.search(r'^\s*model_checkpoint_path\s*:\s*"([^"\n]*)"\s*$', text, re.MULTILINE)
    name = re.split(r"[/\\]+", match[1])[-1] if match else ""
    if name in ("", ".", "..") or not name.isprintable():
        raise ConvertError(f'"{state}": expected model_checkpoint_path: "NAME", found {shown(text)}')
    return name


def _config(path: Path) -> dict[str, Any]:
    """hparams.json in the terms of config.json. The original program, too, refuses keys it does not know."""
    hparams = json_text.parse_object(path)
    unknown = next((key for key in hparams if key not in _CONFIG_KEYS), None)
    if unknown is not None:
        raise ConvertError(
            f'"{path}": {quoted(unknown)}: expected only {", ".join(_CONFIG_KEYS)}, '
            f"found {shown(hparams[unknown])}"
        )
    config: dict[str, Any] = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }
    for key, name in _CONFIG_KEYS.items():
        if type(hparams.get(key)) is not int or hparams[key] < 1:
            found = shown(hparams[key]) if key in hparams else "nothing"
            raise ConvertError(f'"{path}": "{key}": expected a positive whole number, found {found}')
        config[name] = hparams[key]
    return config


def _tokenizer(directory: Path) -> tuple[bytes | None, bytes | None]:
    """encoder.json and vocab.bpe, the same formats as vocab.json and merges.txt; both or neither."""
    paths = [directory / "encoder.json", directory / "vocab.bpe"]
    present = [path for path in paths if path.exists()]
    if not present:
        return None, None
    if len(present) == 1:
        raise ConvertError(
            f'"{directory}": expected encoder.json and vocab.bpe, found "{present[0].name}" only'
        )
    vocab, merges = (read_all(path, _MAX_TOKENIZER_SIZE) for path in paths)
    return vocab, merges


def _end_of_text(vocab: bytes, path: Path) -> int | None:
    tokens = json_text.parse(vocab, str(path))
    if not isinstance(tokens, dict):
        raise ConvertError(f'"{path}": expected a JSON object, found {shown(tokens)}')
    token = tokens.get(END_OF_TEXT)
    if token is not None and type(token) is not int:
        raise ConvertError(f'"{path}": "{END_OF_TEXT}": expected a whole number, found {shown(token)}')
    return token


def _tensors(prefix: Path) -> dict[str, TensorSource]:
    result = {}
    for name, tensor in tensor_bundle.read(prefix).items():
        if not name.startswith("model/") or name.endswith(("/Adam", "/Adam_1")):
            continue  # of an optimizer
        plain_name = _hugging_face_name(name)
        if plain_name is None:
            raise ConvertError(
                f'"{tensor.where}": tensor {quoted(name)}: expected only variables of GPT-2 under "model/"'
            )
        if tensor.dtype not in NUMPY_TYPES:
            tensor.read()  # tells why it cannot be read
        if name.endswith("/w"):
            tensor = _without_kernel_width(tensor)
        result[plain_name] = tensor.renamed(plain_name)
    return result


def _hugging_face_name(name: str) -> str | None:
    """The name in GPT2LMHeadModel of a variable of the original; None: it has none."""
    if name in ("model/wte", "model/wpe"):
        return f"{name[len('model/'):]}.weight"
    match = re.fullmatch(r"model/(?:h(0|[1-9][0-9]{0,5})/(.+)|(ln_f))/([a-z])", name)
    if match is None:
        return None
    layer, module, final_norm, variable = match.groups()
    kinds = _NORM if final_norm else _VARIABLES.get(module, {})
    if variable not in kinds:
        return None
    where = final_norm or f"h.{layer}.{module.replace('/', '.')}"
    return f"{where}.{kinds[variable]}"


def _without_kernel_width(tensor: TensorSource) -> TensorSource:
    """Linear layers are convolutions of width 1 in the original: [1, in, out]."""
    if len(tensor.shape) != 3 or tensor.shape[0] != 1:
        raise ConvertError(
            f'"{tensor.where}": tensor {quoted(tensor.name)}: expected shape [1, in, out], '
            f"found {list(tensor.shape)}"
        )
    shape = tensor.shape[1:]
    return replace(tensor, shape=shape, load=lambda: tensor.load().reshape(shape))
