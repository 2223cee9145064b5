# SPDX-License-Identifier: MIT
"""Reads a directory as Hugging Face's transformers writes and publishes it.

config.json beside the weights, in the order of transformers' preference (modeling_utils.py):
model.safetensors; model.safetensors.index.json, which names the file of every tensor; pytorch_model.bin;
pytorch_model.bin.index.json. The tokenizer is in vocab.json and merges.txt, or in tokenizer.json (the format
of https://github.com/huggingface/tokenizers), or there is none.
"""

from __future__ import annotations

import json
import os
from os.path import isdir, isfile  # unlike Path's, false where the answer is forbidden
from pathlib import Path
from typing import Any

from .. import json_text, pytorch_file, safetensors_file
from ..errors import ConvertError, SafetyError
from ..file_access import read_all
from ..messages import quoted, shown
from ..source_model import SourceModel
from ..tensors import TensorSource

CONFIG = "config.json"
#: Names of files with weights; an index has ".index.json" behind them.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
_CANDIDATES = tuple(name + suffix for name in _WEIGHTS for suffix in ("", _INDEX))
_OTHER_FORMATS = ("tf_model.h5", "tf_model.h5.index.json", "hparams.json")  #: of TensorFlow


def recognizes(path: Path) -> bool:
    """Whether a path is such a directory, or one file of weights in it.

    A directory without weights is recognized too, so that read() tells what is missing, unless it has the
    weights in a format that another reader knows.
    """
    if isdir(path):
        names = _CANDIDATES if any(isfile(path / name) for name in _OTHER_FORMATS) else (CONFIG,)
        return isfile(path / CONFIG) and any(isfile(path / name) for name in names)
    return isfile(path.parent / CONFIG) and (
        safetensors_file.is_safetensors_file(path) or pytorch_file.is_pytorch_file(path)
    )


def read(path: Path) -> SourceModel:
    directory = path if isdir(path) else path.parent
    config_path = directory / CONFIG
    config = json_text.parse_object(config_path)
    weights = path if path != directory else _find_weights(directory)
    if weights.name.endswith(_INDEX):
        tensors, files = _read_shards(weights)
    else:
        tensors, files = _read_weights(weights), [weights]
    vocab_json, merges_txt = read_tokenizer(directory)
    return SourceModel(
        kind="Hugging Face directory",
        config=config,
        config_name=str(config_path),
        tensors=tensors,
        vocab_json=vocab_json,
        merges_txt=merges_txt,
        files=files,
        original_ids=_original_ids(config, config_path),
    )


def _original_ids(config: dict[str, Any], path: Path) -> str:
    """What targets/huggingface.py wrote of a trimmed vocabulary."""
    value = config.get("original_ids", "")
    if not isinstance(value, str):
        raise ConvertError(f'"{path}": "original_ids": expected a string, found {shown(value)}')
    return value


# Weights.


def _find_weights(directory: Path) -> Path:
    for name in _CANDIDATES:
        if isfile(directory / name):
            return directory / name
    try:
        found = sorted(os.listdir(directory))
    except OSError as error:
        raise ConvertError(f'"{directory}": cannot list it: {error.strerror}') from None
    some = ", ".join(quoted(name) for name in found[:20]) + (", ..." if len(found) > 20 else "")
    raise ConvertError(
        f'"{directory}": expected weights in one of {", ".join(_CANDIDATES)}, found only {some or "nothing"}'
    )


def _read_weights(path: Path) -> dict[str, TensorSource]:
    """The tensors of one file, in whichever of the formats it is."""
    if safetensors_file.is_safetensors_file(path) or path.suffix == ".safetensors":
        return safetensors_file.read(path)[0]
    tree = pytorch_file.read(path)
    if not isinstance(tree, dict):
        raise ConvertError(f'"{path}": expected a dictionary of tensors, found {shown(tree)}')
    tensors: dict[str, TensorSource] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, TensorSource):
            raise ConvertError(f'"{path}": {shown(name)}: expected a tensor, found {shown(value)}')
        tensors[name] = value.renamed(name)
    return tensors


def _read_shards(index: Path) -> tuple[dict[str, TensorSource], list[Path]]:
    """The tensors of all files that an index names: each must be where the index says, and nowhere else."""
    places = _weight_map(index)
    tensors: dict[str, TensorSource] = {}
    files = [index.parent / name for name in dict.fromkeys(places.values())]
    for file in files:
        shard = _read_weights(file)
        for name, tensor in shard.items():
            if places.get(name) != file.name:
                raise ConvertError(
                    f'"{file}": tensor {quoted(name)}: expected only the tensors that "{index}" finds there'
                )
            tensors[name] = tensor
    for name, place in places.items():
        if name not in tensors:
            raise ConvertError(
                f'"{index}": tensor {quoted(name)}: expected in {quoted(place)}, not found there'
            )
    return tensors, files


def _weight_map(index: Path) -> dict[str, str]:
    places = json_text.parse_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConvertError(
            f'"{index}": "weight_map": expected an object of tensors and their files, found {shown(places)}'
        )
    for name, place in places.items():
        if not isinstance(place, str):
            raise ConvertError(
                f'"{index}": {quoted(name)}: expected the name of a file, found {shown(place)}'
            )
        if place in ("", ".", "..") or any(c in place for c in "/\\:") or not place.isprintable():
            raise SafetyError(
                f'"{index}": {quoted(name)}: expected the name of a file in the same directory, '
                f"found {quoted(place)}"
            )
    return places


# The tokenizer.


def read_tokenizer(directory: Path) -> tuple[bytes | None, bytes | None]:
    """The contents of vocab.json and merges.txt, or None twice."""
    files = [directory / "vocab.json", directory / "merges.txt"]
    if all(isfile(file) for file in files):
        vocabulary, merges = (read_all(file, json_text.MAX_FILE_SIZE) for file in files)
        return vocabulary, merges
    tokenizer = directory / "tokenizer.json"
    return from_tokenizer_json(tokenizer) if isfile(tokenizer) else (None, None)


def from_tokenizer_json(path: Path) -> tuple[bytes, bytes]:
    """vocab.json and merges.txt of a tokenizer.json, which must do what GPT-2's tokenizer does."""
    document = json_text.parse_object(path)
    model = document.get("model")
    if not isinstance(model, dict):
        raise ConvertError(f'"{path}": "model": expected an object, found {shown(model)}')
    _require_byte_level(document, model, path)
    vocabulary = _vocabulary(model.get("vocab"), document.get("added_tokens") or [], path)
    merges = _merges(model.get("merges"), path)
    return (
        json.dumps(vocabulary, ensure_ascii=False).encode("utf-8"),
        "\n".join(["#version: 0.2", *merges, ""]).encode("utf-8"),
    )


def _require_byte_level(document: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Refuses, with key and value, what would split text differently."""
    splitter = document.get("pre_tokenizer")
    if not isinstance(splitter, dict):
        raise ConvertError(f'"{path}": "pre_tokenizer": expected an object, found {shown(splitter)}')
    demands: list[tuple[dict[str, Any], str, str, tuple[Any, ...]]] = [
        # where, the key, and the values that mean the same (the first one is shown)
        (model, "model", "type", ("BPE", None)),
        (model, "model", "dropout", (None, 0)),
        (model, "model", "continuing_subword_prefix", ("", None)),
        (model, "model", "end_of_word_suffix", ("", None)),
        (model, "model", "byte_fallback", (False, None)),
        (model, "model", "ignore_merges", (False, None)),
        (splitter, "pre_tokenizer", "type", ("ByteLevel",)),
        (splitter, "pre_tokenizer", "add_prefix_space", (False,)),
        (splitter, "pre_tokenizer", "use_regex", (True, None)),
        (document, "tokenizer", "normalizer", (None,)),
    ]
    for where, what, key, values in demands:
        if not any(where.get(key) == value for value in values):
            raise ConvertError(
                f'"{path}": {what}: "{key}": expected {shown(values[0])}, found {shown(where.get(key))}'
            )


def _vocabulary(vocabulary: Any, added: Any, path: Path) -> dict[str, int]:
    """Tokens and ids, those that were added to the vocabulary included."""
    if not isinstance(vocabulary, dict):
        raise ConvertError(f'"{path}": model: "vocab": expected an object, found {shown(vocabulary)}')
    if not isinstance(added, list):
        raise ConvertError(f'"{path}": "added_tokens": expected an array, found {shown(added)}')
    result = dict(vocabulary)
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ConvertError(
                f'"{path}": "added_tokens": expected objects with "id" and "content", found {shown(token)}'
            )
        content, number = token["content"], token.get("id")
        if result.setdefault(content, number) != number:
            raise ConvertError(
                f'"{path}": added token {quoted(content)}: expected id {shown(result[content])}, which the '
                f"vocabulary gives it, found {shown(number)}"
            )
    owners: dict[int, str] = {}
    for content, number in result.items():
        if type(number) is not int or number < 0:
            raise ConvertError(f'"{path}": token {quoted(content)}: expected an id, found {shown(number)}')
        if number in owners:
            raise ConvertError(
                f'"{path}": token {quoted(content)}: expected an id of its own, found {number}, '
                f"the id of {quoted(owners[number])}"
            )
        owners[number] = content
    return result


def _merges(merges: Any, path: Path) -> list[str]:
    """Lines of merges.txt, from "a b" or, in newer files, ["a", "b"]."""
    if not isinstance(merges, list):
        raise ConvertError(f'"{path}": model: "merges": expected an array, found {shown(merges)}')
    lines: list[str] = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_spelling(token) for token in pair):
            raise ConvertError(f'"{path}": merge {len(lines)}: expected two tokens, found {shown(merge)}')
        lines.append(f"{pair[0]} {pair[1]}")
    return lines


def _is_spelling(token: Any) -> bool:
    """The alphabet of byte-level vocabularies has no spaces and no control characters."""
    return isinstance(token, str) and token != "" and token.isprintable() and " " not in token
