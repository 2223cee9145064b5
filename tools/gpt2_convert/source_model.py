# SPDX-License-Identifier: MIT
"""What every reader of a source returns: a model as it was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .tensors import TensorSource

END_OF_TEXT = "<|endoftext|>"  #: the token of GPT-2's vocabulary that stands between texts


@dataclass
class SourceModel:
    """A model in the terms of Hugging Face, whatever format it came from.

    Nothing has been checked yet but what the format itself demands; checkpoint.py does that for all formats.
    """

    kind: str  #: of source, for people: "Hugging Face directory", "nanoGPT checkpoint"
    config: dict[str, Any]  #: the keys of Hugging Face's config.json; absent ones have their defaults
    config_name: str  #: where it was found, for messages
    tensors: dict[str, TensorSource]  #: by Hugging Face's names; linear weights [in, out], as in Conv1D
    vocab_json: bytes | None  #: contents of vocab.json; None: the source has no tokenizer
    merges_txt: bytes | None  #: contents of merges.txt
    files: list[Path] = field(default_factory=list)  #: that hold the weights, for the hash
    revision: str = ""  #: repository and commit of what was downloaded
    #: Of a trimmed vocabulary: the ids that the rows of the embeddings had before, as ranges() writes them.
    original_ids: str = ""
