# SPDX-License-Identifier: Apache-2.0
"""Places: addresses and slots of rows."""

import random

import pytest

from kvcache.memory import translator
from serrano.config import preset
from serrano.kvcache import Status
from serrano.kvcache.places import Places
from support.streams import STALLS, send, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("name", ["tiny", "base"])
def test_random_rows(name: str, stall: float) -> None:
    config = preset(name)
    dut = Places(config)
    rng = random.Random(4)
    top = config.blocks_max - 1
    tables = {seq: [rng.choice([0, 1, top, rng.randrange(top)]) for _ in range(5)] for seq in range(3)}
    faults = []

    async def bench(ctx) -> None:
        for base, block_bytes in ((0, 64), (0x123000, 0xFEC0), ((1 << 32) - 4096 - (top << 16), 1 << 16)):
            ctx.set(dut.geometry, {"base": base, "block_bytes": block_bytes})
            rows = [
                {"row": row, "seq": rng.randrange(3), "position": rng.randrange(90)}
                for row in rng.sample(range(config.rows_max), config.rows_max)
            ]
            faults.clear()
            await send(ctx, dut.places, rows, stall, base)
            await ctx.tick().until(~dut.busy)
            await ctx.tick()
            unmapped = 0
            for place in rows:
                ctx.set(dut.r_row, place["row"])
                ctx.set(dut.r_en, 1)
                await ctx.tick()
                ctx.set(dut.r_en, 0)
                entry = ctx.get(dut.r_entry)
                index = place["position"] // 16
                block = tables[place["seq"]][index] if index < 5 else 0
                assert entry.mapped == (block != 0)
                assert entry.slot == place["position"] % 16
                unmapped += not block
                assert not block or entry.address == (base + block * block_bytes) % (1 << config.address_bits)
            assert len(faults) == unmapped

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                assert fault.status in (Status.NOT_MAPPED, Status.OUT_OF_RANGE)
                faults.append(fault.status)

    async def answer(ctx) -> None:
        await translator(ctx, dut.translate, tables, stall)

    simulate(dut, bench, background=[watch, answer])
