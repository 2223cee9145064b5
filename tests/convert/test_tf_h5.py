# SPDX-License-Identifier: MIT
"""tf_model.h5, written by h5py with the names that TFGPT2LMHeadModel gives."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert import checkpoint
from gpt2_convert.errors import ConvertError, SafetyError
from gpt2_convert.sources import tf_h5

CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)
ROOT = "transformer/tfgp_t2lm_head_model/transformer"


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py")


def key_of(name: str, embeddings: tuple[str, str] = ("weight", "embeddings")) -> str:
    """The dataset of a weight."""
    *parts, kind = name.split(".")
    if parts[0] in ("wte", "wpe"):
        return f"{ROOT}/{parts[0]}/{embeddings[parts[0] == 'wpe']}:0"
    if parts[0] == "h":
        parts[:2] = [f"h_._{parts[1]}"]
    if parts[-1].startswith("ln_"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    return "/".join([ROOT, *parts, f"{kind}:0"])


def directory(tmp_path: Path, h5py: Any, changes: dict[str, Any] | None = None, **options: Any) -> Path:
    """A directory with all weights; changes: by dataset, None leaves it out."""
    path = tmp_path / "model"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    datasets: dict[str, Any] = {}
    for name, array in WEIGHTS.items():
        bias_of_linear = name.endswith(".bias") and "ln_" not in name
        datasets[key_of(name)] = array[None] if bias_of_linear else array
    datasets.update(changes or {})
    with h5py.File(path / "tf_model.h5", "w") as file:
        file.attrs["backend"] = "tensorflow"
        for key, array in datasets.items():
            if callable(array):
                array(file, key)
            elif array is not None:
                file.create_dataset(key, data=array, **options)
    return path


def test_weights_come_back_to_the_bit(tmp_path, h5py):
    path = directory(tmp_path, h5py)
    (path / "vocab.json").write_bytes(tiny_model.VOCAB_JSON)
    (path / "merges.txt").write_bytes(tiny_model.MERGES_TXT)
    assert tf_h5.recognizes(path)
    source = tf_h5.read(path)
    model = checkpoint.check(source)
    assert model.tensors.keys() == WEIGHTS.keys() and source.config == CONFIG
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(model.tensors[name].read(), array)
    assert source.vocab_json == tiny_model.VOCAB_JSON and source.merges_txt == tiny_model.MERGES_TXT
    assert source.files == [path / "tf_model.h5"]


@pytest.mark.parametrize("embedding", ["wte/embeddings:0", "shared/weight:0"])
def test_other_names_of_the_token_embedding(tmp_path, h5py, embedding):
    changes = {key_of("wte.weight"): None, f"{ROOT}/{embedding}": WEIGHTS["wte.weight"]}
    model = checkpoint.check(tf_h5.read(directory(tmp_path, h5py, changes)))
    np.testing.assert_array_equal(model.tensors["wte.weight"].read(), WEIGHTS["wte.weight"])


@pytest.mark.parametrize("kind, dtype", [("<f2", "F16"), (">f4", "F32"), ("<f8", "F64")])
def test_element_types(tmp_path, h5py, kind, dtype):
    array = WEIGHTS["ln_f.weight"].astype(kind)
    model = checkpoint.check(tf_h5.read(directory(tmp_path, h5py, {key_of("ln_f.weight"): array})))
    tensor = model.tensors["ln_f.weight"]
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.read(), array)


def test_other_directories_are_not_recognized(tmp_path, h5py):
    path = directory(tmp_path, h5py)
    assert tf_h5.recognizes(path)
    assert not tf_h5.recognizes(path / "tf_model.h5")
    assert not tf_h5.recognizes(tmp_path)
    for name in tf_h5.OTHER_WEIGHTS:
        (path / name).write_bytes(b"")
        assert not tf_h5.recognizes(path)
        (path / name).unlink()
    (path / "tf_model.h5").write_bytes(b"not HDF5")
    assert not tf_h5.recognizes(path)
    (path / "config.json").unlink()
    assert not tf_h5.recognizes(path)


def test_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tf_model.h5").write_bytes(tf_h5.SIGNATURE)
    monkeypatch.setitem(sys.modules, "h5py", None)  # an import of it fails
    assert tf_h5.recognizes(tmp_path)
    with pytest.raises(ConvertError, match="apt-get install python3-h5py.*pip install h5py"):
        tf_h5.read(tmp_path)


def test_datasets_that_are_no_weights_are_named(tmp_path, h5py):
    for key in ("transformer/score/kernel:0", "transformer/h_._0/attn/extra/weight:0", "top"):
        path = directory(tmp_path, h5py, {key: np.zeros(3, np.float32)})
        with pytest.raises(ConvertError, match="expected only the tensors of a GPT-2"):
            checkpoint.check(tf_h5.read(path))


def test_missing_repeated_and_ill_shaped_weights(tmp_path, h5py):
    for changes, reason in [
        ({key_of("h.1.ln_1.bias"): None}, 'demands tensor "h.1.ln_1.bias"'),
        ({f"{ROOT}/wte/embeddings:0": WEIGHTS["wte.weight"]}, '"wte.weight": expected every tensor once'),
        ({key_of("wpe.weight"): np.zeros((6, 9), np.float32)}, '"wpe.weight": expected shape'),
        ({key_of("h.0.attn.c_attn.bias"): np.zeros((2, 24), np.float32)}, "expected shape"),
        ({key_of("wpe.weight"): np.zeros((6, 8), np.int32)}, "expected floating-point weights, found int32"),
        ({key_of("wpe.weight"): "text"}, "expected floating-point weights, found object"),
    ]:
        with pytest.raises(ConvertError, match=reason):
            checkpoint.check(tf_h5.read(directory(tmp_path, h5py, changes)))


def test_elements_of_other_files_are_never_read(tmp_path, h5py):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(6 * 8 * 4))
    key = key_of("wpe.weight")

    def external(file: Any, key: str) -> None:
        file.create_dataset(key, (6, 8), "<f4", external=[(os.fspath(secret), 0, 192)])

    def virtual(file: Any, key: str) -> None:
        layout = h5py.VirtualLayout((6, 8), "<f4")
        layout[:] = h5py.VirtualSource(os.fspath(secret), "data", (6, 8))
        file.create_virtual_dataset(key, layout)

    for change in (external, virtual):
        with pytest.raises(SafetyError, match="expected elements in this file, found them in another"):
            tf_h5.read(directory(tmp_path, h5py, {key: change}))

    def link(file: Any, key: str) -> None:
        file[key] = h5py.ExternalLink(os.fspath(secret), "data")

    with pytest.raises(ConvertError, match='demands tensor "wpe.weight"'):
        checkpoint.check(tf_h5.read(directory(tmp_path, h5py, {key: link})))


def test_datasets_that_are_larger_than_the_file(tmp_path, h5py):
    def compressed(file: Any, key: str) -> None:
        file.create_dataset(key, data=np.zeros((6, 8), np.float32), compression="gzip")

    def unwritten(file: Any, key: str) -> None:
        file.create_dataset(key, (1 << 40, 8), "<f4", chunks=(1 << 10, 8))

    for change in (compressed, unwritten):
        with pytest.raises(ConvertError, match="not compressed, found"):
            tf_h5.read(directory(tmp_path, h5py, {key_of("wpe.weight"): change}))


def test_damaged_files(tmp_path, h5py):
    file = directory(tmp_path, h5py) / "tf_model.h5"
    whole = file.read_bytes()
    for data in (whole[:100], whole[: len(whole) // 2], tf_h5.SIGNATURE + bytes(1000)):
        file.write_bytes(data)
        with pytest.raises(ConvertError, match="expected an HDF5 file, found a damaged one"):
            tf_h5.read(file.parent)
    file.write_bytes(whole)
    (file.parent / "config.json").write_text("[]")
    with pytest.raises(ConvertError, match="expected a JSON object"):
        tf_h5.read(file.parent)


def test_a_file_that_vanishes_meanwhile(tmp_path, h5py):
    path = directory(tmp_path, h5py)
    source = tf_h5.read(path)
    (path / "tf_model.h5").unlink()
    with pytest.raises(ConvertError, match="expected an HDF5 file"):
        source.tensors["wte.weight"].read()
