# SPDX-License-Identifier: MIT
"""PyTorch behind the protocol of driver.hpp: GPT-2 in float32, with a KV cache that is written in place."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch.nn.functional import gelu, layer_norm

from safetensors_header import read_tensors

Tensor = Any


class Model:
    """The weights of a Hugging Face directory, mapped, and the forward pass."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.layers: int = config["n_layer"]
        self.heads: int = config["n_head"]
        self.width: int = config["n_embd"]
        self.positions: int = config["n_positions"]
        self.vocab_size: int = config["vocab_size"]
        self.epsilon: float = config["layer_norm_epsilon"]
        path = folder / "model.safetensors"
        data = np.memmap(path, np.uint8, "c")
        self.weights = {
            name: torch.from_numpy(data[t.offset : t.offset + t.size].view(np.float32).reshape(t.shape))
            for name, t in read_tensors(path).items()
        }

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, (self.width,), weight, bias, self.epsilon)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """x [rows, in]"""
        return torch.addmm(self.weights[f"{name}.bias"], x, self.weights[f"{name}.weight"])


class Context:
    """Sequences of equal length with their keys and values [layers, 2, B, H, positions, D]."""

    def __init__(self, model: Model, sequences: int = 1) -> None:
        self.model, self.sequences, self.length = model, sequences, 0
        head_size = model.width // model.heads
        self.cache = torch.empty((model.layers, 2, sequences, model.heads, model.positions, head_size))

    def attention(self, qkv: Tensor, layer: int, mask: Tensor | None) -> Tensor:
        """qkv [B T, 3 C]"""
        model, B = self.model, self.sequences
        q, k, v = qkv.view(B, -1, 3, model.heads, model.width // model.heads).permute(2, 0, 3, 1, 4)
        end = self.length + q.shape[2]
        keys, values = self.cache[layer, :, :, :, :end]
        keys[:, :, self.length :] = k
        values[:, :, self.length :] = v
        scores = torch.matmul(q * q.shape[-1] ** -0.5, keys.transpose(-1, -2))
        if mask is not None:
            scores += mask
        out = torch.matmul(torch.softmax(scores, -1), values)
        return out.transpose(1, 2).reshape(-1, model.width)

    def forward(self, rows: list[list[int]]) -> Tensor:
        """Appends to each sequence its row of ids. Returns the logits [B, V] after the last."""
        model, n = self.model, len(rows[0])
        weights = model.weights
        positions = slice(self.length, self.length + n)
        x = (weights["wte.weight"][torch.tensor(rows)] + weights["wpe.weight"][positions]).view(
            -1, model.width
        )
        mask = None
        if n > 1:
            mask = torch.full((n, self.length + n), -torch.inf).triu_(self.length + 1)
        for layer in range(model.layers):
            name = f"h.{layer}"
            qkv = model.linear(model.norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn")
            x = x + model.linear(self.attention(qkv, layer, mask), f"{name}.attn.c_proj")
            hidden = model.linear(model.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + model.linear(gelu(hidden, approximate="tanh"), f"{name}.mlp.c_proj")
        self.length += n
        last = x.view(self.sequences, n, model.width)[:, -1]
        return torch.matmul(model.norm(last, "ln_f"), weights["wte.weight"].T)


class Engine:
    def __init__(self, folder: Path) -> None:
        self.model = Model(folder)

    def tokens(self, begin: int, n: int) -> list[int]:
        """The text that every driver reads."""
        return [(i * 7919 + 17) % self.model.vocab_size for i in range(begin, begin + n)]

    def decode(self, depth: int, steps: int) -> float:
        context = Context(self.model)
        if depth > 0:
            context.forward([self.tokens(0, depth)])

        def body() -> None:
            for i in range(steps):
                context.forward([self.tokens(depth + i, 1)])

        return seconds(body)

    def prefill(self, n: int) -> float:
        context = Context(self.model)
        return seconds(lambda: context.forward([self.tokens(0, n)]))

    def batch(self, sequences: int, prompt: int, steps: int) -> float:
        context = Context(self.model, sequences)
        context.forward([self.tokens(s, prompt) for s in range(sequences)])

        def body() -> None:
            for i in range(steps):
                context.forward([self.tokens(s + prompt + i, 1) for s in range(sequences)])

        return seconds(body)

    def generate(self, prompt: int, new_tokens: int, top_k: int, seed: int) -> float:
        context = Context(self.model)
        torch.manual_seed(seed)

        def body() -> None:
            logits = context.forward([self.tokens(0, prompt)])
            for i in range(new_tokens):
                best = torch.topk(logits[0], min(top_k, self.model.vocab_size))
                choice = torch.multinomial(torch.softmax(best.values, -1), 1)
                if i + 1 < new_tokens:
                    logits = context.forward([[int(best.indices[choice])]])

        return seconds(body)

    def logits(self, prompt: int, steps: int, path: str) -> None:
        context = Context(self.model)
        rows = [context.forward([self.tokens(0, prompt)])]
        rows += [context.forward([self.tokens(prompt + i, 1)]) for i in range(steps)]
        torch.cat(rows).numpy().tofile(path)


def seconds(body: Callable[[], object]) -> float:
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def answer(engine: Engine, line: str) -> dict[str, Any]:
    command, *words = line.split()
    if command == "logits":
        engine.logits(int(words[0]), int(words[1]), words[2])
        return {}
    return {"seconds": getattr(engine, command)(*map(int, words))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--positions", type=int)
    parser.add_argument("--cold-start", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    engine = Engine(options.model)
    if options.cold_start > 0:
        engine.generate(options.cold_start, 1, 1, 0)
        print(json.dumps({"first_token": time.clock_gettime(time.CLOCK_MONOTONIC)}))
        return
    text = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    print(json.dumps({"description": text}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, line)), flush=True)


if __name__ == "__main__":
    main()
