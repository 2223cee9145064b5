# SPDX-License-Identifier: MIT
"""What --calibrate names: a text file, or texts that the model writes itself."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from .calibrate import Calibration
from .checkpoint import Checkpoint
from .errors import ConvertError
from .mixed import wider_matrices
from .progress import Progress
from .sample import Tokens, sampled
from .text_tokens import encode, read
from .tokenizer_tables import TokenizerTables

SELF = "self"
TOKENS = 1 << 15  #: that are looked at: twice as many gain 3 % of the divergence (docs/quantization.md)
OWN_LENGTH = 512  #: of the model's own texts, at most: the time to write one grows faster than its length
LEAST_TOKENS = 1 << 10  #: that a text must have: with fewer, matrices follow the text's chance


def calibration(
    checkpoint: Checkpoint,
    tokenizer: TokenizerTables,
    source: str,
    bits: float | None = None,
    quiet: bool = False,
) -> Calibration:
    """source: SELF, or the name of a text file. bits: a weight, for INT4 where some matrices are INT8."""
    tokens, text = _tokens(checkpoint, tokenizer, source, quiet)
    wider = frozenset[str]() if bits is None else wider_matrices(checkpoint, tokens, bits, quiet)
    return Calibration(checkpoint, tokens, text, wider)


def _tokens(
    checkpoint: Checkpoint, tokenizer: TokenizerTables, source: str, quiet: bool
) -> tuple[Tokens, str]:
    """Texts [texts, positions], and what they are."""
    length = min(checkpoint.config.n_positions, TOKENS)
    if source == SELF:
        own = _own_texts(checkpoint, min(length, OWN_LENGTH), quiet)
        return own, "written by the model itself"
    data = read(Path(source), "a text to calibrate with")
    tokens = encode(data, tokenizer)
    if len(tokens) < LEAST_TOKENS:
        raise ConvertError(
            f'"{source}": expected a text of at least {LEAST_TOKENS} tokens to calibrate with, '
            f"found {len(tokens)}"
        )
    checksum = zlib.crc32(data.encode("utf-8"))
    return windows(tokens, length), f"a text with the CRC-32 {checksum:08x}"


def _own_texts(checkpoint: Checkpoint, length: int, quiet: bool) -> Tokens:
    texts = max(1, TOKENS // length)
    progress = Progress("calibration text", texts * length, "tokens", quiet=quiet)
    tokens = sampled(checkpoint, texts, length, progress=progress.update)
    progress.finish()
    return tokens


def windows(tokens: list[int], length: int) -> Tokens:
    """Up to TOKENS of a text in windows, spread over all of it; what fills none up is left out."""
    length = min(length, len(tokens))
    count = len(tokens) // length
    whole = np.array(tokens[: count * length], np.int64).reshape(count, length)
    chosen = max(1, min(count, TOKENS // length))
    spread: Tokens = whole[np.arange(chosen) * count // chosen]
    return spread
