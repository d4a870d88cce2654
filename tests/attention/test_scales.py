# SPDX-License-Identifier: Apache-2.0
"""The scales of items, from records and from the step."""

import numpy as np
import pytest

from attention import reference
from attention.test_order import command, items_of
from serrano.attention.scales import ItemScales
from support.streams import STALLS, collect, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("kv_heads", "committed", "rows"),
    [(2, 0, 1), (1, 5, 3), (2, 16, 16), (1, 39, 12), (2, 31, 1), (1, 96, 2)],
)
def test_equals_memory(kv_heads, committed, rows, stall):
    config = reference.small(16, 8)
    rng = np.random.default_rng(committed)
    one = command(kv_heads, committed, rows)
    items = items_of(config, [one])[0]
    of_records = {item["serial"]: rng.integers(0, 1 << 16, (2, 16)) for item in items if item["memory"]}
    of_step = rng.integers(0, 1 << 16, (kv_heads, rows, 2))
    present_from = {serial: int(rng.integers(0, 100)) for serial in of_records}
    dut = ItemScales(config)
    found = []

    async def start(ctx):
        ctx.set(dut.command, one)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)

    async def memories(ctx):
        cycle, answer, pair = 0, None, None
        while True:
            records, forward = dut.records, dut.forward
            serial = next((s for s in of_records if s % 8 == ctx.get(records.serial)), None)
            ctx.set(records.present, int(serial is not None and cycle >= present_from[serial]))
            _, _, en, slot, step_en, row, head = await ctx.tick().sample(
                records.en, records.slot, forward.en, forward.row, forward.head
            )
            cycle += 1
            # The answers stay until the next read.
            if en:
                assert slot == serial % 6
                answer = of_records[serial]
                k, v = (reference.unpacked(codes) for codes in answer)
                ctx.set(records.data, {"k": k, "v": v})
            if step_en:
                pair = of_step[head, row]
                ctx.set(forward.data, reference.unpacked(pair))

    async def take(ctx):
        found.extend(await collect(ctx, dut.items, len(items), stall))

    simulate(dut, start, take, background=[memories])

    def packed(scales):
        return [scale.exponent << 10 | scale.fraction for scale in scales]

    for got, item in zip(found, items, strict=True):
        assert (got.first, got.last, got.count) == (item["first"], item["last"], item["base"] + 1)
        for kind, scales in enumerate((packed(got.k_scales), packed(got.v_scales))):
            for t in range(16):
                row = t - item["base"]
                if row < 0:
                    assert scales[t] == of_records[item["serial"]][kind, t]
                elif row < rows:
                    assert scales[t] == of_step[item["head"], row, kind]
