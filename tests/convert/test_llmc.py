# SPDX-License-Identifier: MIT
"""llm.c checkpoints, written here from the description of the format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tiny_model

from gpt2_convert import checkpoint
from gpt2_convert.errors import ConvertError
from gpt2_convert.sources import llmc
from gpt2_convert.tensors import to_float32

PADDED = 384  #: rows for the 260 tokens
CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)
#: All layers of a kind together.
LAYER_ORDER = (
    "ln_1.weight ln_1.bias attn.c_attn.weight attn.c_attn.bias attn.c_proj.weight attn.c_proj.bias "
    "ln_2.weight ln_2.bias mlp.c_fc.weight mlp.c_fc.bias mlp.c_proj.weight mlp.c_proj.bias"
).split()


def header(**changes: int) -> bytes:
    fields = {
        "magic": 20240326,
        "version": 3,
        "max_seq_len": tiny_model.N_POSITIONS,
        "vocab_size": tiny_model.VOCAB_SIZE,
        "num_layers": tiny_model.N_LAYER,
        "num_heads": tiny_model.N_HEAD,
        "channels": tiny_model.N_EMBD,
        "padded_vocab_size": PADDED,
        **changes,
    }
    return struct.pack("<8i", *fields.values()).ljust(1024, b"\0")


def elements(array: np.ndarray, version: int) -> bytes:
    if version == 3:
        return array.astype("<f4").tobytes()
    return (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


def body(version: int = 3) -> bytes:
    padding = np.full((PADDED - tiny_model.VOCAB_SIZE, tiny_model.N_EMBD), 9.0)
    parts = [np.concatenate([WEIGHTS["wte.weight"], padding]), WEIGHTS["wpe.weight"]]
    for kind in LAYER_ORDER:
        for layer in range(tiny_model.N_LAYER):
            array = WEIGHTS[f"h.{layer}.{kind}"]
            parts.append(array.T if array.ndim == 2 else array)
    parts += [WEIGHTS["ln_f.weight"], WEIGHTS["ln_f.bias"]]
    return b"".join(elements(part, version) for part in parts)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("version, dtype", [(3, "F32"), (5, "BF16")])
def test_weights_come_back_to_the_bit(tmp_path, version, dtype):
    path = write(tmp_path / "model.bin", header(version=version) + body(version))
    assert llmc.recognizes(path)
    source = llmc.read(path)
    assert source.config == {
        key: value for key, value in CONFIG.items() if key not in ("bos_token_id", "eos_token_id")
    }
    assert source.vocab_json is None and source.merges_txt is None and source.files == [path]
    model = checkpoint.check(source)
    assert model.tensors.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        tensor = model.tensors[name]
        assert tensor.dtype == dtype
        bits = array.view(np.uint32) & (0xFFFFFFFF if version == 3 else 0xFFFF0000)
        np.testing.assert_array_equal(to_float32(tensor.read(), dtype).view(np.uint32), bits)


def test_the_padding_can_be_kept(tmp_path):
    source = llmc.read(write(tmp_path / "model.bin", header() + body()), vocabulary="keep")
    wte = checkpoint.check(source).tensors["wte.weight"].read()
    assert source.config["vocab_size"] == PADDED and wte.shape == (PADDED, tiny_model.N_EMBD)
    assert (wte[tiny_model.VOCAB_SIZE :] == 9).all()


def test_other_files_are_not_recognized(tmp_path):
    for data in (b"", b"\x16", b"GGUF", header()[1:]):
        assert not llmc.recognizes(write(tmp_path / "other.bin", data))
    assert not llmc.recognizes(tmp_path)
    assert not llmc.recognizes(tmp_path / "missing")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"magic": 20240327}, "expected the magic number 20240326 of llm.c, found 20240327"),
        ({"version": 1}, r"expected version 3 \(float32\) or 5 \(bfloat16\).*found 1"),
        ({"version": 5}, "bytes, as its header demands for BF16, found"),
        ({"max_seq_len": 0}, "max_seq_len: expected a positive size within the file, found 0"),
        ({"num_layers": -1}, "num_layers: .* found -1"),
        ({"channels": 1 << 30}, "channels: .* found 1073741824"),
        ({"num_layers": 20000}, "expected .* bytes, as its header demands for F32"),
        ({"num_heads": 3}, "num_heads: expected a divisor of channels, 8, found 3"),
        ({"padded_vocab_size": 200}, "padded_vocab_size: expected at least vocab_size, 260, found 200"),
    ],
)
def test_lying_headers(tmp_path, changes, reason):
    with pytest.raises(ConvertError, match=reason):
        llmc.read(write(tmp_path / "model.bin", header(**changes) + body()))


def test_the_size_must_match_exactly(tmp_path):
    data = header() + body()
    for wrong in (data[:-1], data + b"\0", data[:1024], data + data):
        with pytest.raises(ConvertError, match=f"expected {len(data)} bytes, .* found {len(wrong)}"):
            llmc.read(write(tmp_path / "model.bin", wrong))
    with pytest.raises(ConvertError, match="expected 1024 bytes at offset 0, found only 1023"):
        llmc.read(write(tmp_path / "model.bin", data[:1023]))


def test_a_file_that_shrinks_meanwhile(tmp_path):
    path = write(tmp_path / "model.bin", header() + body())
    source = llmc.read(path)
    path.write_bytes(header() + body()[:-4])
    with pytest.raises(ConvertError, match="truncated"):
        source.tensors["ln_f.bias"].read()
