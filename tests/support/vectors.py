# SPDX-License-Identifier: Apache-2.0
"""Configurations and numbers for the benches of the vector blocks."""

import dataclasses
import random
from typing import Any

import numpy as np

from serrano.config import preset
from serrano_sim.golden.scale import Scale

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

SMALL = dataclasses.replace(
    preset("tiny"), name="small", dim_max=24, ffn_max=48, heads_max=8, kv_width_max=32, head_dim_max=16,
    vocab_max=64,
)  # fmt: skip
"""n = 4, two lanes."""

BASE = dataclasses.replace(
    preset("base"), name="base_small", rows_max=8, dim_max=96, ffn_max=192, heads_max=8, kv_width_max=128,
    head_dim_max=64, vocab_max=512,
)  # fmt: skip
"""The base preset's n = 16 and eight lanes, with small buffers."""

NARROW = dataclasses.replace(
    preset("ulx3s"), name="narrow", rows_max=5, dim_max=40, ffn_max=48, heads_max=6, kv_width_max=48,
    head_dim_max=24, vocab_max=100,
)  # fmt: skip
"""n = 8 with two lanes: four slices in a block; sizes that are no powers of two."""

LONE = dataclasses.replace(SMALL, name="lone", port_bytes=2, lanes=1, multiplier_latency=3, held_weights=True)
"""n = 4 with one lane: pairs of channels come one after the other."""

LATE = dataclasses.replace(LONE, name="late", registered=True)
"""One lane, and more registers."""

CONFIGS = (SMALL, NARROW, BASE, LONE, LATE)


def q16(rng: random.Random, count: int, extreme: float = 0.1) -> list[int]:
    """Values of int32 of all magnitudes, some of them at its limits."""
    values = []
    for _ in range(count):
        if rng.random() < extreme:
            values.append(rng.choice([INT32_MIN, INT32_MIN + 1, INT32_MAX, -1, 0, 1]))
        else:
            top = 1 << rng.randint(0, 31)
            values.append(rng.randint(-top, top - 1))
    return values


def q16_rows(rng: random.Random, rows: int, length: int) -> np.ndarray:
    """Rows of int32 for a quantizer: each of its own size, with hard cases among them.

    A zero row; one whose maximum is -2**31; one whose normalized maximum rounds up to a power of two.
    """
    result = np.zeros((rows, length), dtype=np.int64)
    for row in range(rows):
        top = 1 << rng.randint(0, 31)
        result[row] = [rng.randint(-top, top - 1) for _ in range(length)]
        case = (row + rng.randrange(4)) % 8
        if case == 0:
            result[row] = 0
        elif case == 1:
            result[row, rng.randrange(length)] = INT32_MIN
        elif case == 2:
            bits = rng.randint(17, 31)
            result[row] = np.clip(result[row], 1 - (1 << bits), (1 << bits) - 1)
            result[row, rng.randrange(length)] = (1 << bits) - 1
    return result


def scales(rng: random.Random, count: int, low: int = -40, high: int = 23, packed: bool = True) -> Scale:
    """Random scales, packable if asked for."""
    m = [
        1 << 15 | rng.randrange(1 << 10) << 5 if packed else rng.randrange(1 << 15, 1 << 16)
        for _ in range(count)
    ]
    return Scale(m, [rng.randint(low, high) for _ in range(count)])


def scale_input(scale: Scale, index: Any = ()) -> dict[str, int]:
    """One of some scales, to be set."""
    return {"mantissa": int(scale.m[index]), "exponent": int(scale.e[index])}


def packed_input(scale: Scale, index: Any = ()) -> dict[str, int]:
    """One of some scales in packed form, to be set."""
    return {"fraction": int(scale.m[index]) >> 5 & 1023, "exponent": int(scale.e[index]) + 40}


def scale_pair(view: Any) -> tuple[int, int]:
    """What was read of a scale."""
    return view.mantissa, view.exponent


def epilogue_beats(config: Any, values: np.ndarray, kmeans: np.ndarray | None = None) -> list[dict]:
    """Beats of linear outputs [rows, columns] in the order block, row, slice; columns padded with zeros.

    ``kmeans`` [columns] go along where given.
    """
    rows, columns = values.shape
    width = -(-columns // config.n) * config.n
    padded = np.zeros((rows, width), dtype=np.int64)
    padded[:, :columns] = values
    means = np.zeros(width, dtype=np.int64)
    if kmeans is not None:
        means[: len(kmeans)] = kmeans
    beats = []
    for block in range(0, width, config.n):
        for row in range(rows):
            for column in range(block, block + config.n, config.lanes):
                lanes = slice(column, column + config.lanes)
                beats.append(
                    {
                        "values": padded[row, lanes].tolist(),
                        "kmeans": means[lanes].tolist(),
                        "row": row,
                        "column": column,
                        "last": 0,
                    }
                )
    beats[-1]["last"] = 1
    return beats
