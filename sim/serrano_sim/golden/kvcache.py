# SPDX-License-Identifier: Apache-2.0
"""Paged KV memory, byte for byte: docs/tape.md, section 5."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .fixed import Int, check_signed, check_unsigned, int64

BLOCK_SIZE = 16
NULL = 0


def record_bytes(head_dim: int, code_bytes: int = 1) -> int:
    """Bytes of one (layer, KV head) record of a block."""
    return BLOCK_SIZE * (2 * head_dim * code_bytes + 4)


def block_bytes(layers: int, kv_heads: int, head_dim: int, code_bytes: int = 1) -> int:
    """Bytes of a block."""
    return -(-layers * kv_heads * record_bytes(head_dim, code_bytes) // 64) * 64


def run_offsets(head_dim: int, n: int) -> Int:
    """Where a code lies in its run: [token, dimension], counted in codes."""
    chunks = -(-head_dim // n)
    last = head_dim - n * (chunks - 1)
    token = np.arange(BLOCK_SIZE)[:, None]
    d = np.arange(head_dim)[None, :]
    chunk = d // n
    width = np.where(chunk == chunks - 1, last, n)
    return chunk * BLOCK_SIZE * n + token * width + d % n


class KVCache:
    """Blocks of KV memory and the block tables of sequences.

    Block 0 is NULL and belongs to nobody. Free blocks are handed out in ascending order at first, later in
    the order in which they were freed; a caller that mirrors a device gives its own table instead.

    Parameters
    ----------
    layers, kv_heads, head_dim
        The model's dimensions.
    n
        The geometry's array size, which the layout of a run depends on.
    blocks
        Number of blocks, NULL included.
    code_bytes
        1, or 2 for codes of 16 bits (which only the model has).

    Attributes
    ----------
    image
        The memory from block 0 on, [blocks, block_bytes], uint8.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, n: int = 16, blocks: int = 64, code_bytes: int = 1
    ):
        if blocks < 2:
            raise ValueError(f"KV memory needs NULL and at least one more block, not {blocks!r}")
        if code_bytes not in (1, 2):
            raise ValueError(f"A code has 1 or 2 bytes, not {code_bytes!r}")
        self.layers, self.kv_heads, self.head_dim = layers, kv_heads, head_dim
        self.n, self.blocks, self.code_bytes = n, blocks, code_bytes
        self.record_bytes = record_bytes(head_dim, code_bytes)
        self.block_bytes = block_bytes(layers, kv_heads, head_dim, code_bytes)
        self.image = np.zeros((blocks, self.block_bytes), dtype=np.uint8)
        # Bytes of a token's codes within a run, [token, head_dim * code_bytes].
        offsets = run_offsets(head_dim, n)[..., None] * code_bytes + np.arange(code_bytes)
        self._code_bytes_at = offsets.reshape(BLOCK_SIZE, -1)
        self._free = collections.deque(range(1, blocks))
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def open(self, sequence: int, table: Sequence[int] = (), length: int = 0) -> None:
        """Makes a sequence, with blocks of the caller's choice to begin with.

        Its first `length` tokens are there already, in blocks that other sequences may have too; blocks
        behind them must be free. Nothing of what others have may be written: the caller replaces a last block
        that is not full by its copy.
        """
        if sequence in self._tables:
            raise ValueError(f"Sequence {sequence} is open already")
        filled = -(-length // BLOCK_SIZE)
        if filled > len(table):
            raise ValueError(f"Sequence {sequence} has no blocks for {length} tokens")
        for block in table[filled:]:
            if block not in self._free:
                raise ValueError(f"Block {block!r} is not free")
        for block in table[:filled]:
            if not NULL < block < self.blocks:
                raise ValueError(f"There is no block {block!r}")
        if len(set(table)) != len(table):
            raise ValueError(f"A block table names each block once, not {list(table)!r}")
        for block in table:
            if block in self._free:
                self._free.remove(block)
        self._tables[sequence] = list(table)
        self._lengths[sequence] = length

    def close(self, sequence: int) -> None:
        """Gives the blocks back that no other sequence has, the last one first."""
        table = self.table(sequence)
        del self._tables[sequence], self._lengths[sequence]
        others = {block for other in self._tables.values() for block in other}
        self._free.extend(block for block in reversed(table) if block not in others)

    def copy(self, source: int, destination: int, high: int, low: int = 0) -> None:
        """Copies tokens `low` to `high` - 1 of every record of a block into another one.

        What these do not fill is zero from then on, the bytes behind the records included.
        """
        rows = self._token_bytes(np.arange(low, high))
        self.image[destination] = 0
        self.image[destination, rows] = self.image[source, rows]

    def scrub(self, block: int) -> None:
        """Fills a block with zeros."""
        self.image[block] = 0

    def record(self, block: int, record: int, low: int = 0, high: int = BLOCK_SIZE) -> NDArray[np.uint8]:
        """Record `layer * kv_heads + head` of a block, all tokens but `low` to `high` - 1 being zero."""
        found = np.zeros(self.record_bytes, dtype=np.uint8)
        rows = self._token_bytes(np.arange(low, high))[0]
        found[rows] = self.image[block, record * self.record_bytes + rows]
        return found

    def is_open(self, sequence: int) -> bool:
        """Whether the sequence exists."""
        return sequence in self._tables

    def table(self, sequence: int) -> list[int]:
        """The blocks of a sequence, in logical order."""
        if sequence not in self._tables:
            raise ValueError(f"Sequence {sequence} is not open")
        return list(self._tables[sequence])

    def length(self, sequence: int) -> int:
        """Committed tokens of a sequence."""
        self.table(sequence)
        return self._lengths[sequence]

    @property
    def used(self) -> int:
        """Blocks that belong to sequences."""
        return self.blocks - 1 - len(self._free)

    def reserve(self, sequence: int, count: int) -> None:
        """Makes sure that the next `count` tokens have blocks."""
        missing = -(-(self.length(sequence) + count) // BLOCK_SIZE) - len(self._tables[sequence])
        if missing > len(self._free):
            raise ValueError(f"Sequence {sequence} needs {missing} blocks more, {len(self._free)} are free")
        for _ in range(missing):
            self._tables[sequence].append(self._free.popleft())

    def append(
        self, sequence: int, layer: int, k: ArrayLike, s_k: ArrayLike, v: ArrayLike, s_v: ArrayLike
    ) -> None:
        """Writes the next tokens of one layer, behind the committed length, which stays as it is.

        Parameters
        ----------
        sequence, layer
            Where. The tokens must be reserved.
        k, v
            Codes, [kv_heads, tokens, head_dim].
        s_k, s_v
            Packed scales, [kv_heads, tokens].
        """
        k, v = (check_signed(codes, 8 * self.code_bytes, "KV code") for codes in (k, v))
        s_k, s_v = (check_unsigned(scales, 16, "KV scale") for scales in (s_k, s_v))
        positions = self.length(sequence) + np.arange(k.shape[1])
        table = self._tables[sequence]
        if len(positions) and positions[-1] >= len(table) * BLOCK_SIZE:
            raise ValueError(f"Sequence {sequence} has no block for position {int(positions[-1])}")
        block = np.array(table, dtype=np.int64)[positions // BLOCK_SIZE][None, :, None]
        slot = positions % BLOCK_SIZE
        start = self._records(layer)[:, None, None]
        scale_at = start + 2 * slot[None, :, None] + np.arange(2)
        self.image[block, scale_at] = _bytes(s_k[..., None], 2)
        self.image[block, scale_at + 2 * BLOCK_SIZE] = _bytes(s_v[..., None], 2)
        code_at = start + 4 * BLOCK_SIZE + self._code_bytes_at[slot][None]
        self.image[block, code_at] = _bytes(k, self.code_bytes)
        self.image[block, code_at + self._run_bytes] = _bytes(v, self.code_bytes)

    def commit(self, sequence: int, count: int) -> None:
        """Advances the length by tokens that were appended in every layer."""
        if self.length(sequence) + count > len(self._tables[sequence]) * BLOCK_SIZE:
            raise ValueError(f"Sequence {sequence} has no blocks for {count} tokens more")
        self._lengths[sequence] += count

    def read(self, sequence: int, layer: int, tokens: int) -> tuple[NDArray, Int, NDArray, Int]:
        """K codes [kv_heads, tokens, head_dim], their packed scales [kv_heads, tokens], and the same of V."""
        count = -(-tokens // BLOCK_SIZE)
        table = self.table(sequence)[:count]
        if len(table) < count:
            raise ValueError(f"Sequence {sequence} has no block for position {tokens - 1}")
        records = self._records(layer)
        width = self.kv_heads * self.record_bytes
        data = self.image[np.array(table, dtype=np.int64), records[0] : records[0] + width]
        data = data.reshape(count, self.kv_heads, self.record_bytes).transpose(1, 0, 2)
        scales = data[..., : 4 * BLOCK_SIZE].copy().view("<u2").astype(np.int64)
        kinds = []
        for kind in range(2):
            at = 4 * BLOCK_SIZE + kind * self._run_bytes + self._code_bytes_at
            codes = np.ascontiguousarray(data[..., at]).view(f"<i{self.code_bytes}")
            kinds.append(codes.reshape(self.kv_heads, -1, self.head_dim)[:, :tokens])
            s = scales[..., kind * BLOCK_SIZE : (kind + 1) * BLOCK_SIZE]
            kinds.append(s.reshape(self.kv_heads, -1)[:, :tokens])
        return kinds[0], kinds[1], kinds[2], kinds[3]

    def read_group(
        self, sequence: int, layer: int, head: int, group: int
    ) -> tuple[NDArray, Int, NDArray, Int]:
        """K codes [16, head_dim], their packed scales [16], and the same of V, of one whole block."""
        block = self.table(sequence)[group]
        start = int(self._records(layer)[head])
        record = self.image[block, start : start + self.record_bytes]
        scales = record[: 4 * BLOCK_SIZE].copy().view("<u2").astype(np.int64)
        runs = record[4 * BLOCK_SIZE :].reshape(2, -1)
        k, v = (np.ascontiguousarray(run[self._code_bytes_at]).view(f"<i{self.code_bytes}") for run in runs)
        return k, scales[:BLOCK_SIZE], v, scales[BLOCK_SIZE:]

    def written(self) -> NDArray[np.bool_]:
        """Bytes of the image that belong to committed tokens of open sequences: a mask of its shape.

        All others (tails of blocks, rounding, free blocks) are nobody's and may differ between
        implementations.
        """
        mask = np.zeros(self.image.shape, dtype=bool)
        for sequence, table in self._tables.items():
            length = self._lengths[sequence]
            for index, block in enumerate(table):
                slots = np.arange(max(0, min(BLOCK_SIZE, length - index * BLOCK_SIZE)))
                mask[block, self._token_bytes(slots)] = True
        return mask

    def _token_bytes(self, slots: Int) -> Int:
        """Where in a block the bytes of these tokens lie, in all records: [records, bytes]."""
        every = np.concatenate([self._records(layer) for layer in range(self.layers)])
        scale_at = (2 * slots[:, None] + np.arange(2)).reshape(-1)
        code_at = 4 * BLOCK_SIZE + self._code_bytes_at[slots].reshape(-1)
        at = (scale_at, scale_at + 2 * BLOCK_SIZE, code_at, code_at + self._run_bytes)
        return every[:, None] + np.concatenate(at)

    @property
    def _run_bytes(self) -> int:
        return BLOCK_SIZE * self.head_dim * self.code_bytes

    def _records(self, layer: int) -> Int:
        return (layer * self.kv_heads + np.arange(self.kv_heads)) * self.record_bytes


def _bytes(values: ArrayLike, width: int) -> NDArray[np.uint8]:
    """Little-endian bytes, in place of the last axis."""
    values = int64(values)
    parts = (values[..., None] >> (8 * np.arange(width))) & 255
    return parts.reshape(*values.shape[:-1], -1).astype(np.uint8)
