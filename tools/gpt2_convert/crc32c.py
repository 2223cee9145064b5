# SPDX-License-Identifier: MIT
"""CRC32C (Castagnoli), the checksum of LevelDB's tables and TensorFlow's tensors, at numpy's speed.

The polynomial, the reflected bit order and the inversions before and after are those of RFC 3720, section
12.1 and appendix B.4. The mask is LevelDB's (util/crc32c.h).

Without the inversions a CRC is linear: that of A followed by B is that of A followed by len(B) zeros, XOR
that of B; and zeros at the front change nothing. So the data are cut into lanes of equal length, with zeros
put before the first; one numpy operation advances all lanes by four bytes; then neighbours are joined in
pairs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Union

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

_POLYNOMIAL = 0x82F63B78  # reflected
_MASK_DELTA = 0xA282EAD8

_LANE = 32  #: bytes of a lane: many short ones are fastest
_PIECE = 1 << 22  #: bytes worked on at once: the lanes and their states stay in the cache


def crc32c(data: Union[bytes, Bytes]) -> int:
    """The checksum of all of the data."""
    values = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    state = np.array([0xFFFFFFFF], np.uint32)
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE]
        state = _append_zeros(state, len(piece)) ^ _remainder(piece)
    return int(state[0]) ^ 0xFFFFFFFF


def unmask(masked: int) -> int:
    """The checksum that a file stores masked, lest a checksum of data that hold checksums be weak."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17) | (rotated << 15) & 0xFFFFFFFF


def _remainder(piece: Bytes) -> Words:
    """The CRC of a piece without the inversions, as an array of one."""
    lanes = -(-len(piece) // _LANE)
    if lanes * _LANE != len(piece):
        piece = np.concatenate([np.zeros(lanes * _LANE - len(piece), np.uint8), piece])
    # Columns must lie together: the loop goes through one after the other.
    columns = np.ascontiguousarray(piece.view("<u4").reshape(lanes, -1).T)
    states = np.zeros(lanes, np.uint32)
    for column in columns:
        states = _append_zeros(states ^ column, 4)
    return _joined(states)


def _joined(states: Words) -> Words:
    """Joins the states of successive lanes into one."""
    length = _LANE
    while len(states) > 1:
        if len(states) % 2 != 0:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _append_zeros(states[0::2], length) ^ states[1::2]
        length *= 2
    return states


def _append_zeros(states: Words, n: int) -> Words:
    """What the states become when n zero bytes follow."""
    for exponent in range(n.bit_length()):
        if n >> exponent & 1:
            states = _mapped(states, *_zeros_tables(exponent))
    return states


def _mapped(states: Words, low: Words, high: Words) -> Words:
    """A linear map, given by its values for the lower and for the upper 16 bits."""
    return np.take(low, states & 0xFFFF) ^ np.take(high, states >> 16)


@lru_cache(maxsize=None)
def _zeros_tables(exponent: int) -> tuple[Words, Words]:
    """The map of appending 2**exponent zero bytes."""
    images = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))  # of the single bits
    if exponent == 0:
        for _ in range(8):
            images = (images >> 1) ^ np.where(images & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    else:
        half = _zeros_tables(exponent - 1)
        images = _mapped(_mapped(images, *half), *half)
    return _spanned(images[:16]), _spanned(images[16:])


def _spanned(images: Words) -> Words:
    """The values of a linear map for all combinations of the bits whose images these are."""
    table = np.zeros(1, np.uint32)
    for image in images:
        table = np.concatenate([table, table ^ image])
    return table
