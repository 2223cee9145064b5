# SPDX-License-Identifier: MIT
"""Reading OpenAI's original checkpoints, written by hand as download_model.py of openai/gpt-2 leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bundle_writer as w
import numpy as np
import pytest
import tiny_model
from gpt2_convert import checkpoint
from gpt2_convert.errors import ConvertError
from gpt2_convert.sources import openai

#: The variables of src/model.py there, and the parameters of transformers' GPT2LMHeadModel.
TOP = {"wte": "wte.weight", "wpe": "wpe.weight", "ln_f/g": "ln_f.weight", "ln_f/b": "ln_f.bias"}
BLOCK = {
    "ln_1/g": "ln_1.weight",
    "ln_1/b": "ln_1.bias",
    "attn/c_attn/w": "attn.c_attn.weight",
    "attn/c_attn/b": "attn.c_attn.bias",
    "attn/c_proj/w": "attn.c_proj.weight",
    "attn/c_proj/b": "attn.c_proj.bias",
    "ln_2/g": "ln_2.weight",
    "ln_2/b": "ln_2.bias",
    "mlp/c_fc/w": "mlp.c_fc.weight",
    "mlp/c_fc/b": "mlp.c_fc.bias",
    "mlp/c_proj/w": "mlp.c_proj.weight",
    "mlp/c_proj/b": "mlp.c_proj.bias",
}
NAMES = {f"model/{name}": plain for name, plain in TOP.items()}
NAMES.update(
    {
        f"model/h{layer}/{name}": f"h.{layer}.{plain}"
        for layer in range(tiny_model.N_LAYER)
        for name, plain in BLOCK.items()
    }
)
HPARAMS = {
    "n_vocab": tiny_model.VOCAB_SIZE,
    "n_ctx": tiny_model.N_POSITIONS,
    "n_embd": tiny_model.N_EMBD,
    "n_head": tiny_model.N_HEAD,
    "n_layer": tiny_model.N_LAYER,
}
WEIGHTS = tiny_model.arrays(tiny_model.config())


def variables() -> list[w.Tensor]:
    result = []
    for name, plain in NAMES.items():
        value = WEIGHTS[plain]
        shape = (1, *value.shape) if name.endswith("/w") else value.shape
        result.append(w.Tensor(name, w.DT_FLOAT, shape, value.tobytes()))
    return result


def optimizer() -> list[w.Tensor]:
    """What programs that train leave beside the model."""
    shape = WEIGHTS["wte.weight"].shape
    ones = np.ones(shape, np.float32).tobytes()
    return [
        w.Tensor("model/wte/Adam", w.DT_FLOAT, shape, ones),
        w.Tensor("model/wte/Adam_1", w.DT_FLOAT, shape, ones),
        w.Tensor("beta1_power", w.DT_FLOAT, (), bytes(4)),
        w.Tensor("global_step", w.DT_INT64, (), bytes(8)),
    ]


def write_model(
    directory: Path, tensors: list[w.Tensor] | None = None, name: str = "model.ckpt", **options: Any
) -> Path:
    w.write(directory / name, variables() if tensors is None else tensors, **options)
    (directory / "hparams.json").write_text(json.dumps(HPARAMS))
    (directory / "encoder.json").write_bytes(tiny_model.VOCAB_JSON)
    (directory / "vocab.bpe").write_bytes(tiny_model.MERGES_TXT)
    (directory / "checkpoint").write_text(
        f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
    )
    return directory


def error_of(path: Path) -> str:
    with pytest.raises(ConvertError) as caught:
        for tensor in openai.read(path).tensors.values():
            tensor.read()
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"compressor": w.snappy, "entries_per_block": 5}])
def test_model(tmp_path: Path, options: dict[str, Any]) -> None:
    write_model(tmp_path, **options)
    assert openai.recognizes(tmp_path)
    model = openai.read(tmp_path)
    assert model.config == tiny_model.config()
    assert model.config_name == str(tmp_path / "hparams.json")
    assert model.vocab_json == tiny_model.VOCAB_JSON
    assert model.merges_txt == tiny_model.MERGES_TXT
    assert [path.name for path in model.files] == ["model.ckpt.index", "model.ckpt.data-00000-of-00001"]
    assert set(model.tensors) == set(WEIGHTS)
    checked = checkpoint.check(model)
    for name, value in WEIGHTS.items():
        assert np.array_equal(checked.tensors[name].read(), value), name


def test_several_data_files(tmp_path: Path) -> None:
    tensors = variables()
    for i, tensor in enumerate(tensors):
        tensor.shard = i % 3
    model = openai.read(write_model(tmp_path, tensors, n_shards=3))
    assert len(model.files) == 4
    for name, value in WEIGHTS.items():
        assert np.array_equal(model.tensors[name].read(), value), name


def test_an_optimizer_is_left_out(tmp_path: Path) -> None:
    model = openai.read(write_model(tmp_path, variables() + optimizer(), name="model-1000"))
    assert set(model.tensors) == set(WEIGHTS)


@pytest.mark.parametrize(
    "name",
    [
        "model/wtee",
        "model/wte/ExponentialMovingAverage",
        "model/h0/attn/c_attn/g",
        "model/h0/ln_1/w",
        "model/h0/ln_3/g",
        "model/h00/ln_1/g",
        "model/h/ln_1/g",
        "model/ln_f/w",
        "model/ln_f/g/b",
        "model/",
    ],
)
def test_unknown_variables_of_the_model(tmp_path: Path, name: str) -> None:
    extra = w.Tensor(name, w.DT_FLOAT, (1,), bytes(4))
    assert f'tensor "{name}": expected only variables of GPT-2 under "model/"' in error_of(
        write_model(tmp_path, variables() + [extra])
    )


def test_a_layer_too_many(tmp_path: Path) -> None:
    extra = w.Tensor("model/h2/ln_1/g", w.DT_FLOAT, (8,), bytes(32))
    model = openai.read(write_model(tmp_path, variables() + [extra]))
    with pytest.raises(ConvertError, match="expected 2 layers"):
        checkpoint.check(model)


def changed(name: str, **changes: Any) -> list[w.Tensor]:
    tensors = variables()
    for tensor in tensors:
        if tensor.name == name:
            tensor.__dict__.update(changes)
    return tensors


def test_linear_layers_of_another_shape(tmp_path: Path) -> None:
    name = "model/h0/attn/c_attn/w"
    for shape in ((8, 24), (2, 4, 24), (1, 1, 8, 24)):
        assert f'tensor "{name}": expected shape [1, in, out], found {list(shape)}' in error_of(
            write_model(tmp_path, changed(name, shape=shape))
        )


def test_variables_of_another_type(tmp_path: Path) -> None:
    write_model(tmp_path, changed("model/wpe", dtype=w.DT_INT32))
    with pytest.raises(ConvertError, match='"model/wpe": expected floating-point .*, found data type 3'):
        openai.read(tmp_path)


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert f'"{path}": tensor "model/wte": expected checksum ' in error_of(tmp_path)
    path.unlink()
    assert f'"{path}": cannot read it' in error_of(tmp_path)


def test_which_checkpoint(tmp_path: Path) -> None:
    """The one that the file "checkpoint" names; without it the only one; or the one that the user names."""
    write_model(tmp_path, name="model-1")
    write_model(tmp_path, changed("model/wpe", data=bytes(WEIGHTS["wpe.weight"].nbytes)), name="model-2")

    def is_second(path: Path) -> bool:
        assert openai.recognizes(path)
        return not openai.read(path).tensors["wpe.weight"].read().any()

    state = tmp_path / "checkpoint"
    assert is_second(tmp_path)
    assert not is_second(tmp_path / "model-1.index")
    assert is_second(tmp_path / "model-2.index")
    for text in (
        'model_checkpoint_path: "/content/run1/model-1"',
        'model_checkpoint_path:"C:\\\\run1\\\\model-1"',
    ):
        state.write_text(f'all_model_checkpoint_paths: "model-2"\n{text}\n')
        assert not is_second(tmp_path)
    state.unlink()
    assert not openai.recognizes(tmp_path)
    assert 'found "model-1.index", "model-2.index" (name the file itself' in error_of(tmp_path)
    (tmp_path / "model-1.index").unlink()
    assert is_second(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model-1",
        *(f'model_checkpoint_path: "{name}"' for name in ("", "../..", "a\0b", "a\33[m")),
        "\xff\0",
    ],
)
def test_bad_state(tmp_path: Path, text: str) -> None:
    write_model(tmp_path)
    (tmp_path / "checkpoint").write_text(text, encoding="latin-1")
    assert not openai.recognizes(tmp_path)
    assert 'expected model_checkpoint_path: "NAME"' in error_of(tmp_path)


def test_the_state_names_nothing_outside_the_directory(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_model(tmp_path, name="outer")
    write_model(tmp_path / "inner")
    (tmp_path / "inner" / "checkpoint").write_text('model_checkpoint_path: "../outer"\n')
    assert str(tmp_path / "inner" / "outer.index") in error_of(tmp_path / "inner")


@pytest.mark.parametrize(
    "hparams, message",
    [
        ("", "expected valid JSON, found an empty file"),
        ("[]", "expected a JSON object, found an array"),
        ("{}", '"n_vocab": expected a positive whole number, found nothing'),
        (json.dumps({**HPARAMS, "n_head": True}), '"n_head": expected a positive whole number, found true'),
        (json.dumps({**HPARAMS, "n_head": 0}), '"n_head": expected a positive whole number, found 0'),
        (json.dumps({**HPARAMS, "n_ctx": 6.0}), '"n_ctx": expected a positive whole number, found 6.0'),
        (
            json.dumps({**HPARAMS, "moe": 4}),
            '"moe": expected only n_vocab, n_ctx, n_embd, n_head, n_layer, found 4',
        ),
        ('{"n_vocab": 1, "n_vocab": 2}', "twice in one object"),
    ],
)
def test_hparams(tmp_path: Path, hparams: str, message: str) -> None:
    write_model(tmp_path)
    (tmp_path / "hparams.json").write_text(hparams)
    error = error_of(tmp_path)
    assert error.startswith(f'"{tmp_path / "hparams.json"}": ') and message in error


def test_no_hparams(tmp_path: Path) -> None:
    (write_model(tmp_path) / "hparams.json").unlink()
    assert openai.recognizes(tmp_path)
    assert "hparams.json" in error_of(tmp_path)


def test_tokenizer(tmp_path: Path) -> None:
    write_model(tmp_path)
    encoder = tmp_path / "encoder.json"
    encoder.write_text('{"a": 0}')
    config = openai.read(tmp_path).config
    assert config["bos_token_id"] is None and config["eos_token_id"] is None
    encoder.write_text('{"<|endoftext|>": "x"}')
    assert '"<|endoftext|>": expected a whole number, found "x"' in error_of(tmp_path)
    encoder.write_text("[]")
    assert "expected a JSON object, found an array" in error_of(tmp_path)
    encoder.unlink()
    assert 'expected encoder.json and vocab.bpe, found "vocab.bpe" only' in error_of(tmp_path)
    (tmp_path / "vocab.bpe").unlink()
    model = openai.read(tmp_path)
    assert model.vocab_json is None and model.merges_txt is None
    assert "bos_token_id" not in model.config


def test_other_sources_are_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.index").write_text("no table")
    (tmp_path / "x\nb").write_text("")
    for path in (
        tmp_path,
        tmp_path / "config.json",
        tmp_path / "model.index",
        tmp_path / "absent",
        Path("a\0b"),
    ):
        assert not openai.recognizes(path)
