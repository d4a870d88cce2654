# SPDX-License-Identifier: Apache-2.0
"""ActivationBuffer: codes in by lanes, out by tiles."""

import random

import numpy as np
import pytest

from serrano.vector.activation_buffer import ActivationBuffer
from support.streams import STALLS, send, simulate
from support.vectors import CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_codes(config, stall: float) -> None:
    rng = random.Random(1)
    dut = ActivationBuffer(config)
    rows, columns, lanes, n = config.rows_max, config.input_max, config.lanes, config.n
    codes = np.array([rng.choice([-128, 127, rng.randint(-128, 127)]) for _ in range(rows * columns)])
    codes = codes.reshape(rows, columns)
    places = [(row, column) for row in range(rows) for column in range(0, columns, lanes)]
    rng.shuffle(places)

    async def bench(ctx) -> None:
        beats = [
            {"codes": codes[row, column : column + lanes].tolist(), "row": row, "column": column, "last": 0}
            for row, column in places
        ]
        await send(ctx, dut.codes, beats, stall, 1)
        ctx.set(dut.read.en, 1)
        for row in range(rows):
            for tile in range(columns // n):
                ctx.set(dut.read.row, row)
                ctx.set(dut.read.tile, tile)
                await ctx.tick()
                assert list(ctx.get(dut.read.data)) == codes[row, tile * n :][:n].tolist()

    simulate(dut, bench)
