# SPDX-License-Identifier: Apache-2.0
"""CRC-32 (IEEE 802.3, as in zlib) over several bytes at a time."""

from functools import cache

from amaranth import *

__all__ = ["crc32_step"]

POLYNOMIAL = 0xEDB88320


def _advance(state: int, byte_count: int) -> int:
    for _ in range(8 * byte_count):
        state = state >> 1 ^ (POLYNOMIAL if state & 1 else 0)
    return state


@cache
def _matrix(byte_count: int) -> tuple[int, ...]:
    """Row ``i`` is the mask of bits of (state, data) whose parity is bit ``i`` of the next state."""
    rows = [0] * 32
    for column in range(32 + 8 * byte_count):
        # The update is linear. Data bit d enters as if it stood in the state when its byte's turn comes.
        byte, bit = divmod(column - 32, 8) if column >= 32 else (0, column)
        out = _advance(1 << bit, byte_count - byte)
        for i in range(32):
            rows[i] |= (out >> i & 1) << column
    return tuple(rows)


def crc32_step(state: Value, content: Value, byte_count: int) -> Value:
    """Return the CRC register after ``byte_count`` bytes of ``content``, lowest byte first.

    The register starts as all ones and is inverted at the end, as in zlib.
    """
    everything = Cat(state, content[: 8 * byte_count])
    return Cat((everything & mask).xor() for mask in _matrix(byte_count))
