# SPDX-License-Identifier: MIT
"""The reader of Hugging Face directories."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pytorch_writer as by_hand
from gpt2_convert.errors import ConvertError, SafetyError
from gpt2_convert.sources.huggingface import from_tokenizer_json, read, recognizes

TOKENIZER = Path(__file__).parents[1] / "data" / "tokenizer"
CONFIG = {"model_type": "gpt2", "n_layer": 1}


def safetensors(path: Path, tensors: dict[str, float]) -> Path:
    """Every tensor has one element."""
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(tensors)
    }
    text = json.dumps(header).encode()
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(tensors)}f", *tensors.values())
    )
    return path


def pytorch(path: Path, tensors: dict[str, float], format: str = "zip") -> Path:
    items = b"".join(
        by_hand.value(name) + by_hand.tensor(by_hand.storage(f"k{i}", 1), 0, (1,), (1,))
        for i, name in enumerate(tensors)
    )
    state = by_hand.call(by_hand.name("collections.OrderedDict")) + b"(" + items + b"u"
    storages = {f"k{i}": struct.pack("<f", value) for i, value in enumerate(tensors.values())}
    return by_hand.WRITERS[format](path, by_hand.program(state), storages)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def values(path: Path) -> dict[str, float]:
    source = read(path)
    assert all(tensor.name == name for name, tensor in source.tensors.items())
    return {name: float(tensor.read()[0]) for name, tensor in source.tensors.items()}


def refused(path: Path, message: str, kind: type[ConvertError] = ConvertError) -> None:
    with pytest.raises(ConvertError, match=message) as error:
        read(path)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_safetensors(model: Path) -> None:
    weights = safetensors(model / "model.safetensors", {"wte.weight": 1.5, "transformer.x": 2})
    for path in (model, weights):
        assert recognizes(path)
        source = read(path)
        assert source.kind == "Hugging Face directory"
        assert source.config == CONFIG
        assert source.config_name == str(model / "config.json")
        assert source.files == [weights]
        assert source.tensors["wte.weight"].where == str(weights)
        assert (source.vocab_json, source.merges_txt, source.revision) == (None, None, "")
        assert values(path) == {"wte.weight": 1.5, "transformer.x": 2}


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_pytorch(model: Path, format: str) -> None:
    weights = pytorch(model / "pytorch_model.bin", {"a": 1.5, "b": -2}, format)
    for path in (model, weights):
        assert recognizes(path)
        assert values(path) == {"a": 1.5, "b": -2}
        assert read(path).files == [weights]


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards(model: Path, kind: str) -> None:
    write = safetensors if kind.endswith("safetensors") else pytorch
    first = write(model / f"1-{kind}", {"a": 1, "b": 2})
    second = write(model / f"2-{kind}", {"c": 3})
    index = {
        "metadata": {"total_size": 12},
        "weight_map": {"b": first.name, "c": second.name, "a": first.name},
    }
    write_json(model / f"{kind}.index.json", index)
    assert recognizes(model)
    assert values(model) == {"a": 1, "b": 2, "c": 3}
    assert read(model).files == [first, second]


def test_order_of_preference(model: Path) -> None:
    pytorch(model / "4.bin", {"four": 4})
    write_json(model / "pytorch_model.bin.index.json", {"weight_map": {"four": "4.bin"}})
    assert list(values(model)) == ["four"]
    pytorch(model / "pytorch_model.bin", {"three": 3})
    assert list(values(model)) == ["three"]
    safetensors(model / "2.safetensors", {"two": 2})
    write_json(model / "model.safetensors.index.json", {"weight_map": {"two": "2.safetensors"}})
    assert list(values(model)) == ["two"]
    safetensors(model / "model.safetensors", {"one": 1})
    assert list(values(model)) == ["one"]
    assert values(model / "pytorch_model.bin") == {"three": 3}


def test_formats_are_told_by_content(model: Path) -> None:
    safetensors(model / "pytorch_model.bin", {"a": 1})
    assert values(model) == {"a": 1}
    (model / "model.safetensors").write_bytes(pytorch(model / "x", {"a": 2}).read_bytes())
    refused(model, "safetensors header")  # which never is a pickle under another name


def test_what_is_not_recognized(model: Path) -> None:
    (model / "x").write_bytes(b"text")
    assert recognizes(model / "x") is False
    assert recognizes(model / "config.json") is False
    assert recognizes(model / "none") is False
    assert recognizes(model) is True  # read() will tell what is missing
    (model / "tf_model.h5").write_bytes(b"")
    assert recognizes(model) is False  # another reader's
    safetensors(model / "model.safetensors", {})
    assert recognizes(model) is True
    (model / "config.json").unlink()
    assert recognizes(model) is False
    assert recognizes(model / "model.safetensors") is False


def test_a_directory_without_weights(model: Path) -> None:
    refused(model, 'model.safetensors, .* pytorch_model.bin.index.json, found only "config.json"$')
    for i in range(30):
        (model / f"{i:02}\n").touch()
    (model / "flax_model.msgpack").touch()
    refused(model, r'found only "00\\n", .*, \.\.\.$')


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "expected a JSON object, found an array"),
        ('{"n_layer": 1, "n_layer": 2}', 'the key "n_layer" twice'),
        ("{", "expected valid JSON"),
        ("", "an empty file"),
    ],
)
def test_damaged_configurations(model: Path, text: str, message: str) -> None:
    safetensors(model / "model.safetensors", {})
    (model / "config.json").write_text(text)
    refused(model, f'config.json": {message}|config.json": expected valid JSON, found .*{message}')


def test_files_that_hold_other_things(model: Path) -> None:
    path = model / "pytorch_model.bin"
    by_hand.write_zip(path, by_hand.program(b"N"))
    refused(model, "expected a dictionary of tensors, found null")
    by_hand.write_zip(path, by_hand.program(by_hand.value({"model": {"a": 1}})))
    refused(model, '"model": expected a tensor, found an object')
    by_hand.write_zip(path, by_hand.program(by_hand.value({1: 2})))
    refused(model, "1: expected a tensor, found 2")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(model, "expected a file that torch.save wrote, found something else")
    path.unlink()
    os.mkfifo(path)
    refused(model, "expected weights in one of")


def test_pickles_that_call_are_refused(model: Path) -> None:
    by_hand.write_zip(model / "pytorch_model.bin", by_hand.program(by_hand.name("os.system")))
    assert recognizes(model)
    refused(model, '"os.system".*nothing was executed', SafetyError)


@pytest.mark.parametrize(
    "place", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "C:x", "x\0y", "x\ny", "sub/../x"]
)
def test_paths_out_of_the_directory_are_refused(model: Path, place: str) -> None:
    safetensors(model.parent / "secret", {"a": 1})
    write_json(model / "model.safetensors.index.json", {"weight_map": {"a": place}})
    refused(model, "expected the name of a file in the same directory, found", SafetyError)


@pytest.mark.parametrize(
    "index, message",
    [
        ([], "expected a JSON object"),
        ({}, '"weight_map": expected an object of tensors and their files, found null'),
        ({"weight_map": []}, "found an array"),
        ({"weight_map": {}}, "found an object"),
        ({"weight_map": {"a": 1}}, '"a": expected the name of a file, found 1'),
        ({"weight_map": {"a": "none"}}, "none.*cannot read it"),
        ({"weight_map": {"a": "1"}}, 'tensor "b": expected only the tensors that'),
        ({"weight_map": {"a": "1", "b": "2"}}, 'tensor "b": expected only the tensors that'),
        (
            {"weight_map": {"a": "1", "b": "1", "d": "1", "c": "2"}},
            'tensor "d": expected in "1", not found there',
        ),
        ({"weight_map": {"a": "2", "b": "1", "c": "2"}}, 'tensor "(a|c)": expected'),
    ],
)
def test_indices_that_lie(model: Path, index: Any, message: str) -> None:
    safetensors(model / "1", {"a": 1, "b": 2})
    safetensors(model / "2", {"c": 3})
    write_json(model / "model.safetensors.index.json", index)
    refused(model, message)


def test_an_index_with_a_tensor_twice(model: Path) -> None:
    safetensors(model / "1", {"a": 1})
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1", "a": "2"}}')
    refused(model, 'the key "a" twice')


# Tokenizers.


def tokenizer_json(vocabulary: Any, merges: Any, **changes: Any) -> dict[str, Any]:
    """As transformers writes GPT-2's."""
    document: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    for key, value in changes.items():
        *where, last = key.split("__")
        target = document
        for name in where:
            target = target[name]
        target[last] = value
    return document


def test_vocabulary_and_merges_as_they_are(model: Path) -> None:
    safetensors(model / "model.safetensors", {})
    (model / "vocab.json").write_bytes(b'{"a" : 1}\n')
    assert read(model).vocab_json is None
    (model / "merges.txt").write_bytes(b"\xff whatever\r\n")
    write_json(model / "tokenizer.json", {})
    source = read(model)
    assert (source.vocab_json, source.merges_txt) == (b'{"a" : 1}\n', b"\xff whatever\r\n")


@pytest.mark.parametrize("as_pairs", [False, True])
def test_tokenizer_json(model: Path, as_pairs: bool) -> None:
    """A whole tokenizer goes through it unchanged."""
    safetensors(model / "model.safetensors", {})
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text("utf-8"))
    lines = (TOKENIZER / "merges.txt").read_text("utf-8").splitlines()
    merges = [line for line in lines if not line.startswith("#version")]
    document = tokenizer_json(vocabulary, [line.split(" ") for line in merges] if as_pairs else merges)
    document["added_tokens"] = [
        {"id": vocabulary["<|endoftext|>"], "content": "<|endoftext|>"},
        {"id": len(vocabulary), "content": "<|pad \u00e9|>"},
    ]
    write_json(model / "tokenizer.json", document)
    source = read(model)
    assert source.vocab_json is not None and source.merges_txt is not None
    converted = json.loads(source.vocab_json)
    assert list(converted.items()) == [*vocabulary.items(), ("<|pad \u00e9|>", len(vocabulary))]
    assert source.merges_txt.decode().splitlines() == ["#version: 0.2", *merges]
    assert source.merges_txt.endswith(b"\n")


VOCABULARY = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}


def test_a_merge_that_looks_like_a_comment(model: Path) -> None:
    document = tokenizer_json({"<|endoftext|>": 0}, ["#version x", "#a b"])
    _, merges = from_tokenizer_json(write_json(model / "tokenizer.json", document))
    assert merges == b"#version: 0.2\n#version x\n#a b\n"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": None}, '"model": expected an object, found null'),
        ({"model__type": "WordPiece"}, 'model: "type": expected "BPE", found "WordPiece"'),
        ({"model__dropout": 0.1}, 'model: "dropout": expected null, found 0.1'),
        ({"model__continuing_subword_prefix": "##"}, 'expected "", found "##"'),
        ({"model__end_of_word_suffix": "</w>"}, 'expected "", found "</w>"'),
        ({"model__byte_fallback": True}, "expected false, found true"),
        ({"model__ignore_merges": True}, "expected false, found true"),
        ({"pre_tokenizer": None}, '"pre_tokenizer": expected an object, found null'),
        (
            {"pre_tokenizer__type": "Metaspace"},
            'pre_tokenizer: "type": expected "ByteLevel", found "Metaspace"',
        ),
        ({"pre_tokenizer__add_prefix_space": True}, "expected false, found true"),
        ({"pre_tokenizer__use_regex": False}, "expected true, found false"),
        ({"normalizer": {"type": "NFC"}}, '"normalizer": expected null, found an object'),
        ({"model__vocab": []}, '"vocab": expected an object, found an array'),
        ({"model__vocab": {"a": "1"}}, 'token "a": expected an id, found "1"'),
        ({"model__vocab": {"a": -1}}, 'token "a": expected an id, found -1'),
        ({"model__vocab": {"a": True}}, 'token "a": expected an id, found true'),
        ({"model__vocab": {"a": 1, "b": 1}}, 'token "b": expected an id of its own, found 1, the id of "a"'),
        ({"added_tokens": {}}, None),
        ({"added_tokens": {"a": 1}}, '"added_tokens": expected an array, found an object'),
        ({"added_tokens": [1]}, "found 1"),
        ({"added_tokens": [{"id": 7}]}, "found an object"),
        ({"added_tokens": [{"id": 7, "content": "a"}]}, 'added token "a": expected id 1, .* found 7'),
        ({"added_tokens": [{"id": 1, "content": "c"}]}, 'token "c": expected an id of its own'),
        ({"added_tokens": [{"content": "c"}]}, 'token "c": expected an id, found null'),
        ({"model__merges": None}, '"merges": expected an array, found null'),
        ({"model__merges": ["a b", 7]}, "merge 1: expected two tokens, found 7"),
        ({"model__merges": ["ab"]}, "merge 0: expected two tokens"),
        ({"model__merges": ["a  b"]}, "merge 0: expected two tokens"),
        ({"model__merges": ["a b c"]}, "merge 0: expected two tokens"),
        ({"model__merges": [["a"]]}, "merge 0: expected two tokens"),
        ({"model__merges": [["a", ""]]}, "merge 0: expected two tokens"),
        ({"model__merges": [["a", "b c"]]}, "merge 0: expected two tokens"),
        ({"model__merges": ["a b\nc"]}, "merge 0: expected two tokens"),
        ({"model__merges": [["a", 1]]}, "merge 0: expected two tokens"),
    ],
)
def test_other_tokenizers_are_refused(model: Path, changes: dict[str, Any], message: str | None) -> None:
    safetensors(model / "model.safetensors", {})
    write_json(model / "tokenizer.json", tokenizer_json(VOCABULARY, ["a b"], **changes))
    if message is None:
        assert read(model).vocab_json == json.dumps(VOCABULARY).encode()
    else:
        refused(model, f'tokenizer.json": .*{message}')


# With torch.


def test_state_dictionary_of_torch(model: Path) -> None:
    torch = pytest.importorskip("torch")
    wte = torch.randn(5, 4)
    state = {"transformer.wte.weight": wte, "lm_head.weight": wte, "h.0.attn.bias": torch.ones(1, 1).bool()}
    for new_format in (True, False):
        torch.save(state, model / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
        tensors = read(model).tensors
        assert list(tensors) == list(state)
        assert np.array_equal(tensors["lm_head.weight"].read(), wte.numpy())
        assert tensors["h.0.attn.bias"].dtype == "BOOL"
