# SPDX-License-Identifier: Apache-2.0
"""QKV packets for the benches of the head blocks: linear outputs, tables, and the golden heads."""

import dataclasses
import random
from typing import Any

import numpy as np

from serrano.vector.payloads import HeadKind
from serrano_sim.golden.quantize import quantize
from serrano_sim.golden.rope import rotate, subtract_mean
from serrano_sim.golden.scale import Scale, mul

from .vectors import INT32_MIN, epilogue_beats, q16_rows, scales


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape of a QKV packet; ``head_dim`` below ``head_pad`` leaves padding channels."""

    rows: int
    kv_heads: int
    heads: int
    head_pad: int
    head_dim: int = 0

    @property
    def count(self) -> int:
        return 2 * self.kv_heads + self.heads


class Packet:
    """A random packet and what is to come of it."""

    def __init__(self, config: Any, shape: Shape, seed: int):
        rng = random.Random(seed)
        self.config, self.shape = config, shape
        rows, count, pad = shape.rows, shape.count, shape.head_pad
        self.values = q16_rows(rng, rows * count, pad).reshape(rows, count, pad)
        # Pairs at the limit saturate when they are rotated by half a right angle.
        self.values[0, 0, :2] = INT32_MIN
        self.kmeans = np.array(
            [
                rng.choice([-(1 << 15), (1 << 15) - 1, rng.randint(-1000, 1000)])
                for _ in range(shape.kv_heads * pad)
            ]
        )
        angles = np.array([rng.uniform(0, 7) for _ in range(rows * pad // 2)]).reshape(rows, -1)
        table = np.floor(np.stack((np.cos(angles), np.sin(angles)), axis=-1) * 32768 + 0.5)
        self.table = np.clip(table, -32767, 32767).astype(np.int64)
        self.table[0, 0] = 23170, 23170
        if shape.head_dim:
            self.values[..., shape.head_dim :] = 0
            self.kmeans.reshape(-1, pad)[:, shape.head_dim :] = 0
            self.table[:, shape.head_dim // 2 :] = 32767, 0
        self.score = scales(rng, 1, -12, -5)[0]

    def command(self) -> dict:
        shape = self.shape
        return {
            "rows": shape.rows,
            "kv_heads": shape.kv_heads,
            "heads": shape.heads,
            "head_pad": shape.head_pad,
            "score": {"mantissa": int(self.score.m), "exponent": int(self.score.e)},
        }

    def beats(self) -> list[dict]:
        return epilogue_beats(self.config, self.values.reshape(self.shape.rows, -1), self.kmeans)

    def rope_writes(self) -> list[dict]:
        half = max(2, self.config.lanes) // 2
        return [
            {
                "pairs": [{"cos": int(c), "sin": int(s)} for c, s in self.table[row, word * half :][:half]],
                "row": row,
                "word": word,
            }
            for row in range(self.shape.rows)
            for word in range(self.shape.head_pad // max(2, self.config.lanes))
        ]

    def turned(self) -> np.ndarray:
        """The values to be quantized, [rows, count, head_pad]."""
        kv = self.shape.kv_heads
        turned = rotate(self.values, self.table[:, None])
        turned[:, :kv] = subtract_mean(turned[:, :kv], self.kmeans.reshape(kv, -1))
        turned[:, kv : 2 * kv] = self.values[:, kv : 2 * kv]
        return turned

    def place(self, index: int) -> tuple[HeadKind, int]:
        """Kind and number of the head ``index`` of a row."""
        kv = self.shape.kv_heads
        if index < 2 * kv:
            return (HeadKind.V, index - kv) if index >= kv else (HeadKind.K, index)
        return HeadKind.Q, index - 2 * kv

    def order(self) -> list[tuple[int, int]]:
        """(row, head index) in the order in which heads leave."""
        unit = 2 if self.shape.head_pad < self.config.n else 1
        return [
            (row, index)
            for first in range(0, self.shape.count, unit)
            for row in range(self.shape.rows)
            for index in range(first, min(first + unit, self.shape.count))
        ]

    def codes(self) -> list[tuple]:
        """(kind, row, head, column, codes, last)."""
        codes, _ = quantize(self.turned())
        lanes, order = self.config.lanes, self.order()
        return [
            (
                self.place(index)[0],
                row,
                self.place(index)[1],
                column,
                codes[row, index, column : column + lanes].tolist(),
                int((row, index) == order[-1] and column + lanes == self.shape.head_pad),
            )
            for row, index in order
            for column in range(0, self.shape.head_pad, lanes)
        ]

    def scales(self) -> list[tuple]:
        """(kind, row, head, (mantissa, exponent), last)."""
        _, plain = quantize(self.turned())
        scored = mul(plain, Scale(self.score.m, self.score.e))
        result = []
        for row, index in self.order():
            kind, head = self.place(index)
            scale = (scored if kind == HeadKind.Q else plain)[row, index]
            result.append((kind, row, head, (int(scale.m), int(scale.e)), 0))
        return [*result[:-1], (*result[-1][:-1], 1)]


def plain_codes(beat: Any) -> tuple:
    return beat.kind, beat.row, beat.head, beat.column, list(beat.codes), beat.last


def plain_scale(item: Any) -> tuple:
    return item.kind, item.row, item.head, (item.scale.mantissa, item.scale.exponent), item.last


def shapes(config: Any) -> list[Shape]:
    """Packets of all kinds of shapes that fit a configuration."""
    n, rows = config.n, config.rows_max
    half, full, longest = n // 2, n, config.head_dim_max
    return [
        Shape(rows, 2, 4, half),
        # An odd number of half heads: kinds meet in a block, and the last half block is padding.
        Shape(rows - 1, 1, 1, half),
        Shape(1, 1, 3, half, half - 1 if half > 2 else 0),
        Shape(rows, 1, 2, full),
        Shape(1, 2, 2, 3 * n, 3 * n - 2),
        Shape(2, 1, 4, longest),
        Shape(1, 1, 1, full),
    ]
