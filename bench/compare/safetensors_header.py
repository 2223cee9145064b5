# SPDX-License-Identifier: MIT
"""Where the tensors of a model.safetensors lie (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor in a file."""

    file: str  #: its name, without the folder
    shape: tuple[int, ...]
    offset: int  #: bytes, from the beginning of the file
    size: int  #: bytes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, all of which must be float32."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            raise ValueError(f'"{path}": tensor "{name}": expected F32, found {entry["dtype"]}')
        begin, end = entry["data_offsets"]
        tensors[name] = Tensor(path.name, tuple(entry["shape"]), 8 + length + begin, end - begin)
    return tensors
