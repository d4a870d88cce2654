# SPDX-License-Identifier: Apache-2.0
"""Results part by part: order under stalls, halves, rate."""

import random
import re

import pytest

from serrano.attention.parts import ResultParts
from support.streams import STALLS, send, simulate


def results(rng, count, bits, number):
    """Random results with tags, the first of extremes, and whether half of each is wanted."""
    top = 1 << (bits - 1)
    values = [[rng.randrange(-top, top) for _ in range(count)] for _ in range(number)]
    values[0][:2] = [-top, top - 1]
    return [{"channels": one, "tag": rng.randrange(16)} for one in values], rng.choices((0, 1), k=number)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("count", "lanes"), [(4, 1), (4, 2), (8, 2), (16, 4)])
def test_order(count, lanes, stall, registered):
    rng = random.Random(count)
    dut = ResultParts(count, lanes, 40, 4, registered=registered)
    given, halves = results(rng, count, 40, 60)

    async def feed(ctx):
        await send(ctx, dut.i, given, stall, 1)

    async def take(ctx):
        for result, half in zip(given, halves, strict=True):
            parts = (count // lanes) >> half
            ctx.set(dut.half, half)
            for part in range(parts):
                while True:
                    went = ctx.get(dut.go)
                    ctx.set(dut.go, rng.random() >= stall)
                    if ctx.get(dut.taken):
                        break
                    # Of a kept result, only the first part has to wait.
                    assert not registered or part == 0
                    await ctx.tick()
                assert ctx.get(dut.valid) and (part or (went if registered else ctx.get(dut.go)))
                assert list(ctx.get(dut.values)) == result["channels"][part * lanes : (part + 1) * lanes]
                assert ctx.get(dut.tag) == result["tag"]
                assert ctx.get(dut.part) == part
                assert ctx.get(dut.last) == (part == parts - 1)
                await ctx.tick()

    simulate(dut, feed, take)


@pytest.mark.parametrize("registered", [False, True])
def test_rate(registered):
    dut = ResultParts(8, 2, 32, 1, registered=registered)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.go, 1)
        for cycle in range(40):
            valid = ctx.get(dut.valid)
            assert valid == ctx.get(dut.taken) == (cycle >= int(registered))
            assert ctx.get(dut.i.ready) == (cycle % 4 == (1 if registered else 3))
            await ctx.tick()

    simulate(dut, bench)


def test_refused():
    with pytest.raises(ValueError, match=f"^{re.escape('Lanes must divide the channels, 8, not 3')}$"):
        ResultParts(8, 3, 32, 1)
