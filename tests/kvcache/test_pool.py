# SPDX-License-Identifier: Apache-2.0
"""BlockPool: random operations against a list."""

import dataclasses
import random

import pytest

from serrano.config import AcceleratorConfig
from serrano.kvcache.pool import BlockPool, PoolOperation
from serrano_sim.kv_commands import SMALL
from support.streams import simulate

READ, TAKE, DROP, MARK, HOLD, SEAL, FORGET = PoolOperation


REGISTERED = dataclasses.replace(SMALL, registered=True)
OUTPUTS = ("subject", "following", "previous", "freed", "full")


async def operate(ctx, dut, operation, **values) -> dict:
    ctx.set(dut.go, 1)
    ctx.set(dut.operation, operation)
    for name, value in values.items():
        ctx.set(getattr(dut, name), value)
    await ctx.tick()
    ctx.set(dut.go, 0)
    for _ in range(dut.latency - 1):
        assert not ctx.get(dut.done)
        assert not ctx.get(dut.freed)
        await ctx.tick()
    assert ctx.get(dut.done)
    state = ctx.get(dut.state)
    found = {name: ctx.get(getattr(dut, name)) for name in OUTPUTS}
    for name in ("references", "tenant", "sealed", "written", "generation"):
        found[name] = getattr(state, name)
    await ctx.tick()
    assert not ctx.get(dut.done)
    assert not ctx.get(dut.freed)
    return found


@pytest.mark.parametrize(
    ("config", "blocks"),
    [(SMALL, 2), (SMALL, 3), (SMALL, 9), (SMALL, 12), (REGISTERED, 2), (REGISTERED, 12)],
)
def test_random_operations(config: AcceleratorConfig, blocks: int) -> None:
    dut = BlockPool(config, reference_bits=2)
    free = list(range(1, blocks))
    states = {
        number: dict.fromkeys(("references", "tenant", "sealed", "written", "generation"), 0)
        for number in range(blocks)
    }
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
        assert cycles <= config.blocks_max + dut.latency + 1
        for _ in range(800):
            held = [number for number in range(1, blocks) if number not in free]
            choice = rng.randrange(8)
            number = rng.choice(held) if held else 0
            if choice == 0 and free:
                tenant = rng.randrange(256)
                found = await operate(ctx, dut, TAKE, tenant=tenant, block=rng.randrange(blocks))
                assert found["subject"] == free.pop(0)
                block = states[found["subject"]]
                assert found["generation"] == block["generation"]
                block |= {"references": 1, "tenant": tenant, "written": 0, "sealed": 0}
                block["generation"] += 1
            elif choice in (1, 2) and held:
                found = await operate(ctx, dut, DROP, block=number)
                block = states[number]
                assert (found["subject"], found["references"]) == (number, block["references"])
                assert found["freed"] == (block["references"] == 1)
                block["references"] -= 1
                if not block["references"]:
                    free.append(number)
            elif choice == 3 and held:
                states[number]["written"] = rng.randrange(17)
                await operate(ctx, dut, MARK, block=number, written=states[number]["written"])
            elif choice in (4, 5):
                number = rng.randrange(1, blocks)
                found = await operate(ctx, dut, HOLD, block=number)
                block = states[number]
                assert found["full"] == (block["references"] == 3)
                block["references"] = min(3, block["references"] + 1)
                if number in free:
                    free.remove(number)
                    await ctx.tick()
            elif choice == 6:
                number = rng.randrange(1, blocks)
                operation = rng.choice((SEAL, FORGET))
                await operate(ctx, dut, operation, block=number)
                states[number]["sealed"] = int(operation is SEAL)
                states[number]["generation"] += operation is FORGET
            else:
                number = rng.randrange(1, blocks)
                found = await operate(ctx, dut, READ, block=number)
                place = free.index(number) if number in free else -1
                around = [0, *free, 0]
                links = (around[place + 2], around[place]) if place >= 0 else (0, 0)
                assert (found["following"], found["previous"]) == links
                assert {name: found[name] for name in states[number]} == states[number]
            peak = max(peak, blocks - 1 - len(free))
            await ctx.tick()
            counts = [ctx.get(getattr(dut, name)) for name in ("size", "used", "free", "peak")]
            assert counts == [blocks, blocks - 1 - len(free), len(free), peak]
            ends = (free[0], free[-1]) if free else (0, 0)
            assert (ctx.get(dut.head), ctx.get(dut.tail)) == ends

    simulate(dut, bench)
    assert peak == blocks - 1


@pytest.mark.parametrize(("config", "latency"), [(SMALL, 1), (REGISTERED, 4)])
def test_one_operation_after_the_other(config: AcceleratorConfig, latency: int) -> None:
    """The next one sees what the one before has done."""
    dut = BlockPool(config)
    assert dut.latency == latency

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
