# SPDX-License-Identifier: Apache-2.0
"""Staging: half and full writes, maxima of codes, reads."""

import random

import numpy as np
import pytest

from serrano.vector.staging import Staging
from serrano_sim.golden.silu import h16_decode, h16_encode
from support.streams import STALLS, send, simulate
from support.vectors import CONFIGS, q16


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_rows(config, half: bool, stall: float) -> None:
    rng = random.Random(1)
    dut = Staging(config)
    rows, columns, lanes = config.rows_max, config.input_max, config.lanes
    half = half and lanes > 1
    step = lanes // 2 if half else lanes

    def make() -> np.ndarray:
        values = h16_encode(q16(rng, rows * columns)).reshape(rows, columns)
        values[rng.randrange(rows)] = 0
        return values

    def beats(codes):
        places = [(row, column) for row in range(rows) for column in range(0, columns, step)]
        rng.shuffle(places)
        for index, (row, column) in enumerate(places):
            own = codes[row, column : column + step].tolist()
            # What the upper half of a half beat holds does not matter.
            own += [rng.getrandbits(16) for _ in range(lanes - step)]
            last = index == len(places) - 1
            yield {"codes": own, "half": half, "row": row, "column": column, "last": last}

    async def bench(ctx) -> None:
        for turn in range(2):
            codes = make()
            assert ctx.get(dut.idle)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await send(ctx, dut.writes, list(beats(codes)), stall, turn)
            await ctx.tick().until(dut.idle)
            maxima = (codes & 0x7FFF).max(axis=1)
            assert list(ctx.get(dut.maxima)) == maxima.tolist()
            assert h16_decode(maxima).tolist() == np.abs(h16_decode(codes)).max(axis=1).tolist()
            ctx.set(dut.read.en, 1)
            for row in range(rows):
                for word in range(columns // lanes):
                    ctx.set(dut.read.row, row)
                    ctx.set(dut.read.word, word)
                    await ctx.tick()
                    assert list(ctx.get(dut.read.data)) == codes[row, word * lanes :][:lanes].tolist()
            ctx.set(dut.read.en, 0)

    simulate(dut, bench)
