# SPDX-License-Identifier: MIT
"""Texts that a model writes itself: what it is calibrated with where no other text is at hand."""

from __future__ import annotations

from typing import Callable

import numpy as np
import numpy.typing as npt

from . import batched
from .checkpoint import Checkpoint
from .tensors import Floats, to_float32

Tokens = npt.NDArray[np.int64]

CACHE_BYTES = 1 << 29  #: of keys and values; as many texts are written together as fit in


def sampled(
    checkpoint: Checkpoint,
    texts: int,
    length: int,
    seed: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Tokens:
    """Token ids [texts, length], drawn one after another from the model's own distribution.

    The first is the one that texts begin with. progress: told how many tokens are done.
    """
    writer = _Writer(checkpoint)
    random = np.random.Generator(np.random.PCG64(seed))
    config = checkpoint.config
    together = max(1, CACHE_BYTES // (8 * config.n_layer * length * config.n_embd))
    result = np.empty((texts, length), np.int64)
    for begin in range(0, texts, together):
        part = result[begin : begin + together]
        part[:, 0] = random.integers(config.vocab_size, size=len(part))
        if config.bos_token_id is not None:
            part[:, 0] = config.bos_token_id
        writer.start(len(part), length)
        for position in range(1, length):
            chances = writer.chances(part[:, position - 1], position - 1)
            part[:, position] = drawn(chances, random.random(len(part)))
            progress(begin * length + len(part) * (position + 1))
    return result


def drawn(chances: npt.NDArray[np.float64], numbers: npt.NDArray[np.float64]) -> Tokens:
    """The token of each row of chances [texts, V], in any unit, that a number from 0 to 1 falls on."""
    sums = chances.cumsum(axis=1)
    found = (sums <= (numbers * sums[:, -1])[:, None]).sum(axis=1)
    tokens: Tokens = np.minimum(found, chances.shape[1] - 1)
    return tokens


class _Writer:
    """The model in float32, with the keys and values of what it has read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        self._weights = {
            name: to_float32(tensor.read(), tensor.dtype) for name, tensor in checkpoint.tensors.items()
        }
        self._head = self._weights["lm_head.weight" if checkpoint.has_separate_head else "wte.weight"]

    def start(self, texts: int, length: int) -> None:
        c = self._config
        shape = (c.n_layer, 2, texts, c.n_head, length, c.n_embd // c.n_head)
        self._cache = np.empty(shape, np.float32)

    def chances(self, tokens: Tokens, position: int) -> npt.NDArray[np.float64]:
        """Of the next token [texts, V], the largest 1, after one more token of each text."""
        x = self._weights["wte.weight"][tokens] + self._weights["wpe.weight"][position]
        for layer in range(self._config.n_layer):
            h = f"h.{layer}"
            qkv = self._linear(self._norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
            x = x + self._linear(self._attended(qkv, layer, position), f"{h}.attn.c_proj")
            inner = self._linear(self._norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
            inner = batched.activation(inner, self._config.activation_function)
            x = x + self._linear(inner, f"{h}.mlp.c_proj")
        logits = (self._norm(x, "ln_f") @ self._head.T).astype(np.float64)
        chances: npt.NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return chances

    def _attended(self, qkv: Floats, layer: int, position: int) -> Floats:
        texts, heads = len(qkv), self._config.n_head
        split = qkv.reshape(texts, 3, heads, -1).transpose(1, 0, 2, 3)
        self._cache[layer, :, :, :, position] = split[1:]
        keys, values = self._cache[layer, :, :, :, : position + 1]
        score = (keys @ (split[0] * np.float32(self._config.score_scale(layer)))[..., None])[..., 0]
        score = np.exp(score - score.max(axis=2, keepdims=True))
        score /= score.sum(axis=2, keepdims=True)
        attended: Floats = (score[:, :, None] @ values).reshape(texts, -1)
        return attended

    def _norm(self, x: Floats, name: str) -> Floats:
        gain, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return batched.layer_norm(x, gain, bias, self._config.layer_norm_epsilon)

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
