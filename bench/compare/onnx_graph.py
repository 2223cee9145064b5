# SPDX-License-Identifier: MIT
"""Writes GPT-2 as an ONNX graph with a KV cache, without the onnx package.

The file holds the graph alone: its weights are "external data" that lie where they are, in the
model.safetensors beside it. The messages and their numbers are those of onnx.proto
(https://github.com/onnx/onnx), encoded as https://protobuf.dev/programming-guides/encoding/ says. The
operators are those of ai.onnx, and the attention is Attention of com.microsoft, the operator that ONNX
Runtime's own optimizer makes of an exported GPT-2 (https://github.com/microsoft/onnxruntime,
docs/ContribOperators.md).

Inputs: input_ids [B, T], position_ids [1, T] and past_<layer> [2, B, H, P, D]; outputs: logits [B, V] after
the last token and present_<layer> [2, B, H, P + T, D].
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence, Union

from safetensors_header import Tensor

IR_VERSION = 9
OPSET = 20  #: the first with Gelu
FLOAT, INT64 = 1, 7  #: TensorProto.DataType
AttributeValue = Union[int, float, str]
Extent = Union[int, str]


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def delimited(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def attribute(name: str, value: AttributeValue) -> bytes:
    """AttributeProto"""
    if isinstance(value, float):
        return delimited(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + integer(20, 1)
    if isinstance(value, int):
        return delimited(1, name) + integer(3, value) + integer(20, 2)
    return delimited(1, name) + delimited(4, value) + integer(20, 3)


def value_info(name: str, kind: int, shape: Sequence[Extent]) -> bytes:
    """ValueInfoProto; extents that are not fixed have names."""
    dims = b"".join(
        delimited(1, integer(1, dim) if isinstance(dim, int) else delimited(2, dim)) for dim in shape
    )
    return delimited(1, name) + delimited(2, delimited(1, integer(1, kind) + delimited(2, dims)))


@dataclass
class Graph:
    """A graph in the making."""

    weights: dict[str, Tensor]
    parts: list[bytes] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def input(self, name: str, kind: int, shape: Sequence[Extent]) -> str:
        self.parts.append(delimited(11, value_info(name, kind, shape)))
        return name

    def output(self, name: str, kind: int, shape: Sequence[Extent]) -> None:
        self.parts.append(delimited(12, value_info(name, kind, shape)))

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        domain: str = "",
        **attributes: AttributeValue,
    ) -> str:
        """Adds a node. Returns the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        data = b"".join(delimited(1, name) for name in inputs) + b"".join(delimited(2, n) for n in names)
        data += delimited(3, names[0]) + delimited(4, operator)
        data += b"".join(delimited(5, attribute(name, value)) for name, value in attributes.items())
        self.parts.append(delimited(1, data + (delimited(7, domain) if domain else b"")))
        return names[0]

    def index(self, name: str, value: int) -> str:
        """A constant of no dimensions."""
        raw = struct.pack("<q", value)
        self.parts.append(delimited(5, integer(2, INT64) + delimited(8, name) + delimited(9, raw)))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the checkpoint, by reference to the bytes of its file."""
        if name not in self.used:
            self.used.add(name)
            tensor = self.weights[name]
            data = b"".join(integer(1, extent) for extent in tensor.shape) + integer(2, FLOAT)
            data += delimited(8, name)
            where = {"location": tensor.file, "offset": str(tensor.offset), "length": str(tensor.size)}
            for key, text in where.items():
                data += delimited(13, delimited(1, key) + delimited(2, text))
            self.parts.append(delimited(5, data + integer(14, 1)))
        return name

    def linear(self, x: str, name: str) -> str:
        product = self.node("MatMul", [x, self.weight(f"{name}.weight")], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias")], f"{name}.sum")

    def layer_norm(self, x: str, name: str, epsilon: float) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", [x, scale, bias], f"{name}.out", axis=-1, epsilon=epsilon)


def block(graph: Graph, x: str, layer: int, heads: int, epsilon: float) -> str:
    name = f"h.{layer}"
    normed = graph.layer_norm(x, f"{name}.ln_1", epsilon)
    weight, bias = graph.weight(f"{name}.attn.c_attn.weight"), graph.weight(f"{name}.attn.c_attn.bias")
    attended = graph.node(
        "Attention",
        [normed, weight, bias, "", f"past_{layer}"],
        [f"{name}.attn.out", f"present_{layer}"],
        domain="com.microsoft",
        num_heads=heads,
        unidirectional=1,
    )
    x = graph.node("Add", [graph.linear(attended, f"{name}.attn.c_proj"), x], f"{name}.middle")
    hidden = graph.linear(graph.layer_norm(x, f"{name}.ln_2", epsilon), f"{name}.mlp.c_fc")
    hidden = graph.node("Gelu", [hidden], f"{name}.mlp.gelu", approximate="tanh")
    return graph.node("Add", [graph.linear(hidden, f"{name}.mlp.c_proj"), x], f"{name}.out")


def write_graph(path: Path, tensors: dict[str, Tensor], layers: int, heads: int, epsilon: float) -> None:
    """Writes the graph of a model whose float32 weights lie beside it."""
    graph = Graph(tensors)
    vocab_size, width = tensors["wte.weight"].shape
    ids = graph.input("input_ids", INT64, ["B", "T"])
    positions = graph.input("position_ids", INT64, [1, "T"])
    for layer in range(layers):
        graph.input(f"past_{layer}", FLOAT, [2, "B", heads, "P", width // heads])
        graph.output(f"present_{layer}", FLOAT, [2, "B", heads, "N", width // heads])
    token = graph.node("Gather", [graph.weight("wte.weight"), ids], "token")
    position = graph.node("Gather", [graph.weight("wpe.weight"), positions], "position")
    x = graph.node("Add", [token, position], "embedding")
    for layer in range(layers):
        x = block(graph, x, layer, heads, epsilon)
    last = graph.node("Gather", [x, graph.index("last_index", -1)], "last", axis=1)
    last = graph.layer_norm(last, "ln_f", epsilon)
    graph.node("Gemm", [last, "wte.weight"], "logits", transB=1)
    graph.output("logits", FLOAT, ["B", vocab_size])
    imports = [delimited(1, "") + integer(2, OPSET), delimited(1, "com.microsoft") + integer(2, 1)]
    model = integer(1, IR_VERSION) + delimited(7, b"".join(graph.parts) + delimited(2, "gpt2"))
    path.write_bytes(model + b"".join(delimited(8, entry) for entry in imports))
