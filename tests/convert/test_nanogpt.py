# SPDX-License-Identifier: MIT
"""nanoGPT checkpoints: written by torch, and read without it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert import checkpoint, forward
from gpt2_convert.errors import ConvertError
from gpt2_convert.sources import nanogpt
from gpt2_convert.tensors import Stored, to_float32

#: Made by write_fixture() below with PyTorch 1.13.1.
FIXTURE = Path(__file__).parent / "data" / "nanogpt" / "ckpt.pt"
FIXTURE_ARGUMENTS = {
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 2,
    "block_size": 3,
    "bias": False,
    "vocab_size": 5,
    "dropout": 0.2,
}
LINEAR = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def fixture_weights() -> dict[str, np.ndarray]:
    """By the names in the file, as nn.Linear keeps them: each tensor counts up from a number of its own."""
    shapes = {
        "wte.weight": (5, 2),
        "wpe.weight": (3, 2),
        "h.0.ln_1.weight": (2,),
        "h.0.attn.c_attn.weight": (6, 2),
        "h.0.attn.c_proj.weight": (2, 2),
        "h.0.ln_2.weight": (2,),
        "h.0.mlp.c_fc.weight": (8, 2),
        "h.0.mlp.c_proj.weight": (2, 8),
        "ln_f.weight": (2,),
    }
    return {
        name: (100 * i + np.arange(math.prod(shape)).reshape(shape)).astype(np.float32) / 8
        for i, (name, shape) in enumerate(shapes.items(), 1)
    }


def write_fixture() -> None:
    import torch

    state = {
        f"_orig_mod.transformer.{name}": torch.from_numpy(array) for name, array in fixture_weights().items()
    }
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    torch.save(
        {"model": state, "optimizer": {}, "model_args": FIXTURE_ARGUMENTS, "iter_num": 7, "config": {}},
        FIXTURE,
    )


def values_of(source: Any) -> dict[str, np.ndarray]:
    return {name: to_float32(tensor.read(), tensor.dtype) for name, tensor in source.tensors.items()}


def test_a_committed_checkpoint():
    assert nanogpt.recognizes(FIXTURE)
    source = nanogpt.read(FIXTURE)
    found, written = values_of(source), fixture_weights()
    assert (
        found.keys()
        == checkpoint.expected_shapes(
            checkpoint.ModelConfig.from_json(source.config, "fixture"), separate_head=True
        ).keys()
    )
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array.T if name.endswith(LINEAR) else array)
    np.testing.assert_array_equal(found["lm_head.weight"], written["wte.weight"])
    for name, array in found.items():
        if name.endswith(".bias"):
            assert not array.any() and not np.signbit(array).any()
    assert found["h.0.mlp.c_fc.bias"].shape == (8,)
    assert source.config == {
        "model_type": "gpt2",
        "vocab_size": 5,
        "n_positions": 3,
        "n_embd": 2,
        "n_layer": 1,
        "n_head": 1,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu",
    }
    assert source.vocab_json is None and source.merges_txt is None
    assert source.files == [FIXTURE]
    assert not checkpoint.check(source).has_separate_head


def test_other_files_are_not_recognized(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"PK\3\4 is not enough")
    for path in (other, tmp_path, tmp_path / "missing"):
        assert not nanogpt.recognizes(path)


# What torch writes.


def linear_state(torch: Any, weights: dict[str, np.ndarray], bias: bool, prefix: str = "") -> dict[str, Any]:
    """The state dict of a nanoGPT with these weights, which are in Hugging Face's layout."""
    state = {}
    for name, array in weights.items():
        if name.endswith(".bias") and not bias:
            continue
        key = name if name == "lm_head.weight" else f"transformer.{name}"
        tensor = torch.from_numpy(array)
        state[prefix + key] = tensor.t().contiguous() if name.endswith(LINEAR) else tensor
    state.setdefault(f"{prefix}lm_head.weight", state[f"{prefix}transformer.wte.weight"])
    return state


def arguments(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_embd": config["n_embd"],
        "block_size": config["n_positions"],
        "vocab_size": config["vocab_size"],
        "bias": True,
        "dropout": 0.0,
        **changes,
    }


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def save(torch, tmp_path):
    def write(contents: Any, **options: Any) -> Path:
        path = tmp_path / "ckpt.pt"
        torch.save(contents, path, **options)
        return path

    return write


CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_come_back_to_the_bit(torch, save, prefix, legacy, bias):
    state = linear_state(torch, WEIGHTS, bias=bias, prefix=prefix)
    mask = torch.tril(torch.ones(6, 6)).view(1, 1, 6, 6).bool()
    state.update({f"{prefix}transformer.h.{i}.attn.bias": mask for i in range(2)})
    parameter = torch.nn.Parameter(torch.zeros(3))
    contents = {
        "model": state,
        "optimizer": torch.optim.AdamW([parameter]).state_dict(),
        "model_args": arguments(CONFIG, bias=bias),
        "iter_num": 100,
        "best_val_loss": torch.tensor(3.25),
        "config": {"dataset": "openwebtext", "learning_rate": 6e-4},
    }
    path = save(contents, _use_new_zipfile_serialization=not legacy)
    assert nanogpt.recognizes(path)
    model = checkpoint.check(nanogpt.read(path))
    assert model.tensors.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        is_absent = name.endswith(".bias") and not bias
        np.testing.assert_array_equal(model.tensors[name].read(), 0 * array if is_absent else array)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_element_types_are_kept(torch, save, kind):
    state = linear_state(torch, WEIGHTS, bias=False)
    state = {name: tensor.to(getattr(torch, kind)) for name, tensor in state.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    source = nanogpt.read(save({"model": state, "model_args": arguments(CONFIG, bias=False)}))
    model = checkpoint.check(source)
    dtype = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[kind]
    assert {tensor.dtype for tensor in model.tensors.values()} == {dtype}
    for name, array in WEIGHTS.items():
        expected = torch.from_numpy(array).to(getattr(torch, kind)).float().numpy()
        found = to_float32(model.tensors[name].read(), dtype)
        np.testing.assert_array_equal(found, 0 * expected if name.endswith(".bias") else expected)


def test_a_head_of_its_own_is_kept_for_the_check(torch, save):
    weights = {**WEIGHTS, "lm_head.weight": WEIGHTS["wte.weight"] + 1}
    state = linear_state(torch, weights, bias=True)
    source = nanogpt.read(save({"model": state, "model_args": arguments(CONFIG)}))
    np.testing.assert_array_equal(source.tensors["lm_head.weight"].read(), weights["lm_head.weight"])
    with pytest.raises(ConvertError, match="expected a copy"):
        checkpoint.check(source)


def test_a_padded_vocabulary(torch, save):
    size = {"n_embd": 2, "n_head": 1, "n_layer": 1, "n_positions": 2, "vocab_size": 50304}
    weights = tiny_model.arrays(tiny_model.config(**size))
    state = linear_state(torch, weights, bias=True)
    path = save({"model": state, "model_args": arguments(tiny_model.config(**size))})
    for options, rows in [
        ({}, 50257),
        ({"vocabulary": "keep"}, 50304),
        ({"tokenizer_size": 50300}, 50300),
        ({"tokenizer_size": 60000}, 50304),
        ({"tokenizer_size": 10, "vocabulary": "keep"}, 50304),
    ]:
        model = checkpoint.check(nanogpt.read(path, **options))
        assert model.config.vocab_size == rows
        np.testing.assert_array_equal(model.tensors["wte.weight"].read(), weights["wte.weight"][:rows])
    with pytest.raises(ConvertError, match='expected "trim" or "keep"'):
        nanogpt.read(path, vocabulary="cut")


def test_other_vocabularies_stay_whole_without_a_tokenizer(torch, save):
    source = nanogpt.read(
        save({"model": linear_state(torch, WEIGHTS, bias=True), "model_args": arguments(CONFIG)})
    )
    assert source.config["vocab_size"] == tiny_model.VOCAB_SIZE


def test_the_activation_can_be_told(torch, save):
    path = save({"model": linear_state(torch, WEIGHTS, bias=True), "model_args": arguments(CONFIG)})
    assert nanogpt.read(path).config["activation_function"] == "gelu"
    assert nanogpt.read(path, activation="gelu_new").config["activation_function"] == "gelu_new"


def test_checkpoints_from_before_bias_was_an_argument(torch, save):
    old = arguments(CONFIG)
    del old["bias"]
    model = checkpoint.check(
        nanogpt.read(save({"model": linear_state(torch, WEIGHTS, bias=True), "model_args": old}))
    )
    np.testing.assert_array_equal(model.tensors["ln_f.bias"].read(), WEIGHTS["ln_f.bias"])


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_pytorch(torch, save, bias):
    """The model in PyTorch's own layers, in float64, against the forward pass on what was read."""
    state = linear_state(torch, WEIGHTS, bias)
    model = checkpoint.check(nanogpt.read(save({"model": state, "model_args": arguments(CONFIG, bias=bias)})))
    tokens = [5, 77, 200, 259]
    expected = torch_logits(torch, state, tokens)
    found = forward.logits(
        model.config, False, tokens, lambda name: Stored(model.tensors[name].read(), "F32")
    )
    np.testing.assert_allclose(found.value[0], expected, rtol=0, atol=1e-12)


def torch_logits(torch: Any, state: dict[str, Any], tokens: list[int]) -> np.ndarray:
    """Of the last token."""
    functional = torch.nn.functional
    weights = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, x: Any) -> Any:
        return functional.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights.get(f"{name}.bias"), 1e-5
        )

    n, c = len(tokens), tiny_model.N_EMBD
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:n]
    for i in range(tiny_model.N_LAYER):
        block = f"transformer.h.{i}"
        q, k, v = (
            part.view(n, tiny_model.N_HEAD, -1).transpose(0, 1)
            for part in linear(f"{block}.attn.c_attn", norm(f"{block}.ln_1", x)).split(c, dim=1)
        )
        scores = (q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        x = x + linear(f"{block}.attn.c_proj", (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, c))
        hidden = functional.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x)))
        x = x + linear(f"{block}.mlp.c_proj", hidden)
    return (norm("transformer.ln_f", x)[-1] @ weights["lm_head.weight"].T).numpy()


# What is refused.


@pytest.mark.parametrize(
    "contents, reason",
    [
        ([1, 2], "expected a checkpoint of nanoGPT, .* found an array"),
        ({"state_dict": {}}, 'found the keys "state_dict"'),
        ({"model": {}, "model_args": 3}, "model_args.*expected a dictionary, found 3"),
        ({"model": 3, "model_args": arguments(CONFIG)}, "expected a state dict, found 3"),
        ({"model": {"a": 1}, "model_args": arguments(CONFIG)}, "expected tensors by name, found 1"),
        ({"model": {}, "model_args": arguments(CONFIG, n_layer=0)}, '"n_layer": expected a positive'),
        ({"model": {}, "model_args": arguments(CONFIG, n_head=True)}, '"n_head": .* found true'),
        ({"model": {}, "model_args": arguments(CONFIG, n_embd="8")}, '"n_embd": .* found "8"'),
        ({"model": {}, "model_args": arguments(CONFIG, bias=None)}, '"bias": expected true or false'),
        ({"model": {}, "model_args": arguments(CONFIG, use_rmsnorm=True)}, '"use_rmsnorm": .* found true'),
        ({"model": {}, "model_args": {"n_layer": 1}}, '"n_head": .* found null'),
    ],
)
def test_what_is_no_checkpoint_of_nanogpt(save, contents, reason):
    path = save(contents)
    with pytest.raises(ConvertError, match=reason):
        nanogpt.read(path)


def test_variants_that_are_switched_off_are_no_obstacle(torch, save):
    state = linear_state(torch, WEIGHTS, bias=True)
    nanogpt.read(save({"model": state, "model_args": arguments(CONFIG, use_softmax_one=False)}))


def test_biases_where_there_should_be_none(torch, save):
    state = linear_state(torch, WEIGHTS, bias=True)
    path = save({"model": state, "model_args": arguments(CONFIG, bias=False)})
    with pytest.raises(ConvertError, match='expected no biases, because "bias" is false'):
        nanogpt.read(path)


def test_a_tensor_with_and_without_prefix(torch, save):
    state = linear_state(torch, WEIGHTS, bias=True)
    state["_orig_mod.transformer.ln_f.bias"] = state["transformer.ln_f.bias"]
    with pytest.raises(ConvertError, match="expected every tensor once"):
        nanogpt.read(save({"model": state, "model_args": arguments(CONFIG)}))


def test_integers_are_no_weights(torch, save):
    state = linear_state(torch, WEIGHTS, bias=True)
    state["transformer.ln_f.weight"] = torch.ones(8, dtype=torch.int64)
    with pytest.raises(ConvertError, match="expected floating-point weights, found I64"):
        nanogpt.read(save({"model": state, "model_args": arguments(CONFIG)}))


def test_wrong_shapes_are_named(torch, save):
    state = linear_state(torch, WEIGHTS, bias=True)
    for name, tensor in [
        ("transformer.wte.weight", torch.zeros(7, 8)),
        ("transformer.wte.weight", torch.zeros(())),
        ("transformer.h.1.mlp.c_fc.weight", torch.zeros(8, 32)),
        ("transformer.h.1.mlp.c_fc.weight", torch.zeros(8)),
        ("transformer.h.1.ln_1.gain", torch.zeros(8)),
    ]:
        path = save({"model": {**state, name: tensor}, "model_args": arguments(CONFIG)})
        with pytest.raises(ConvertError, match=name.replace("transformer.", "")):
            checkpoint.check(nanogpt.read(path))


def test_a_repeated_element_takes_no_memory(torch, save):
    """A stride of zero makes a terabyte of one number; with bias=False a bias follows its shape."""
    state = linear_state(torch, WEIGHTS, bias=False)
    state["transformer.h.0.mlp.c_fc.weight"] = torch.zeros(1).as_strided((1 << 38, 8), (0, 0))
    path = save({"model": state, "model_args": arguments(CONFIG, bias=False)})
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ConvertError, match="expected shape"):
        checkpoint.check(nanogpt.read(path))


if __name__ == "__main__":
    write_fixture()
