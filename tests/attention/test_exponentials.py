# SPDX-License-Identifier: Apache-2.0
"""Scores to weights and group maxima against the golden model."""

import dataclasses

import numpy as np
import pytest

from attention import reference
from serrano.attention.exponentials import Exponentials
from serrano.config import preset
from support.streams import STALLS, send, simulate

BIAS = 1 << 20


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("n", "lanes"), [(4, 1), (4, 2), (8, 4), (16, 8), (32, 16), (32, 8)])
def test_writes(n, lanes, stall):
    config = reference.small(n, lanes, attention_rows_max=4)
    rng = np.random.default_rng(n)
    head = reference.head(rng, 4, 2, [16, 16, 9, 0], s_q=(-20, -2), s_v=(-40, 24))
    dut = Exponentials(config)
    tokens, maxima, flags = {}, {}, []

    async def feed_items(ctx):
        ctx.set(dut.rows, head.rows)
        ctx.set(dut.group, head.group)
        ctx.set(dut.room, 1)
        await send(ctx, dut.items, [reference.item_payload(item) for item in head.items], stall)

    async def feed_scores(ctx):
        beats = [beat for item in head.items for beat in reference.score_payloads(config, head, item)]
        await send(ctx, dut.scores, beats, stall, 1)

    async def record(ctx):
        port, late = dut.tokens, dut.maxima
        claims = 0
        while len(flags) < len(head.items):
            _, _, claim, *values = await ctx.tick().sample(
                dut.claim, port.en, port.slot, port.row, port.word, port.data,
                late.en, late.slot, late.row, late.tile, late.data, dut.full, dut.first, dut.last,
            )  # fmt: skip
            en, slot, row, word, data = values[:5]
            claims += claim
            if en:
                for lane in range(lanes):
                    tokens.setdefault((slot, row, word * lanes + lane), []).append(data[lane])
            en, slot, row, tile, data, full, first, last = values[5:]
            if en:
                maxima.setdefault((slot, row, tile), []).append((data.m, data.x))
            if full:
                flags.append((first, last))
        assert claims == len(head.items)

    simulate(dut, feed_items, feed_scores, record)
    for index, item in enumerate(head.items):
        w = item.weights
        for row in range(head.rows):
            for t in range(16):
                token = tokens[index % 2, row, t][index // 2]
                assert token.valid == item.valid[row, t]
                assert (token.mantissa, token.exponent) == (w.mantissa[row, t], w.i[row, t])
                assert (token.weight, token.offset) == (w.u[row, t], w.y[row, t] - w.i[row, t])
            for tile in range(config.group_tiles):
                chosen = [t for t in range(tile * n, tile * n + config.tile_tokens) if item.valid[row, t]]
                m = max((BIAS - (-int(w.z[row, t]) >> 12) for t in chosen), default=0)
                x = max((BIAS + int(w.x[row, t]) for t in chosen), default=0)
                assert maxima[index % 2, row, tile][index // 2] == (m, x)
        assert flags[index] == (item.first, item.last)


def test_waits_for_room():
    config = reference.small(16, 8, attention_rows_max=4)
    head = reference.head(np.random.default_rng(1), 2, 1, [16])
    dut = Exponentials(config)

    async def bench(ctx):
        ctx.set(dut.rows, 2)
        ctx.set(dut.group, 1)
        ctx.set(dut.items.payload, reference.item_payload(head.items[0]))
        ctx.set(dut.items.valid, 1)
        ctx.set(dut.scores.payload, reference.score_payloads(config, head, head.items[0])[0])
        ctx.set(dut.scores.valid, 1)
        for _ in range(30):
            await ctx.tick()
            assert not ctx.get(dut.claim) and not ctx.get(dut.tokens.en) and not ctx.get(dut.scores.ready)
        ctx.set(dut.room, 1)
        await ctx.delay(0)
        assert ctx.get(dut.claim)
        await ctx.tick()
        # Room is for a whole item: what comes after its first scores does not ask again.
        ctx.set(dut.room, 0)
        for cycle in range(1, dut.latency + 1):
            assert ctx.get(dut.tokens.en) == (cycle == dut.latency)
            assert not ctx.get(dut.claim)
            await ctx.tick()

    simulate(dut, bench)


def test_more_lanes_than_tokens() -> None:
    config = dataclasses.replace(preset("base"), n=64, lanes=32)
    with pytest.raises(ValueError, match=r"^lanes must be at most 16 for attention, not 32$"):
        Exponentials(config)
