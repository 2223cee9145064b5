# SPDX-License-Identifier: MIT
"""Which type each matrix of a converted file has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .balance import balanced
from .checkpoint import Checkpoint, is_embedding, is_matrix
from .quantize import FORMATS


@dataclass(frozen=True)
class MatrixTypes:
    """Types by their names in this program: F32, F16, BF16, INT8, INT4."""

    layers: str
    head: str
    embedding: str
    wider: frozenset[str] = frozenset()  #: matrices of the layers that are INT8 whatever the others are

    @staticmethod
    def of(layers: str, head: str | None = None, embedding: str | None = None) -> MatrixTypes:
        """With the defaults: a head of 4 bits costs more quality than it saves time."""
        head = head or ("INT8" if layers == "INT4" else layers)
        return MatrixTypes(layers, head, embedding or head)

    def of_tensor(self, name: str) -> str:
        """name: of a tensor in a checkpoint that prepare() returned."""
        if not is_matrix(name):
            return "F32"
        if name == "lm_head.weight":
            return self.head
        if is_embedding(name):
            return self.embedding
        return "INT8" if name in self.wider else self.layers

    def prepare(self, checkpoint: Checkpoint) -> Checkpoint:
        """The same function, with a head of its own where its type differs, and balanced for integers."""
        if self.head != self.embedding and not checkpoint.has_separate_head:
            head = checkpoint.tensors["wte.weight"].renamed("lm_head.weight")
            checkpoint = replace(
                checkpoint,
                config=replace(checkpoint.config, tie_word_embeddings=False),
                tensors={**checkpoint.tensors, head.name: head},
            )
        return balanced(checkpoint, [n for n in checkpoint.tensors if self.of_tensor(n) in FORMATS])

    def text(self) -> str:
        """For people: int4, head int8."""
        text = self.layers.lower()
        if self.wider:
            text += f" and {len(self.wider)} matrices int8"
        if self.head != self.layers:
            text += f", head {self.head.lower()}"
        if self.embedding != self.head:
            text += f", embedding {self.embedding.lower()}"
        return text
