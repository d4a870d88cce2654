# SPDX-License-Identifier: Apache-2.0
"""Argmax: ties, padding, rows apart."""

import random

import numpy as np
import pytest

from serrano.vector.argmax import Argmax
from serrano_sim.golden.sample import greedy
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS, INT32_MAX, INT32_MIN, epilogue_beats, q16


def logits(rng: random.Random, rows: int, vocab: int) -> np.ndarray:
    values = np.array(q16(rng, rows * vocab, 0.0)).reshape(rows, vocab)
    for row in range(rows):
        match rng.randrange(5):
            case 0:
                values[row] = INT32_MIN
            case 1:
                values[row, rng.sample(range(vocab), min(vocab, 3))] = INT32_MAX
            case 2:
                # All negative, so that padding's zeros would win.
                values[row] = -np.abs(values[row]) - 1
                values[row, -1] = -1
            case 3:
                values[row] = rng.choice([0, -5])
    return np.maximum(values, INT32_MIN)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_tokens(config, stall: float) -> None:
    rng = random.Random(1)
    dut = Argmax(config)
    sizes = [config.n * 3, config.n * 2 + 1, 1, config.n - 1, config.vocab_max]
    cases = [
        logits(rng, rows, vocab)
        for vocab in sizes
        for rows in ((1, config.rows_max) if vocab < 60 else (config.rows_max,))
    ]

    async def command(ctx) -> None:
        await send(ctx, dut.command, [{"rows": len(y), "vocab": y.shape[1]} for y in cases], stall, 1)

    async def feed(ctx) -> None:
        for y in cases:
            await send(ctx, dut.beats, epilogue_beats(config, y), stall, 2)

    async def drain(ctx) -> None:
        for y in cases:
            tokens = greedy(y).tolist()
            wanted = [(row, token, int(y[row, token])) for row, token in enumerate(tokens)]
            found = await collect(ctx, dut.tokens, len(y), stall, 3, lambda t: (t.row, t.token, t.value))
            assert found == wanted

    simulate(dut, command, feed, drain)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency_and_rate(config) -> None:
    dut = Argmax(config)
    beats = epilogue_beats(config, logits(random.Random(2), 2, 40))
    waited = []

    async def bench(ctx) -> None:
        await send(ctx, dut.command, [{"rows": 2, "vocab": 40}])
        for beat in beats:
            ctx.set(dut.beats.payload, beat)
            ctx.set(dut.beats.valid, 1)
            assert ctx.get(dut.beats.ready)
            await ctx.tick()
            if config.registered and beat is not beats[-1]:
                # One in every other cycle.
                assert not ctx.get(dut.beats.ready)
                await ctx.tick()
        ctx.set(dut.beats.valid, 0)
        for _ in range(dut.latency):
            waited.append(ctx.get(dut.tokens.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert waited == [0] * (dut.latency - 1) + [1]
