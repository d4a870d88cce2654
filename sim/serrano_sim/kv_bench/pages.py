# SPDX-License-Identifier: Apache-2.0
"""What lies in memory while gather is measured, and what is to come of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..golden.kvcache import block_bytes, record_bytes

__all__ = ["BASE", "LINEAR", "Pages"]

BASE = 0x100000
"""Block 0."""

LINEAR = 0x6000000
"""A copy of the records of one head, one behind the other; the KV blocks end below."""


@dataclass(frozen=True)
class Pages:
    """Blocks full of random bytes.

    Parameters
    ----------
    blocks : :class:`int`
        Number of blocks, NULL included.
    records : :class:`int`
        Records in a block.
    head_dim : :class:`int`
        Dimensions of a head.
    seed : :class:`int`
        Of the bytes.
    """

    blocks: int
    records: int
    head_dim: int
    seed: int

    @property
    def record_bytes(self) -> int:
        return record_bytes(self.head_dim)

    @property
    def block_bytes(self) -> int:
        return block_bytes(1, self.records, self.head_dim)

    def image(self) -> NDArray[np.uint8]:
        """The bytes, [block, byte]."""
        size = self.blocks * self.block_bytes
        if BASE + size > LINEAR:
            raise ValueError(f"There is no room for blocks of {size:,} bytes in all")
        rng = np.random.default_rng(self.seed)
        return np.frombuffer(rng.bytes(size), np.uint8).reshape(self.blocks, self.block_bytes)

    def gathered(self, image: NDArray[np.uint8], table: Sequence[int], record: int) -> NDArray[np.uint8]:
        """What gather gives for all tokens of a sequence that fills its blocks: the record of each block."""
        start = record * self.record_bytes
        return image[np.array(table), start : start + self.record_bytes].reshape(-1)
