# SPDX-License-Identifier: Apache-2.0
"""Running maxima, weights and denominators against the golden model."""

import numpy as np
import pytest

from attention import reference
from serrano.attention.rescaler import Rescaler
from support.streams import STALLS, collect, simulate

BIAS = 1 << 20


def memory_of(config, head, item):
    """What lies behind the read port: words of tokens and maxima of each row."""
    w, words, maxima = item.weights, {}, {}
    for row in range(head.rows):
        for t in range(16):
            word = words.setdefault((row, t // config.lanes), [])
            word.append(
                {
                    "mantissa": int(w.mantissa[row, t]),
                    "exponent": int(w.i[row, t]),
                    "weight": int(w.u[row, t]),
                    "offset": int(w.y[row, t] - w.i[row, t]),
                    "valid": int(item.valid[row, t]),
                }
            )
        maxima[row] = []
        for tile in range(config.group_tiles):
            chosen = [
                t for t in range(tile * config.n, tile * config.n + config.tile_tokens) if item.valid[row, t]
            ]
            maxima[row].append(
                {
                    "m": max((BIAS - (-int(w.z[row, t]) >> 12) for t in chosen), default=0),
                    "x": max((BIAS + int(w.x[row, t]) for t in chosen), default=0),
                }
            )
    return words, maxima


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize(("n", "lanes"), [(4, 1), (4, 2), (8, 2), (16, 8), (32, 16), (32, 4)])
def test_equals_golden(n, lanes, rows, stall):
    config = reference.small(n, lanes, attention_rows_max=5)
    rng = np.random.default_rng(rows)
    heads = [
        reference.head(rng, rows, 1, counts, s_q=(-20, -4), s_v=(-30, 20))
        for counts in ([16, 16, 16, 3, -6], [1], [-1, 16])
    ]
    items = [(head, item, *memory_of(config, head, item)) for head in heads for item in head.items]
    dut = Rescaler(config)
    weights, totals, starts = [], [], {}

    async def buffer(ctx):
        ctx.set(dut.rows, rows)
        cycle = 0
        for index, (_, item, words, maxima) in enumerate(items):
            ctx.set(dut.full, 1)
            ctx.set(dut.first, int(item.first))
            ctx.set(dut.last, int(item.last))
            done = False
            while not done:
                _, _, en, row, word, done = await ctx.tick().sample(
                    dut.read.en, dut.read.row, dut.read.word, dut.done
                )
                cycle += 1
                if en:
                    if (row, word) == (0, 0):
                        # With registers it is read until it is taken.
                        starts[index] = cycle
                    ctx.set(dut.read.tokens, words[row, word])
                    ctx.set(dut.read.maxima, maxima[row])
        ctx.set(dut.full, 0)

    async def take_weights(ctx):
        count = len(items) * rows * config.group_tiles
        weights.extend(await collect(ctx, dut.weights, count, stall, 1, convert=reference.weight_fields))

    async def take_totals(ctx):
        def fields(payload):
            return (payload.total, payload.difference)

        totals.extend(await collect(ctx, dut.totals, len(heads) * rows, stall, 2, convert=fields))

    simulate(dut, buffer, take_weights, take_totals)
    reference.check_weights(config, heads, weights)
    expected = []
    for head in heads:
        item = head.items[-1]
        expected += [
            (0 if empty else int(total), int(difference), bool(empty))
            for total, difference, empty in zip(item.total, item.difference, head.empty, strict=True)
        ]
    for got, (total, difference, empty) in zip(totals, expected, strict=True):
        assert got[0] == total
        assert empty or got[1] == difference
    if not stall:
        least = 16 // lanes + 3 + 2 * config.registered
        assert np.diff(list(starts.values())).min() == max(rows * 16 // lanes, least)
