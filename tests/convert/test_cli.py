# SPDX-License-Identifier: MIT
"""The whole program: every format becomes the same file, and what goes wrong is said and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import sources
import test_llmc
import test_openai
import test_tf_h5
import tiny_model

from gpt2_convert import cli, safetensors_file
from gpt2_convert.sources import hub
from gpt2_convert.tensors import from_float32

TOOLS = Path(__file__).parents[2] / "tools"
#: What may differ between files that hold the same model.
PROVENANCE = {"gpt2.source", "gpt2.source_revision", "gpt2.source_sha256", "gpt2.converter"}


def run(*arguments: object) -> int:
    return cli.main([*map(str, arguments), "--quiet"])


def convert(source: object, out: Path, *options: object) -> Path:
    assert run(source, "-o", out, *options) == 0
    return out


@pytest.fixture
def fails(capsys: Any) -> Callable[..., str]:
    """Runs the program, which must fail, and returns what it says."""

    def check(*arguments: object) -> str:
        assert run(*arguments) == 1
        out, message = capsys.readouterr()
        assert out == "" and message.startswith("convert_weights.py: ") and message.endswith("\n")
        assert message[:-1].isprintable() and len(message) < 1000
        return message[len("convert_weights.py: ") : -1]

    return check


def contents(path: Path) -> tuple[bytes, dict[str, str]]:
    """The data of a file, and what its header says of the model."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = {key: value for key, value in header["__metadata__"].items() if key not in PROVENANCE}
    return data[8 + size :], metadata


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sources.hugging_face(tmp_path / "model")


@pytest.fixture
def reference(model: Path, tmp_path: Path) -> Path:
    return convert(model, tmp_path / "reference", "--dtype", "f32")


# Every format becomes the same file.


def write_prefixed(directory: Path) -> Path:
    weights = {f"transformer.{name}": array for name, array in sources.WEIGHTS.items()}
    weights["lm_head.weight"] = sources.WEIGHTS["wte.weight"]
    return sources.hugging_face(directory, weights)


def write_legacy(directory: Path) -> Path:
    return sources.hugging_face(
        directory,
        write=lambda path, weights: sources.pytorch(path, weights, "legacy"),
        name="pytorch_model.bin",
    )


def write_by_torch(directory: Path) -> Path:
    torch = pytest.importorskip("torch")

    def write(path: Path, weights: sources.Weights) -> Path:
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
        return path

    return sources.sharded(directory, write, "pytorch_model.bin")


def write_nanogpt(directory: Path) -> Path:
    return sources.nanogpt(sources.tokenizer(directory) / "ckpt.pt")


def write_padded_nanogpt(directory: Path) -> Path:
    return sources.nanogpt(sources.tokenizer(directory) / "ckpt.pt", rows=60, prefix="")


def write_nanogpt_beside_a_config(directory: Path) -> Path:
    return sources.nanogpt(sources.hugging_face(directory) / "ckpt.pt")


def write_nanogpt_by_torch(directory: Path) -> Path:
    torch = pytest.importorskip("torch")
    path = sources.nanogpt(sources.tokenizer(directory) / "ckpt.pt")
    state = {name: torch.from_numpy(array) for name, array in sources.nanogpt_weights().items()}
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 6, "vocab_size": 260}
    torch.save({"model": state, "model_args": arguments}, path)
    return path


def write_llmc(directory: Path) -> Path:
    path = sources.tokenizer(directory) / "gpt2_124M.bin"
    path.write_bytes(test_llmc.header() + test_llmc.body())
    return path


def write_openai(directory: Path) -> Path:
    directory.mkdir()
    return test_openai.write_model(directory)


def write_tf_h5(directory: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    directory.mkdir()
    return sources.tokenizer(test_tf_h5.directory(directory, h5py))


FORMATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "with a prefix and a head": (write_prefixed, "Hugging Face directory"),
    "one file": (lambda path: sources.hugging_face(path) / "model.safetensors", "Hugging Face directory"),
    "shards": (
        lambda path: sources.sharded(path, sources.safetensors, "model.safetensors"),
        "Hugging Face directory",
    ),
    "pytorch": (
        lambda path: sources.hugging_face(path, write=sources.pytorch, name="pytorch_model.bin"),
        "Hugging Face directory",
    ),
    "pytorch, one file": (
        lambda path: sources.hugging_face(path, write=sources.pytorch, name="x.bin") / "x.bin",
        "Hugging Face directory",
    ),
    "pytorch, shards": (
        lambda path: sources.sharded(path, sources.pytorch, "pytorch_model.bin"),
        "Hugging Face directory",
    ),
    "pytorch, legacy": (write_legacy, "Hugging Face directory"),
    "pytorch, shards by torch": (write_by_torch, "Hugging Face directory"),
    "nanoGPT": (write_nanogpt, "nanoGPT checkpoint"),
    "nanoGPT, padded": (write_padded_nanogpt, "nanoGPT checkpoint"),
    "nanoGPT beside a config.json": (write_nanogpt_beside_a_config, "nanoGPT checkpoint"),
    "nanoGPT by torch": (write_nanogpt_by_torch, "nanoGPT checkpoint"),
    "llm.c": (write_llmc, "llm.c checkpoint"),
    "OpenAI": (write_openai, "OpenAI checkpoint (TensorFlow)"),
    "tf_model.h5": (write_tf_h5, "Hugging Face directory with TensorFlow weights"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_file(tmp_path, reference, name):
    write, kind = FORMATS[name]
    directory = tmp_path / "source"
    source = write(directory)
    options = ["--activation", "gelu_new"] if kind.startswith("nanoGPT") else []
    out = convert(source, tmp_path / "out", "--dtype", "f32", *options)
    assert contents(out) == contents(reference)
    assert safetensors_file.read(out)[1]["gpt2.source"] == kind


def test_bfloat16_of_llmc(tmp_path):
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in sources.WEIGHTS.items()}
    model = sources.hugging_face(
        tmp_path / "model", bits, write=lambda path, weights: sources.safetensors(path, weights, "BF16")
    )
    path = sources.tokenizer(tmp_path / "llmc") / "model.bin"
    path.write_bytes(test_llmc.header(version=5) + test_llmc.body(version=5))
    for dtype in ("f32", "bf16", "f16"):
        ours = convert(path, tmp_path / f"a-{dtype}", "--dtype", dtype)
        assert contents(ours) == contents(convert(model, tmp_path / f"b-{dtype}", "--dtype", dtype))


def test_a_model_with_everything_unusual(tmp_path):
    """Through all formats that can hold it: another inner size, a head of its own, odd sizes."""
    config = tiny_model.config(
        n_embd=9,
        n_head=3,
        n_inner=7,
        n_layer=3,
        tie_word_embeddings=False,
        activation_function="relu",
        scale_attn_by_inverse_layer_idx=True,
        eos_token_id=None,
    )
    weights = tiny_model.arrays(config, separate_head=True)
    first = convert(
        sources.hugging_face(tmp_path / "a", weights, config), tmp_path / "a.out", "--dtype", "f32"
    )
    other = sources.hugging_face(tmp_path / "b", weights, config, sources.pytorch, "pytorch_model.bin")
    assert contents(convert(other, tmp_path / "b.out", "--dtype", "f32")) == contents(first)
    back = convert(first, tmp_path / "c", "--to", "hf")
    assert contents(convert(back, tmp_path / "c.out", "--dtype", "f32")) == contents(first)


def test_several_formats_in_one_place(tmp_path, reference, capsys):
    """Hugging Face's own comes first, and a config.json alone makes nothing Hugging Face's."""
    directory = write_openai(tmp_path / "both")
    (directory / "config.json").write_text(json.dumps(sources.CONFIG))
    shutil.copy(reference, directory / "converted")
    assert inspect(capsys, directory)[0] == "OpenAI checkpoint (TensorFlow)"
    sources.hugging_face(directory)
    assert inspect(capsys, directory)[0] == "Hugging Face directory"
    assert inspect(capsys, directory / "model.ckpt.index")[0] == "OpenAI checkpoint (TensorFlow)"
    assert inspect(capsys, directory / "converted")[0] == "converted file"


# There and back.


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_there_and_back(tmp_path, model, dtype):
    """A converted file, to a directory, to a converted file: the same bytes but for what they came from."""
    first = convert(model, tmp_path / "first", "--dtype", dtype)
    directory = convert(first, tmp_path / "directory", "--to", "hf")
    second = convert(directory, tmp_path / "second", "--dtype", dtype)
    assert contents(second) == contents(first)
    tensors = safetensors_file.read(directory / "model.safetensors")[0]
    for name, array in sources.WEIGHTS.items():
        matrix = array.ndim == 2 and name != "wpe.weight"
        expected = from_float32(array, dtype.upper() if matrix else "F32")
        assert tensors[name].read().tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_vectors_keep_the_type_of_the_source(tmp_path, dtype):
    weights = {name: from_float32(array, dtype) for name, array in sources.WEIGHTS.items()}
    model = sources.hugging_face(
        tmp_path / "model", weights, write=lambda path, tensors: sources.safetensors(path, tensors, dtype)
    )
    first = convert(model, tmp_path / "first", "--dtype", dtype.lower())
    tensors = safetensors_file.read(convert(first, tmp_path / "back", "--to", "hf") / "model.safetensors")[0]
    for name, array in weights.items():
        assert tensors[name].dtype == dtype and tensors[name].read().tobytes() == array.tobytes()


def test_a_change_of_type_equals_direct_conversion(tmp_path, model, reference):
    for dtype in ("f16", "bf16"):
        direct = convert(model, tmp_path / f"direct-{dtype}", "--dtype", dtype)
        assert contents(convert(reference, tmp_path / dtype, "--dtype", dtype)) == contents(direct)


def test_gguf_is_the_same_from_a_converted_file(tmp_path, model, reference):
    a = convert(model, tmp_path / "a", "--to", "gguf", "--dtype", "f32")
    b = convert(reference, tmp_path / "b", "--to", "gguf", "--dtype", "f32")
    assert a.read_bytes() == b.read_bytes() and a.read_bytes()[:4] == b"GGUF"


def test_the_same_input_gives_the_same_bytes(tmp_path, model):
    """In another process, with other hashes of strings, from another place and at another time."""
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(model, moved)
    os.utime(moved / "model.safetensors", (0, 0))
    first = convert(model, tmp_path / "first")
    child = program(moved, "-o", tmp_path / "second", PYTHONHASHSEED="7", LC_ALL="C", TZ="Asia/Tokyo")
    assert child.returncode == 0
    assert first.read_bytes() == (tmp_path / "second").read_bytes()


def test_the_default_type_is_f16(tmp_path, model):
    tensors = safetensors_file.read(convert(model, tmp_path / "out"))[0]
    assert tensors["wte.weight"].dtype == "F16" and tensors["wpe.weight"].dtype == "F32"


# Tokenizers.


def test_a_tokenizer_from_elsewhere(tmp_path, reference):
    (tmp_path / "x").mkdir()
    path = sources.nanogpt(tmp_path / "x" / "ckpt.pt", rows=4)
    options = ["--dtype", "f32", "--activation", "gelu_new", "--tokenizer"]
    places = [
        sources.tokenizer(tmp_path / "a"),
        sources.tokenizer(tmp_path / "b", ("encoder.json", "vocab.bpe")),
        sources.tokenizer(tmp_path / "c") / "vocab.json",
        reference,
    ]
    for i, place in enumerate(places):
        assert contents(convert(path, tmp_path / f"out{i}", *options, place)) == contents(reference)


def test_a_tokenizer_that_is_given_comes_first(tmp_path, model):
    other = [*tiny_model.TOKENS]
    other[-1] = "<end>"
    directory = sources.tokenizer(tmp_path / "other")
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(other)}))
    out = convert(model, tmp_path / "out", "--tokenizer", directory)
    back = convert(out, tmp_path / "back", "--to", "hf")
    assert "<end>" in json.loads((back / "vocab.json").read_text())


def test_padded_vocabularies(tmp_path):
    """Rows that belong to no token are dropped, or kept."""
    sources.tokenizer(tmp_path)
    nanogpt = sources.nanogpt(tmp_path / "ckpt.pt", rows=60)
    llmc = tmp_path / "model.bin"
    llmc.write_bytes(test_llmc.header() + test_llmc.body())
    for path, kept in ((nanogpt, 320), (llmc, test_llmc.PADDED)):
        for vocabulary, rows in (("trim", 260), ("keep", kept)):
            out = convert(path, tmp_path / f"{path.name}-{vocabulary}", "--vocabulary", vocabulary)
            config = json.loads(safetensors_file.read(out)[1]["gpt2.config"])
            assert config["vocab_size"] == rows and config["eos_token_id"] == 259
            assert config["bos_token_id"] == 259
            directory = convert(out, tmp_path / f"{out.name}-hf", "--to", "hf")
            wte = safetensors_file.read(directory / "model.safetensors")[0]["wte.weight"].read()
            assert wte.shape == (rows, 8) and (wte[260:] == 9).all()
            assert len(json.loads((directory / "vocab.json").read_text())) == 260


def test_tokenizers_that_are_none(tmp_path, model, fails):
    (tmp_path / "x").mkdir()
    path = sources.nanogpt(tmp_path / "x" / "ckpt.pt")
    out = tmp_path / "out"
    assert fails(path, "-o", out) == (
        "nanoGPT checkpoint: expected a tokenizer beside it, vocab.json and merges.txt, encoder.json and "
        "vocab.bpe, or tokenizer.json, found none (--tokenizer PATH tells where one is)"
    )
    assert fails(path, "-o", out, "--tokenizer", tmp_path / "none").endswith("found no such file")
    assert fails(path, "-o", out, "--tokenizer", tmp_path / "x").endswith("found neither")
    vocab = json.dumps({token: i for i, token in enumerate([*tiny_model.TOKENS, "one more"])})
    (model / "vocab.json").write_text(vocab)
    assert fails(model, "-o", out) == (
        f'"{model}/config.json": "vocab_size": expected at least the 261 tokens of the tokenizer, found 260'
    )
    assert fails(path, "-o", out, "--tokenizer", model).endswith("found 260")
    (model / "vocab.json").write_text("{}")
    assert "vocab.json" in fails(model, "-o", out) and not out.exists()


# What cannot be used.


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "gptj"),
        ("activation_function", "silu"),
        ("add_cross_attention", True),
        ("quantization_config", {"bits": 4}),
        ("layer_norm_epsilon", 0),
        ("n_head", 3),
        ("n_layer", 3),
        ("eos_token_id", 260),
    ],
)
def test_models_that_are_none(tmp_path, fails, key, value):
    model = sources.hugging_face(tmp_path / "model", config=tiny_model.config(**{key: value}))
    message = fails(model, "-o", tmp_path / "out")
    if key == "n_layer":
        assert (
            message
            == f'"{model}/config.json" demands tensor "h.2.ln_1.weight" of shape [8], found no such tensor'
        )
    else:
        assert message.startswith(f'"{model}/config.json": "{key}": expected ')
        assert message.endswith(f", found {json.dumps(value)}")
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("to", ["gpt2", "gguf", "hf"])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_proj.weight", "h.0.ln_2.bias", "ln_f.weight"])
def test_weights_that_cannot_be_stored(tmp_path, fails, to, name):
    for value, expected in ((np.nan, "finite weights, found nan"), (-np.inf, "finite weights, found -inf")):
        array = sources.WEIGHTS[name].copy()
        array.reshape(-1)[-1] = value
        model = sources.hugging_face(tmp_path / "model", {**sources.WEIGHTS, name: array})
        assert fails(model, "-o", tmp_path / "out", "--to", to) == (
            f'"{model}/model.safetensors": tensor "{name}", shape {list(array.shape)}: expected {expected} '
            f"at element {array.size - 1}"
        )
        assert names(tmp_path) == ["model"]


def test_weights_that_are_too_large_for_the_type(tmp_path, fails):
    array = sources.WEIGHTS["h.1.mlp.c_fc.weight"].copy()
    array[0, 3] = 70000
    model = sources.hugging_face(tmp_path / "model", {**sources.WEIGHTS, "h.1.mlp.c_fc.weight": array})
    assert fails(model, "-o", tmp_path / "out", "--dtype", "f16") == (
        f'"{model}/model.safetensors": tensor "h.1.mlp.c_fc.weight", shape [8, 32]: expected weights within '
        "the range of F16, found 70000 at element 3 (choose another --dtype)"
    )
    assert names(tmp_path) == ["model"]
    convert(model, tmp_path / "out", "--dtype", "bf16")


def test_heads(tmp_path, fails):
    untied = tiny_model.config(tie_word_embeddings=False)
    model = sources.hugging_face(tmp_path / "model", config=untied)
    assert 'demands tensor "lm_head.weight"' in fails(model, "-o", tmp_path / "out")
    weights = {**sources.WEIGHTS, "lm_head.weight": sources.WEIGHTS["wte.weight"] * np.float32(2)}
    model = sources.hugging_face(tmp_path / "model", weights)
    assert 'expected a copy of "wte.weight"' in fails(model, "-o", tmp_path / "out")


def test_a_directory_without_weights(tmp_path, fails):
    model = sources.hugging_face(tmp_path / "model")
    (model / "model.safetensors").unlink()
    assert "expected weights in one of model.safetensors, " in fails(model, "--inspect")


def test_sources_that_are_none(tmp_path, model, fails):
    (tmp_path / "empty").mkdir()
    assert fails(tmp_path / "empty", "--inspect") == (
        f'"{tmp_path}/empty": expected one of the sources that --help lists, found a directory with '
        "nothing in it"
    )
    assert fails(tmp_path, "--inspect").endswith('found a directory with "empty", "model"')
    assert fails(model / "vocab.json", "--inspect").endswith("found another file")
    os.mkfifo(tmp_path / "pipe")
    assert fails(tmp_path / "pipe", "--inspect").endswith("found another file")
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes((model / "model.safetensors").read_bytes())
    assert fails(lonely, "--inspect").endswith('found a safetensors file without a "config.json" beside it')
    lonely.write_bytes(lonely.read_bytes()[:-1])
    assert 'lonely.safetensors": tensor' in fails(lonely, "--inspect")


def test_malicious_pickles_are_refused(tmp_path, fails):
    marker = tmp_path / "marker"
    model = sources.hugging_face(tmp_path / "model")
    (model / "model.safetensors").unlink()
    pickle = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    for path, source in (
        (model / "pytorch_model.bin", model),
        (model / "ckpt.pt", model / "ckpt.pt"),
        (tmp_path / "ckpt.pt", tmp_path / "ckpt.pt"),
    ):
        sources.by_hand.write_zip(path, pickle)
        assert "os.system" in fails(source, "-o", tmp_path / "out") and not marker.exists()
    assert names(tmp_path) == ["ckpt.pt", "model"]


# Names.


@pytest.fixture
def no_hub(monkeypatch):
    """Lists what would be fetched, and fails."""
    asked = []

    def fetch(text: str, revision: str, **_: Any) -> Any:
        asked.append((text, revision))
        raise cli.ConvertError("no network")

    monkeypatch.setattr(hub, "fetch", fetch)
    return asked


def test_paths_that_do_not_exist_are_not_looked_for_on_the_hub(tmp_path, monkeypatch, no_hub, fails):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    for path in ("models/novella", "./gpt2", "../gpt2", "/gpt2", "~/no-gpt2", "gpt2/", ".", "models\\gpt2"):
        if path != ".":
            message = fails(path, "--inspect")
            assert message.startswith(f'"{path}": expected a file or a directory, found none')
            assert message.endswith(f" (for the hub: hf://{path})") == (path == "models/novella")
    assert fails("model.safetensors", "--inspect").endswith("found no such file")
    assert fails(tmp_path / "broken", "--inspect").endswith("found none")
    assert fails("x" * 5000, "--inspect").endswith("found no such file")
    assert fails("a\nb", "--inspect").endswith("found no such file")
    assert no_hub == []


@pytest.mark.parametrize(
    "name", ["gpt2", "openai-community/gpt2", "hf://models/novella", "https://huggingface.co/gpt2"]
)
def test_names_on_the_hub(tmp_path, monkeypatch, no_hub, fails, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert fails(name, "--inspect") == "no network"
    assert fails(name, "--inspect", "--revision", "v2") == "no network"
    assert no_hub == [(name, "main"), (name, "v2")]


def test_what_exists_comes_before_the_hub(tmp_path, monkeypatch, no_hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources.hugging_face(Path("gpt2"))
    convert("gpt2", Path("out"))
    convert("~/gpt2", Path("out2"))
    assert no_hub == []


def test_the_revision_is_written_down(tmp_path, monkeypatch, model):
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: (model, "a/b@0123"))
    out = convert("a/b", tmp_path / "out")
    assert safetensors_file.read(out)[1]["gpt2.source_revision"] == "a/b@0123"
    again = convert(out, tmp_path / "again")
    assert safetensors_file.read(again)[1]["gpt2.source_revision"] == "a/b@0123"


def test_options_for_other_sources(tmp_path, model, fails):
    out = tmp_path / "out"
    assert fails(model, "-o", out, "--revision", "main").startswith("--revision: expected a model on the ")
    assert fails(model, "-o", out, "--activation", "relu").startswith(
        "--activation relu: expected a nanoGPT "
    )
    assert fails(model, "-o", out, "--vocabulary", "keep").startswith(
        "--vocabulary keep: expected a nanoGPT or "
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["x"], ["-o", "y"], ["x", "--download", "124M", "-o", "y"], ["x", "-o", "y", "--dtype", "int5"]],
)
def test_command_lines_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2 and "usage: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--dtype", "int8", "--to", "gguf"],
            "--dtype: expected f32 or f16 or bf16 beside --to gguf, found int8",
        ),
        (
            ["--dtype", "int4", "--to", "hf"],
            "--dtype: expected f32 or f16 or bf16 beside --to hf, found int4",
        ),
        (
            ["--head-dtype", "f16", "--to", "hf"],
            "--head-dtype f16: expected no type of its own beside --to hf",
        ),
        (
            ["--embedding-dtype", "int8", "--to", "gguf"],
            "--embedding-dtype int8: expected no type of its own beside --to gguf",
        ),
        (["--head-dtype", "int8", "--inspect"], "--head-dtype int8: expected no type beside --inspect"),
        (
            ["--embedding-dtype", "f16", "--inspect"],
            "--embedding-dtype f16: expected no type beside --inspect",
        ),
        (["--calibrate", "self"], "--calibrate: expected --dtype int8 or int4 beside it, found none"),
        (
            ["--calibrate", "self", "--dtype", "f16"],
            "--calibrate: expected --dtype int8 or int4 beside it, found f16",
        ),
        (
            ["--calibrate", "self", "--dtype", "int4", "--inspect"],
            "--calibrate: expected no text beside --inspect",
        ),
        (["--bits", "5"], "--bits: expected --dtype int4 beside it, found none"),
        (
            ["--bits", "5", "--dtype", "int8", "--calibrate", "self"],
            "--bits: expected --dtype int4 beside it, found int8",
        ),
        (
            ["--bits", "5", "--dtype", "int4"],
            "--bits: expected --calibrate beside it, a text to measure with, found none",
        ),
        *(
            (
                ["--bits", bits, "--dtype", "int4", "--calibrate", "self"],
                f"--bits: expected 4.5 to 8.25 bits a weight, found {bits}",
            )
            for bits in ("4.4", "9", "nan")
        ),
    ],
)
def test_types_that_contradict(options, message, capsys):
    """Before anything is looked for."""
    with pytest.raises(SystemExit) as error:
        cli.main(["no/such/model", "-o", "out", *options])
    assert error.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_the_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.split("\n"))) <= 80 if columns == "80" else True
    for word in ("nanoGPT", "llm.c", "OpenAI", "hub", "converted file", "--inspect", "--tokenizer", "int4"):
        assert word in text


# --inspect.


def inspect(capsys: Any, *arguments: object) -> list[str]:
    assert run(*arguments, "--inspect") == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.split("\n")]


def test_inspect(tmp_path, model, capsys):
    lines = inspect(capsys, model)
    assert lines[0] == "Hugging Face directory"
    for line in (
        f"files model.safetensors ({(model / 'model.safetensors').stat().st_size / 1e3:.1f} kB)",
        "tokenizer 260 tokens, 1 of them special, 3 merges",
        "activation_function gelu_new",
        "3,888 parameters; tensors, Hugging Face's names and shapes",
        "wte.weight F32 [260, 8]",
        "h.0-1.attn.c_attn.weight F32 [8, 24]",
        "ln_f.bias F32 [8]",
    ):
        assert line in lines
    assert names(tmp_path) == ["model"]


def test_inspect_shows_layers_that_differ(tmp_path, capsys):
    config = tiny_model.config(n_layer=5)
    weights = tiny_model.arrays(config)

    def write(path: Path, tensors: sources.Weights) -> Path:
        """The third layer's norm in float64."""
        other = {"h.2.ln_1.bias": tensors["h.2.ln_1.bias"].astype(np.float64)}
        sources.safetensors(path.parent / "2.safetensors", other, "F64")
        rest = {name: array for name, array in tensors.items() if name not in other}
        sources.safetensors(path.parent / "1.safetensors", rest)
        places = {name: f"{1 + (name in other)}.safetensors" for name in tensors}
        path.write_text(json.dumps({"weight_map": places}))
        return path

    model = sources.hugging_face(tmp_path / "m", weights, config, write, "model.safetensors.index.json")
    lines = inspect(capsys, model)
    assert "h.0-1,3-4.ln_1.bias F32 [8]" in lines and "h.2.ln_1.bias F64 [8]" in lines
    assert any(line.startswith("files 1.safetensors (") and "2.safetensors (" in line for line in lines)


@pytest.mark.parametrize("name", FORMATS)
def test_inspect_every_format(tmp_path, capsys, name):
    write, kind = FORMATS[name]
    lines = inspect(capsys, write(tmp_path / "source"))
    assert lines[0] == kind and "wte.weight F32 [260, 8]" in lines
    assert "tokenizer 260 tokens, 1 of them special, 3 merges" in lines


def test_inspect_needs_no_tokenizer(tmp_path, capsys):
    path = sources.nanogpt(tmp_path / "ckpt.pt")
    assert "tokenizer none (--tokenizer tells where one is)" in inspect(capsys, path)


def test_inspect_a_converted_file(tmp_path, model, capsys):
    out = convert(model, tmp_path / "out")
    metadata = safetensors_file.read(out)[1]
    bound = safetensors_file.read(out)[0]["self_test.bound"].load()[0]
    lines = inspect(capsys, out)
    assert lines[0] == "converted file"
    for line in (
        "format version 1",
        'layout "panels-32"',
        'converted from "Hugging Face directory"',
        f'source SHA-256 "{metadata["gpt2.source_sha256"]}"',
        f'converted by "{metadata["gpt2.converter"]}"',
        f'checksum "{metadata["gpt2.crc32"]}", correct',
        f"self-test logits after 6 tokens, bound {bound:.2g}",
        "wte.weight F16 [9, 8, 32]",
        "h.0-1.ln_1.bias F32 [16]",
        "tokenizer.token_ends U32 [272]",
        "self_test.logits F32 [272]",
        "3,888 parameters; tensors, as they are in the file",
    ):
        assert line in lines


def test_inspect_integers(tmp_path, model, capsys):
    out = convert(model, tmp_path / "out", "--dtype", "int4", "--embedding-dtype", "f16")
    lines = inspect(capsys, out)
    for line in (
        "tie_word_embeddings False",
        "wte.weight F16 [9, 8, 32]",
        "h.0-1.attn.c_attn.weight INT4 [1, 1, 576] 4.5 bits a weight",
        "lm_head.weight INT8 [9, 1, 2112] 8.25 bits a weight",
    ):
        assert line in lines
    tensors = safetensors_file.read(out)[0]
    weights = {name: t for name, t in tensors.items() if not name.startswith(("tokenizer.", "self_test."))}
    sizes = {"F16": 2, "F32": 4, "U8": 1}
    size = sum(int(np.prod(tensor.shape)) * sizes[tensor.dtype] for tensor in weights.values())
    parameters = 3888 + 260 * 8
    bits = f"{8 * size / parameters:.2f}"
    assert f"{parameters:,} parameters in {bits} bits each; tensors, as they are in the file" in lines


@pytest.mark.parametrize(
    "options, text",
    [
        (["--dtype", "int4"], "int4, head int8, from: "),
        (["--dtype", "int8"], "int8, from: "),
        (["--dtype", "int8", "--embedding-dtype", "f16"], "int8, embedding f16, from: "),
        (["--head-dtype", "int4"], "f16, head int4, from: "),
    ],
)
def test_the_summary_names_the_types(tmp_path, model, capsys, options, text):
    assert cli.main([str(model), "-o", str(tmp_path / "out"), *options]) == 0
    assert f"; {text}Hugging Face directory; " in capsys.readouterr().out


def test_integers_become_floating_point_again(tmp_path):
    """What they stand for: the same from a file of integers in every format that is written from it."""
    even = {name: np.ones_like(array) for name, array in sources.WEIGHTS.items() if "ln_" in name}
    weights = {**sources.WEIGHTS, **even}
    first = convert(sources.hugging_face(tmp_path / "model", weights), tmp_path / "int4", "--dtype", "int4")
    directory = convert(first, tmp_path / "hf", "--to", "hf")
    wide = convert(first, tmp_path / "f32", "--dtype", "f32")
    assert contents(convert(directory, tmp_path / "f32 again", "--dtype", "f32")) == contents(wide)
    convert(first, tmp_path / "gguf", "--to", "gguf", "--dtype", "f32")
    found = safetensors_file.read(directory / "model.safetensors")[0]
    assert {tensor.dtype for tensor in found.values()} == {"F32"}
    for name, weight in weights.items():
        error = np.abs(found[name].read() - weight)
        assert ".c_" in name or "wte" in name or not error.any()
        assert error.max() <= 0.2 * np.abs(weight).max()


def test_a_damaged_file_is_told_and_not_converted(tmp_path, model, capsys, fails):
    out = convert(model, tmp_path / "out")
    data = bytearray(out.read_bytes())
    size = 8 + int.from_bytes(data[:8], "little")
    data[size + 100] ^= 1
    out.write_bytes(data)
    expected = safetensors_file.read(out)[1]["gpt2.crc32"]
    message = fails(out, "-o", tmp_path / "other")
    assert message.startswith(f'"{out}": expected data with the checksum {expected}, found ')
    assert message.endswith("(the file is damaged)") and not (tmp_path / "other").exists()
    assert run(out, "--inspect") == 1
    text, error = capsys.readouterr()
    assert f'"{expected}", WRONG' in text and "the file is damaged" in error


# What must not be lost.


def program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", TOOLS / "convert_weights.py", *arguments]
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_an_output_that_exists(tmp_path, model, fails):
    out = tmp_path / "out"
    for to in ("gpt2", "gguf"):
        out.write_bytes(b"precious")
        assert fails(model, "-o", out, "--to", to) == f'"{out}": exists already (--overwrite replaces it)'
        assert out.read_bytes() == b"precious"
        convert(model, out, "--to", to, "--overwrite")
        assert out.read_bytes() != b"precious"
    assert "expected the name of a directory to write, found a file" in fails(model, "-o", out, "--to", "hf")
    assert "found a directory" in fails(model, "-o", tmp_path, "--overwrite")
    assert names(tmp_path) == ["model", "out"]


def test_a_conversion_that_fails_leaves_the_old_output(tmp_path, fails):
    weights = {**sources.WEIGHTS, "ln_f.bias": np.full(8, np.nan, np.float32)}
    model = sources.hugging_face(tmp_path / "model", weights)
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    for to in ("gpt2", "gguf"):
        assert "finite" in fails(model, "-o", out, "--to", to, "--overwrite")
        assert out.read_bytes() == b"precious" and names(tmp_path) == ["model", "out"]


def test_an_output_that_is_the_input(tmp_path, model, fails):
    weights = model / "model.safetensors"
    before = weights.read_bytes()
    (tmp_path / "symbolic").symlink_to(weights)
    os.link(weights, tmp_path / "hard")
    (tmp_path / "directory").symlink_to(model)
    for out in (weights, tmp_path / "symbolic", tmp_path / "hard", tmp_path / "directory" / weights.name):
        for options in ((), ("--overwrite",), ("--overwrite", "--to", "gguf")):
            message = fails(model, "-o", out, *options)
            assert message == f'"{out}": expected another output than the input'
    for out in (model, tmp_path / "directory"):
        assert "another output" in fails(model, "-o", out, "--to", "hf", "--overwrite")
    assert weights.read_bytes() == before and len(names(model)) == 4
    packed = convert(model, tmp_path / "packed")
    before = packed.read_bytes()
    assert "another output" in fails(packed, "-o", packed, "--dtype", "f32", "--overwrite")
    assert packed.read_bytes() == before


def test_a_shard_is_an_input_too(tmp_path, fails):
    model = sources.sharded(tmp_path / "model", sources.safetensors, "model.safetensors")
    shard = model / "2-of-2.model.safetensors"
    assert "another output" in fails(model, "-o", shard, "--overwrite")


def test_places_where_nothing_can_be_written(tmp_path, model, fails):
    out = tmp_path / "none" / "out"
    assert fails(model, "-o", out) == f'"{out}": the directory "{tmp_path}/none" does not exist'
    assert "does not exist" in fails(model, "-o", model / "config.json" / "out")


def in_child(code: str, *arguments: object, directory: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-B", "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )


def test_places_without_permission(tmp_path, model):
    """Root may read and write anywhere, and so becomes somebody else, in a place that others can be in."""
    code = """
        import os, sys
        from gpt2_convert.cli import main
        if os.getuid() == 0:
            os.setuid(65534)
        sys.exit(main(sys.argv[1:]))
    """
    tmp_path.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o555)
    hidden = sources.hugging_face(tmp_path / "hidden")
    hidden.chmod(0)
    for source, expected in (
        ("model", '"locked/out": cannot be written: Permission denied'),
        ("hidden", '"hidden": Permission denied'),
        ("hidden/model.safetensors", '"hidden/model.safetensors": '),
    ):
        child = in_child(code, source, "-o", "locked/out", directory=tmp_path)
        output, message = child.communicate(timeout=60)
        assert child.returncode == 1 and output == "", message
        assert message.startswith(f"convert_weights.py: {expected}"), message
    hidden.chmod(0o755)
    assert names(tmp_path / "locked") == []


def test_a_full_disk(tmp_path, model):
    """A limit on the size of files gives the same kind of error."""
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    size = convert(model, tmp_path / "other").stat().st_size
    for to in ("gpt2", "gguf", "hf"):
        target = out if to != "hf" else tmp_path / "directory"
        code = """
            import resource, sys
            from gpt2_convert.cli import main
            limit = int(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.exit(main(sys.argv[2:]))
        """
        limit = size // 4 if to == "gpt2" else 3000
        child = in_child(code, limit, model, "-o", target, "--to", to, "--overwrite", "--quiet")
        output, message = child.communicate(timeout=60)
        assert child.returncode == 1 and output == "", message
        assert "the disk is full: File too large (nothing was written)" in message
        assert out.read_bytes() == b"precious" and names(tmp_path) == ["model", "other", "out"]


def test_too_little_space(tmp_path, model, monkeypatch, fails):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = fails(model, "-o", tmp_path / "out")
    assert "the disk is full: expected " in message and message.endswith("found 1000")


HALF = """
    import sys, time
    from gpt2_convert import cli
    from gpt2_convert.safetensors_writer import SafetensorsWriter

    write = SafetensorsWriter.write

    def write_and_wait(self, name, array):
        write(self, name, array)
        if name == "h.0.mlp.c_proj.weight":
            self._file.flush()
            print("half", flush=True)
            time.sleep(600)

    SafetensorsWriter.write = write_and_wait
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("to", ["gpt2", "hf"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_in_the_middle(tmp_path, model, to, number):
    out = tmp_path / "out"
    if to == "gpt2":
        out.write_bytes(b"precious")
    before = names(tmp_path)
    with in_child(HALF, model, "-o", out, "--to", to, "--overwrite", "--quiet") as child:
        assert child.stdout is not None and child.stdout.readline() == "half\n"
        assert [name for name in names(tmp_path) if not name.startswith(".")] == before
        child.send_signal(number)
        child.wait(60)
    assert child.returncode != 0
    assert to == "hf" or out.read_bytes() == b"precious"
    left = [name for name in names(tmp_path) if name not in before]
    if number != signal.SIGKILL:
        assert left == []
        return
    # Nothing can be done about this signal. What is left is hidden, and no program takes it for a model.
    assert len(left) == 1 and left[0].startswith(".out.") and left[0].endswith(".partial")
    part = tmp_path / left[0]
    assert run(part, "--inspect") == 1
    assert run(part, "-o", tmp_path / "again") == 1 and not (tmp_path / "again").exists()


# The program itself.


def test_what_it_says(tmp_path, model):
    child = program(model, "-o", tmp_path / "out")
    size = (tmp_path / "out").stat().st_size
    assert child.returncode == 0
    assert child.stdout.startswith(
        f"{tmp_path}/out: {size / 1e3:.1f} kB; f16, from: Hugging Face directory; 260 tokens; self-test to "
    )
    assert "source: 100 %" in child.stderr and "out: 100 %" in child.stderr
    child = program(model, "-o", tmp_path / "out", "--overwrite", "--quiet")
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


def test_wide_vocabularies_are_said(tmp_path):
    sources.tokenizer(tmp_path)
    path = sources.nanogpt(tmp_path / "ckpt.pt", rows=60)
    child = program(path, "-o", tmp_path / "out", "--vocabulary", "keep")
    assert "; 260 tokens for 320 rows; " in child.stdout


def test_output_that_nobody_reads(model):
    code = "import sys; from gpt2_convert.cli import main; sys.exit(main(sys.argv[1:]))"
    child = in_child(code, model, "--inspect")
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.wait(60) == 1 and child.stderr.read() == ""
    child.stderr.close()


def test_no_tracebacks(tmp_path, model, monkeypatch, capsys):
    for error, message in (
        (OSError(5, "Input/output error", "/some/file"), '"/some/file": Input/output error'),
        (MemoryError(), "expected more memory than there is"),
    ):
        monkeypatch.setattr(cli, "find", lambda request, error=error: (_ for _ in ()).throw(error))
        assert run(model, "--inspect") == 1
        assert capsys.readouterr().err == f"convert_weights.py: {message}\n"
    monkeypatch.setattr(cli, "find", lambda request: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert run(model, "--inspect") == 130


@pytest.mark.parametrize("dtype", ["f32", "f16", "int8", "int4"])
def test_memory_stays_near_the_largest_tensor(tmp_path, dtype):
    """A model of eight times its largest tensor converts in what is left of a limit on the address space."""
    config = tiny_model.config(n_embd=512, n_layer=8, n_head=8)
    weights = tiny_model.arrays(config)
    largest = max(array.nbytes for array in weights.values())
    total = sum(array.nbytes for array in weights.values())
    assert total > 20 * largest
    model = sources.hugging_face(tmp_path / "model", weights, config)
    code = """
        import resource, sys
        from gpt2_convert.cli import main
        status = main(sys.argv[1:])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        sys.exit(status)
    """

    def peak(source: Path, out: Path) -> int:
        child = in_child(code, source, "-o", out, "--dtype", dtype, "--quiet")
        output, message = child.communicate(timeout=60)
        assert child.returncode == 0, message
        return int(output)

    small = peak(sources.hugging_face(tmp_path / "small"), tmp_path / "small.out")
    assert peak(model, tmp_path / "out") - small < min(8 * largest, total // 2)
