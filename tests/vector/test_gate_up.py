# SPDX-License-Identifier: Apache-2.0
"""GateUp: linear outputs to staged half beats."""

import random

import numpy as np
import pytest

from serrano.vector.gate_up import GateUp
from serrano_sim.golden.silu import h16_encode, silu_up
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS, epilogue_beats, q16


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_staged(config, stall: float) -> None:
    rng = random.Random(1)
    dut = GateUp(config)
    # A number of channels that is no multiple of n.
    channels = config.n + config.n // 2 + 1
    y = np.array(q16(rng, 2 * 2 * channels)).reshape(2, -1)
    y[1] >>= 12
    beats = epilogue_beats(config, y)
    codes = h16_encode(silu_up(y[:, 0::2], y[:, 1::2]))
    half = max(1, config.lanes // 2)
    wanted = []
    for beat in beats[config.lanes == 1 :: max(1, 2 // config.lanes)]:
        column = beat["column"] // 2
        values = [*codes[beat["row"], column : column + half].tolist(), *[0] * half][:half]
        wanted.append((values, int(config.lanes > 1), beat["row"], column, beat["last"]))

    async def feed(ctx) -> None:
        await send(ctx, dut.beats, beats, stall, 1)

    async def drain(ctx) -> None:
        def convert(b):
            return list(b.codes)[:half], b.half, b.row, b.column, b.last

        # With registers the pipeline does not stop.
        wait = 0.0 if config.registered else stall
        assert await collect(ctx, dut.staged, len(wanted), wait, 2, convert) == wanted

    simulate(dut, feed, drain)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency_and_rate(config) -> None:
    dut = GateUp(config)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.staged.ready, 1)
        ctx.set(dut.beats.valid, 1)
        # With one lane the second half of a pair moves.
        ctx.set(dut.beats.payload.column, int(config.lanes == 1))
        for _ in range(dut.latency + 10):
            assert ctx.get(dut.beats.ready)
            seen.append(ctx.get(dut.staged.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == [0] * dut.latency + [1] * 10
