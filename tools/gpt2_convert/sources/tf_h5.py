# SPDX-License-Identifier: MIT
"""Hugging Face's tf_model.h5, the weights of TFGPT2LMHeadModel, next to a config.json.

Needs h5py. Facts from transformers, modeling_tf_gpt2.py and modeling_tf_utils.py: datasets are called
"transformer/tfgp_t2lm_head_model/transformer/h_._0/attn/c_attn/weight:0", where the parts before the last
"transformer" vary with the class that was saved. Linear weights are [in, out], biases [1, out]; a layer norm
has "gamma" and "beta"; embeddings are called "weight" or "embeddings", and wte "shared" in some versions.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import json_text
from ..errors import ConvertError, SafetyError
from ..file_access import read_all
from ..source_model import SourceModel
from ..tensors import NUMPY_TYPES, Array, TensorSource

WEIGHTS = "tf_model.h5"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
LAYER = re.compile(r"h_\._(\d+)")
DTYPES = {2: "F16", 4: "F32", 8: "F64"}


def recognizes(path: Path) -> bool:
    """Whether a directory has these weights and no others, which need nothing installed."""
    try:
        if not (path / "config.json").is_file() or any((path / name).is_file() for name in OTHER_WEIGHTS):
            return False
        with (path / WEIGHTS).open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def read(path: Path) -> SourceModel:
    return SourceModel(
        kind="Hugging Face directory with TensorFlow weights",
        config=json_text.parse_object(path / "config.json"),
        config_name=str(path / "config.json"),
        tensors=_tensors(path / WEIGHTS),
        vocab_json=_optional_text(path / "vocab.json"),
        merges_txt=_optional_text(path / "merges.txt"),
        files=[path / WEIGHTS],
    )


def _optional_text(path: Path) -> bytes | None:
    return read_all(path, json_text.MAX_FILE_SIZE) if path.is_file() else None


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ConvertError(
            f'"{WEIGHTS}": expected h5py to be installed, which reads such files: '
            '"apt-get install python3-h5py" or "pip install h5py"'
        ) from None
    return h5py


def _open(path: Path) -> Any:
    try:
        return _h5py().File(path, "r")
    except OSError as error:
        raise ConvertError(f'"{path}": expected an HDF5 file, found a damaged one: {error}') from None


def _tensors(path: Path) -> dict[str, TensorSource]:
    datasets: list[Any] = []
    with _open(path) as file:
        dataset_class = _h5py().Dataset
        try:
            # Follows neither soft links nor links to other files.
            file.visititems(
                lambda _, found: datasets.append(found) if isinstance(found, dataset_class) else None
            )
            sources = [_tensor(dataset, path) for dataset in datasets]
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise ConvertError(f'"{path}": expected an HDF5 file, found a damaged one: {error}') from None
    tensors: dict[str, TensorSource] = {}
    for tensor in sources:
        if tensor.name in tensors:
            raise ConvertError(
                f'"{path}": tensor "{tensor.name}": expected every tensor once, found it twice'
            )
        tensors[tensor.name] = tensor
    return tensors


def _tensor(dataset: Any, path: Path) -> TensorSource:
    key = str(dataset.name)
    if dataset.external or dataset.is_virtual:
        raise SafetyError(f'"{path}": dataset "{key}": expected elements in this file, found them in another')
    dtype = DTYPES.get(dataset.dtype.itemsize) if dataset.dtype.kind == "f" else None
    if dtype is None or dataset.shape is None:
        raise ConvertError(
            f'"{path}": dataset "{key}": expected floating-point weights, found {dataset.dtype}'
        )
    # What is stored whole cannot be larger in memory than in the file.
    if dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        raise ConvertError(
            f'"{path}": dataset "{key}": expected {dataset.size * dataset.dtype.itemsize} bytes for shape '
            f"{list(dataset.shape)}, not compressed, found {dataset.id.get_storage_size()}"
        )
    name, shape = _plain_name(key), tuple(dataset.shape)
    if name.endswith(".bias") and len(shape) == 2 and shape[0] == 1:
        shape = shape[1:]
    return TensorSource(name, dtype, shape, str(path), partial(_load, path, key, dtype, shape))


def _load(path: Path, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
    with _open(path) as file:
        try:
            elements: Array = np.asarray(file[key][()]).astype(NUMPY_TYPES[dtype], copy=False)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ConvertError(f'"{path}": dataset "{key}": cannot be read: {error}') from None
    return elements.reshape(shape)


def _plain_name(key: str) -> str:
    """The name of a weight in PyTorch's model; for what is none, a name that the check of names refuses."""
    parts = [part for part in key.split("/") if part]
    if len(parts) < 2:
        return key
    *path, kind = parts
    kind = kind.partition(":")[0]
    kind = {"gamma": "weight", "beta": "bias", "embeddings": "weight"}.get(kind, kind)
    if path[-1] in ("wte", "shared"):
        return f"wte.{kind}"
    if path[-1] in ("wpe", "ln_f", "lm_head"):
        return f"{path[-1]}.{kind}"
    for at, part in reversed(list(enumerate(path))):
        layer = LAYER.fullmatch(part)
        if layer:
            return ".".join(["h", layer[1], *path[at + 1 :], kind])
    return key
