# SPDX-License-Identifier: Apache-2.0
"""BlockPool: random operations against a list."""

import dataclasses
import random

import pytest

from serrano.kvcache.pool import BlockPool, PoolOperation
from serrano_sim.kv_commands import SMALL
from support.streams import simulate

READ, TAKE, DROP, MARK = PoolOperation


async def operate(ctx, dut, operation, **values) -> dict:
    ctx.set(dut.go, 1)
    ctx.set(dut.operation, operation)
    for name, value in values.items():
        ctx.set(getattr(dut, name), value)
    await ctx.tick()
    ctx.set(dut.go, 0)
    assert ctx.get(dut.done)
    state = ctx.get(dut.state)
    found = {name: ctx.get(getattr(dut, name)) for name in ("subject", "following", "previous", "freed")}
    for name in ("references", "tenant", "sealed", "written", "generation"):
        found[name] = getattr(state, name)
    await ctx.tick()
    assert not ctx.get(dut.done)
    assert not ctx.get(dut.freed)
    return found


@pytest.mark.parametrize("blocks", [2, 3, 9, 12])
def test_random_operations(blocks: int) -> None:
    dut = BlockPool(SMALL)
    free = list(range(1, blocks))
    states: dict[int, list[int]] = {number: [0, 0, 0] for number in range(blocks)}
    peak = 0

    async def bench(ctx) -> None:
        nonlocal peak
        rng = random.Random(blocks)
        ctx.set(dut.blocks, blocks)
        ctx.set(dut.initialize, 1)
        await ctx.tick()
        ctx.set(dut.initialize, 0)
        cycles = 1
        while ctx.get(dut.initializing):
            await ctx.tick()
            cycles += 1
        assert cycles <= SMALL.blocks_max + 2
        for _ in range(400):
            held = [number for number in range(1, blocks) if number not in free]
            choice = rng.randrange(4)
            if choice == 0 and free:
                tenant = rng.randrange(256)
                found = await operate(ctx, dut, TAKE, tenant=tenant, block=rng.randrange(blocks))
                assert found["subject"] == free.pop(0)
                generation = states[found["subject"]][2]
                assert found["generation"] == generation
                states[found["subject"]] = [tenant, 0, generation + 1]
            elif choice == 1 and held:
                number = rng.choice(held)
                found = await operate(ctx, dut, DROP, block=number)
                assert (found["subject"], found["freed"], found["references"]) == (number, 1, 1)
                free.append(number)
            elif choice == 2 and held:
                number, written = rng.choice(held), rng.randrange(17)
                await operate(ctx, dut, MARK, block=number, written=written)
                states[number][1] = written
            else:
                number = rng.randrange(1, blocks)
                found = await operate(ctx, dut, READ, block=number)
                place = free.index(number) if number in free else -1
                around = [0, *free, 0]
                links = (around[place + 2], around[place]) if place >= 0 else (0, 0)
                assert (found["following"], found["previous"]) == links
                assert found["references"] == (number not in free)
                assert [found["tenant"], found["written"], found["generation"]] == states[number]
            peak = max(peak, blocks - 1 - len(free))
            await ctx.tick()
            counts = [ctx.get(getattr(dut, name)) for name in ("size", "used", "free", "peak")]
            assert counts == [blocks, blocks - 1 - len(free), len(free), peak]
            ends = (free[0], free[-1]) if free else (0, 0)
            assert (ctx.get(dut.head), ctx.get(dut.tail)) == ends

    simulate(dut, bench)
    assert peak == blocks - 1


def test_one_operation_in_two_cycles() -> None:
    """The next one sees what the one before has done."""
    dut = BlockPool(SMALL)

    async def bench(ctx) -> None:
        ctx.set(dut.blocks, 12)
        ctx.set(dut.initialize, 1)
        await ctx.tick()
        ctx.set(dut.initialize, 0)
        await ctx.tick().until(~dut.initializing)
        for _ in range(3):
            taken = [(await operate(ctx, dut, TAKE))["subject"] for _ in range(11)]
            assert sorted(taken) == list(range(1, 12))
            for number in reversed(taken):
                found = await operate(ctx, dut, DROP, block=number)
                assert (found["subject"], found["references"]) == (number, 1)
            again = [(await operate(ctx, dut, TAKE))["subject"] for _ in range(11)]
            assert again == taken[::-1]
            for number in again:
                await operate(ctx, dut, DROP, block=number)

    simulate(dut, bench)


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"^Generations must have 1 to 32 bits, not 0$"):
        BlockPool(SMALL, 0)
    with pytest.raises(ValueError, match=r"^blocks_max must be at most 65536, not 65537$"):
        BlockPool(dataclasses.replace(SMALL, blocks_max=65537))
