# SPDX-License-Identifier: Apache-2.0
"""Counters: increments, carries, snapshot, report, clear."""

import random

import pytest
from amaranth import Fragment, Module

from serrano.csr.counters import INCREMENT_BITS, LOWER_BITS, Counters
from serrano.csr.table import COUNTERS
from serrano.primitives.memory import OnChipMemory
from support.streams import STALLS, simulate

COUNT = len(COUNTERS)
LARGEST = (1 << INCREMENT_BITS) - 1


class Driver:
    """Drives the counters, and counts along."""

    def __init__(self, ctx, dut: Counters, choices: list[int]):
        self.ctx, self.dut, self.choices = ctx, dut, choices
        self.rng = random.Random(1)
        self.model = [0] * COUNT

    async def step(self, **pulses: int) -> list[int]:
        """A cycle with random increments; the counters as they were before it."""
        ctx, dut, before = self.ctx, self.dut, list(self.model)
        for index in range(COUNT):
            increment = self.rng.choice(self.choices)
            ctx.set(dut.increments[index], increment)
            self.model[index] = 0 if pulses.get("clear") else self.model[index] + increment
        for name, value in pulses.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        for name in pulses:
            ctx.set(getattr(dut, name), 0)
        return before

    async def read(self) -> list[int]:
        """The counters of the last snapshot, while all of them go on counting."""
        ctx, read = self.ctx, self.dut.read
        waited = 0
        while ctx.get(read.busy):
            await self.step()
            waited += 1
        assert waited <= COUNT + 1 + self.dut.registered
        values = []
        for index in range(COUNT):
            ctx.set(read.en, 1)
            ctx.set(read.index, index)
            await self.step()
            values.append(ctx.get(read.value))
        ctx.set(read.en, 0)
        return values


class Filled:
    """A platform on which memories wake up with ones everywhere."""

    def get_on_chip_memory(self, wrapper: OnChipMemory) -> Module:
        module = wrapper.describe()
        storage = module._named_submodules["storage"][0]
        storage.init = [(1 << wrapper.width) - 1] * wrapper.depth
        return module


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("platform", [None, Filled()], ids=["zeros", "ones"])
def test_before_the_first_snapshot_all_are_zero(registered: bool, platform: Filled | None) -> None:
    dut = Counters(registered=registered)

    async def bench(ctx) -> None:
        driver = Driver(ctx, dut, [LARGEST])
        for _ in range(3):
            await driver.step()
        assert await driver.read() == [0] * COUNT
        for _ in range(2 * COUNT):
            await driver.step()
        assert await driver.read() == [0] * COUNT
        expected = await driver.step(snapshot=1)
        assert await driver.read() == expected

    simulate(Fragment.get(dut, platform), bench)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("choices", [[0, 1, LARGEST], [LARGEST]], ids=["mixed", "largest"])
def test_snapshot(registered: bool, choices: list[int]) -> None:
    dut = Counters(registered=registered)

    async def bench(ctx) -> None:
        driver = Driver(ctx, dut, choices)
        for turn in range(30):
            for _ in range(driver.rng.randrange(2 * COUNT)):
                await driver.step()
            before = await driver.step(snapshot=1)
            if turn % 4 == 1:
                await driver.step(clear=1)
            elif turn % 4 == 3:
                # The later one of two snapshots counts, even if the first has not been written yet.
                await driver.step()
                before = await driver.step(snapshot=1)
            assert await driver.read() == before
        if choices == [LARGEST]:
            assert max(driver.model) >> LOWER_BITS

    simulate(dut, bench)


def test_clear_and_carries() -> None:
    dut = Counters()

    async def bench(ctx) -> None:
        driver = Driver(ctx, dut, [LARGEST])
        for _ in range(5 << LOWER_BITS - INCREMENT_BITS):
            await driver.step()
        assert await read_all(driver) == driver.last
        assert min(driver.last) >> LOWER_BITS >= 4
        await driver.step(clear=1)
        assert driver.model == [0] * COUNT
        driver.choices = [0]
        assert await read_all(driver) == [0] * COUNT

    async def read_all(driver: Driver) -> list[int]:
        driver.last = await driver.step(snapshot=1)
        return await driver.read()

    simulate(dut, bench)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_report(registered: bool, stall: float) -> None:
    dut = Counters(registered=registered)

    async def bench(ctx) -> None:
        driver = Driver(ctx, dut, [0, 1, LARGEST])
        for _ in range(4):
            for _ in range(driver.rng.randrange(50)):
                await driver.step()
            shown = await driver.step(snapshot=1)
            before = await driver.step(report=1)
            seen = []
            for cycle in range(10 * COUNT):
                ready = driver.rng.random() >= stall
                ctx.set(dut.reported.ready, ready)
                if ctx.get(dut.reported.valid) and ready:
                    seen.append((ctx.get(dut.reported.payload.index), ctx.get(dut.reported.payload.value)))
                # Another report does nothing before this one is over.
                await driver.step(report=int(cycle == 5))
            assert seen == list(enumerate(before))
            assert await driver.read() == shown

    simulate(dut, bench)
