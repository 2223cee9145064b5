# SPDX-License-Identifier: MIT
"""Writes PyTorch's formats by hand: files that torch.save would not write."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, Callable

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def write_zip(
    path: Path,
    data_pkl: bytes,
    storages: dict[str, bytes] = {},
    others: dict[str, bytes] = {},
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in others.items():
            archive.writestr(name, data)
    return path


def write_legacy(path: Path, data_pkl: bytes, storages: dict[str, bytes] = {}, element_size: int = 4) -> Path:
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC_NUMBER, 1001, SYSTEM))
    tail = b"".join(struct.pack("<q", len(data) // element_size) + data for data in storages.values())
    path.write_bytes(head + data_pkl + pickle.dumps(list(storages), 2) + tail)
    return path


WRITERS: dict[str, Callable[..., Path]] = {"zip": write_zip, "legacy": write_legacy}

# Instructions for pickles. A pickle is what is put between begin() and b".".


def name(full_name: str) -> bytes:
    module, _, attribute = full_name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def value(plain: Any) -> bytes:
    """The instructions that push a plain value."""
    return pickle.dumps(plain, 2)[2:-1]


def as_tuple(*instructions: bytes) -> bytes:
    return b"(" + b"".join(instructions) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + as_tuple(*arguments) + b"R"


def storage(key: Any, count: Any, kind: str = "torch.FloatStorage", part: Any = "absent") -> bytes:
    more = [] if part == "absent" else [value(part)]
    return as_tuple(value("storage"), name(kind), value(key), value("cpu"), value(count), *more) + b"Q"


def tensor(view: bytes, offset: Any, shape: Any, strides: Any) -> bytes:
    hooks = call(name("collections.OrderedDict"))
    return call(
        name("torch._utils._rebuild_tensor_v2"),
        view,
        value(offset),
        value(shape),
        value(strides),
        b"\x89",
        hooks,
    )


def program(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."
