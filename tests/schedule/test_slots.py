# SPDX-License-Identifier: Apache-2.0
"""Choosing among sequences, and finding a request by its number."""

import dataclasses
import sys

import pytest
from amaranth import Module, Signal

from serrano.config import preset
from serrano.schedule.slots import CancelSearch, one_of
from support.streams import simulate

CONFIG = preset("tiny")


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "registered"])
def config(request, monkeypatch):
    """Every test runs with and without registers."""
    changed = dataclasses.replace(CONFIG, registered=request.param)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", changed)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_one_of(count: int) -> None:
    m = Module()
    candidates, turn = Signal(count), Signal(range(max(2, count)))
    chosen = one_of(m, CONFIG, candidates, turn, "chosen")
    # The simulator wants a clock.
    m.d.sync += Signal().eq(1)

    async def bench(ctx) -> None:
        for mask in range(1, 1 << count):
            for first in range(count):
                ctx.set(candidates, mask)
                ctx.set(turn, first)
                for _ in range(2 * CONFIG.registered):
                    await ctx.tick()
                order = [*range(first, count), *range(first)]
                assert ctx.get(chosen) == next(number for number in order if mask >> number & 1)

    simulate(m, bench)


NUMBERS = (7, 0xFFFFFFFF, 3, 9)


@pytest.mark.parametrize("wanted", [*NUMBERS, 12, 1])
@pytest.mark.parametrize("active", [0b1111, 0b1010])
@pytest.mark.parametrize("pause", [0, 9])
def test_search(wanted: int, active: int, pause: int) -> None:
    dut = CancelSearch(CONFIG)
    found = []

    async def watch(ctx) -> None:
        async for _, _, hit, hits in ctx.tick().sample(dut.hit, dut.hits):
            if hit or hits:
                found.append((hit, hits))

    async def bench(ctx) -> None:
        ctx.set(dut.active, active)
        ctx.set(dut.waiting, 1)
        ctx.set(dut.waiting_number, 12)
        ctx.set(dut.begin, 1)
        for sequence, number in enumerate(NUMBERS):
            ctx.set(dut.sequence, sequence)
            ctx.set(dut.begin_number, number)
            await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.number, wanted)
        ctx.set(dut.write, 1)
        ctx.set(dut.pause, pause > 0)
        await ctx.tick()
        ctx.set(dut.write, 0)
        ctx.set(dut.number, 0)
        for _ in range(pause):
            assert ctx.get(dut.busy) and not found
            await ctx.tick()
        ctx.set(dut.pause, 0)
        cycles = 0
        while ctx.get(dut.busy):
            await ctx.tick()
            cycles += 1
        assert cycles <= CONFIG.sequences_max + 2
        # A later search finds the same.
        await ctx.tick().repeat(3)

    simulate(dut, bench, background=[watch])
    hits = sum(1 << s for s, number in enumerate(NUMBERS) if number == wanted and active >> s & 1)
    assert found == ([(1, 0)] if wanted == 12 else [(0, hits)] if hits else [])
