# SPDX-License-Identifier: Apache-2.0
"""AccumulatorColumn: accumulation, rounding shifts, halves, results, latency and interval."""

import dataclasses
import random

import pytest

from serrano.config import preset
from serrano.layouts import Half
from serrano.matmul import Engine
from serrano.matmul.accumulator import AccumulatorColumn, results_depth
from support.streams import simulate

CONFIG = preset("tiny")
CONFIGS = (CONFIG, preset("ulx3s"))
LARGE = dataclasses.replace(preset("base"), name="large", n=64)


def rhu(x: int, n: int) -> int:
    return (x + (1 << n >> 1)) >> n


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_random_sums_at_the_smallest_interval(config) -> None:
    dut = AccumulatorColumn(config)
    rng = random.Random(4)
    state: dict[int, int] = {}
    expected = []

    async def put(ctx, value: int, **tag) -> None:
        ctx.set(dut.sum, value)
        ctx.set(dut.tag_i, {"valid": 1, "tag": tag})
        await ctx.tick()
        assert ctx.get(dut.tag_o.valid)

    async def bench(ctx) -> None:
        # As many accumulators in turn as that each is used again after `interval` cycles.
        for step in range(180):
            address = step % dut.interval
            first = address not in state or rng.random() < 0.1
            shift = rng.choice([0, 0, 1, 5, 40, 63])
            value = rng.choice([-(1 << 17), (1 << 17) - 1, rng.randrange(-(1 << 17), 1 << 17)])
            emit = rng.random() < 0.3 and len(expected) < 60
            await put(ctx, value, address=address, first=first, shift=shift, emit=emit)
            state[address] = (0 if first else rhu(state[address], shift)) + value
            if emit:
                expected.append(state[address])
        ctx.set(dut.tag_i, {})
        await ctx.tick().repeat(dut.latency)
        ctx.set(dut.fetch, 1)
        for place, value in enumerate(expected):
            ctx.set(dut.fetch_address, place)
            await ctx.tick()
            assert ctx.get(dut.result) == value

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_halves(config) -> None:
    dut = AccumulatorColumn(config)

    async def bench(ctx) -> None:
        for high, low in ((130_000, -130_000), (-131_072, 131_071)):
            for value, half in ((high, Half.HIGH), (low, Half.LOW)):
                ctx.set(dut.sum, value)
                ctx.set(dut.tag_i, {"valid": 1, "tag": {"first": 1, "emit": 1, "half": half}})
                await ctx.tick()
        ctx.set(dut.tag_i, {})
        await ctx.tick().repeat(dut.latency)
        ctx.set(dut.fetch, 1)
        for place, value in enumerate((256 * 130_000 - 130_000, -256 * 131_072 + 131_071)):
            ctx.set(dut.fetch_address, place)
            await ctx.tick()
            assert ctx.get(dut.result) == value

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_latency(config) -> None:
    dut = AccumulatorColumn(config)

    async def bench(ctx) -> None:
        ctx.set(dut.tag_i, {"valid": 1, "tag": {"first": 1, "emit": 1}})
        for cycle in range(6):
            assert ctx.get(dut.written) == (cycle == dut.latency)
            await ctx.tick()
            ctx.set(dut.tag_i, {})

    simulate(dut, bench)


@pytest.mark.parametrize("extreme", [(1 << 21) - 1, -(1 << 21)])
@pytest.mark.parametrize("registered", [False, True])
def test_shift_of_forty_bits(extreme: int, registered: bool) -> None:
    """Accumulate up to the limits of 40 bits, then divide, step by step."""
    dut = AccumulatorColumn(dataclasses.replace(LARGE, registered=registered))
    total = 1019 * 257 * extreme
    assert abs(total).bit_length() == 39

    async def put(ctx, value: int, half: Half, **tag) -> None:
        ctx.set(dut.sum, value)
        ctx.set(dut.tag_i, {"valid": 1, "tag": {"half": half, **tag}})
        await ctx.tick()

    async def bench(ctx) -> None:
        for step in range(1019):
            for half in (Half.HIGH, Half.LOW):
                await put(ctx, extreme, half, address=0, first=step == 0)
            ctx.set(dut.tag_i, {})
            await ctx.tick().repeat(dut.interval - 2)
        await ctx.tick().repeat(2)
        value = total
        ctx.set(dut.fetch, 1)
        for place, shift in enumerate((0, 1, 0, 2, 3, 1, 5, 7, 11, 39)):
            await put(ctx, 1, Half.WHOLE, address=0, shift=shift, emit=1)
            value = rhu(value, shift) + 1
            ctx.set(dut.tag_i, {})
            ctx.set(dut.fetch_address, place)
            await ctx.tick().repeat(dut.latency + 1)
            assert ctx.get(dut.result) == value

    simulate(dut, bench)


def test_results_cover_the_way_to_them() -> None:
    for config in (*CONFIGS, preset("base"), dataclasses.replace(LARGE, multiplier_latency=3)):
        assert results_depth(config) >= Engine(config).latency
