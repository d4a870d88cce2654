# SPDX-License-Identifier: Apache-2.0
"""Random jobs for the array engine."""

import random

import numpy as np

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano_sim.golden.fixed import rhu
from serrano_sim.golden.matmul import tile_product

__all__ = ["Job"]


class Job:
    """Random tiles and rows, and what must come out."""

    def __init__(
        self,
        config: AcceleratorConfig,
        seed: int,
        tiles: int,
        rows: int | None = None,
        emits: float = 0.4,
    ):
        rng = np.random.default_rng(seed)
        pick = random.Random(seed)
        n, vectors = config.n, config.load_vectors
        self.emits = emits
        self.units, self.rows, self.results = [], [], []
        state: dict[int, list[int]] = {}
        for _ in range(tiles):
            extreme = pick.random() < 0.2
            tile = rng.choice([-128, 127], (n, n)) if extreme else rng.integers(-128, 128, (n, n))
            by_column = pick.randrange(2)
            sent = tile.T if by_column else tile
            for u in range(config.tile_units):
                part = sent[u * vectors : (u + 1) * vectors]
                self.units.append({"vectors": part.tolist(), "by_column": by_column})
            count = rows or pick.randrange(1, config.rows_max + 1)
            two_bytes = pick.random() < 0.4
            # Few accumulators, in any order: most are used again at once.
            addresses = pick.sample(range(config.rows_max + 1), count)
            for row, address in enumerate(addresses):
                self._row(config, rng, pick, tile, address, two_bytes, row == count - 1, state)

    def _row(self, config, rng, pick, tile, address, two_bytes, last, state) -> None:
        n = config.n
        high = pick.choice([np.full(n, 255), rng.integers(0, 256, n)])
        low = pick.choice([np.full(n, 255), rng.integers(0, 256, n)]) if two_bytes else None
        operand = high if two_bytes else pick.choice([np.full(n, -128), rng.integers(-128, 128, n)])
        first = address not in state or pick.random() < 0.2
        shift = 0 if pick.random() < 0.5 else pick.choice([1, 2, 7, 39, 63])
        emit = pick.random() < self.emits
        tag = {"address": address, "first": first, "emit": emit, "shift": shift, "half": Half.WHOLE}
        total = tile_product(operand[None], tile)[0]
        if two_bytes:
            total = 256 * total + tile_product(low[None], tile)[0]
            # Nothing but `half` counts in a HIGH row.
            ignored = {"address": address ^ 1, "first": 1, "shift": 5, "emit": pick.random() < self.emits}
            self.rows.append({"operand": high.tolist(), "tag": {**ignored, "half": Half.HIGH}, "last": 0})
            tag["half"], operand = Half.LOW, low
        self.rows.append({"operand": operand.tolist(), "tag": tag, "last": last})
        old = np.zeros(n, dtype=np.int64) if first else rhu(np.array(state[address]), shift)
        state[address] = (old + total).tolist()
        if emit:
            self.results.append(state[address])
