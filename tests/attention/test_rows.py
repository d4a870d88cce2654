# SPDX-License-Identifier: Apache-2.0
"""Rows of queries and weights for the array."""

import numpy as np
import pytest

from attention import reference
from attention.test_router import operations_of
from serrano.attention.rows import AttentionRows
from serrano.layouts import Half
from support.streams import STALLS, collect, send, simulate


def expected_rows(config, command, order, q, p, shifts):
    """``q[head, token, chunk]``, and for each V in order ``p[row, token]`` and ``shifts[row]``."""
    n, group = config.n, command["group"]
    chunks, rows = -(-command["head_dim"] // n), command["rows"] * group
    tiles = config.group_tiles
    scores = config.attention_rows_max * config.head_chunks_max
    beats, done = [], 0
    for values, item in order:
        for chunk in range(chunks):
            for tile in range(tiles):
                for r in range(rows):
                    last = r == rows - 1
                    if not values:
                        operand = q[item["head"] * group + r % group, r // group, chunk].tolist()
                        tag = (scores + r * tiles + tile, chunk == 0, chunk == chunks - 1, 0, Half.WHOLE)
                        beats.append((operand, *tag, last))
                        continue
                    word = p[done][r, tile * n : (tile + 1) * n]
                    first = item["first"] and tile == 0
                    shift = int(shifts[done][r]) if tile == 0 else 0
                    emit = item["last"] and tile == tiles - 1
                    address = r * chunks + chunk
                    beats.append(((word >> 8).tolist(), address, first, False, shift, Half.HIGH, False))
                    beats.append(((word & 255).tolist(), address, first, emit, shift, Half.LOW, last))
        done += values
    return beats


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "kv_heads", "group", "head_dim", "committed", "rows"),
    [
        (4, 2, 1, 6, 20, 1),
        (4, 1, 4, 4, 0, 2),
        (16, 2, 2, 48, 33, 3),
        (8, 2, 8, 16, 15, 1),
        (16, 1, 1, 8, 3, 5),
    ],
)
def test_rows(n, kv_heads, group, head_dim, committed, rows, stall):
    config = reference.small(n, 2, attention_rows_max=8, rows_max=8)
    rng = np.random.default_rng(n + rows)
    command = {
        "rows": rows, "kv_heads": kv_heads, "group": group,
        "head_dim": head_dim, "head_pad": max(n, head_dim), "committed": committed,
    }  # fmt: skip
    order = operations_of(config, command)
    chunks, item_rows, count = -(-head_dim // n), rows * group, len(order) // 2
    q = rng.integers(-128, 128, (kv_heads * group, rows, chunks, n))
    p = rng.integers(0, 1 << 16, (count, item_rows, 16))
    p[:, 0, 0], p[:, -1, -1] = 0xFFFF, 0
    shifts = rng.integers(0, 64, (count, item_rows))
    dut = AttentionRows(config)
    beats = expected_rows(config, command, order, q, p, shifts)
    found, released = [], [0]

    async def feed(ctx):
        ctx.set(dut.command, command)
        ctx.set(dut.item_rows, item_rows)
        ctx.set(dut.chunks, chunks)
        if config.registered:
            await ctx.tick()
        operations = [{"values": v, "item": {name: int(x) for name, x in i.items()}} for v, i in order]
        for one in operations:
            one["item"]["serial"] %= 8
        await send(ctx, dut.operations, operations, stall)

    async def memories(ctx):
        queries, weights = dut.queries, dut.weights
        available_from = 0
        cycle = 0
        # What was asked for, and with registers is given an advance later.
        asked = []
        while True:
            available = cycle >= available_from
            ctx.set(dut.available, int(available))
            _, _, *sampled = await ctx.tick().sample(
                queries.en, queries.row, queries.head, queries.chunk,
                weights.en, weights.row, weights.tile, dut.release, dut.wait_weights, queries.advance,
            )  # fmt: skip
            *sampled, advance = sampled
            en, row, head, chunk, w_en, w_row, tile, release, waits = sampled
            if config.registered and advance:
                for port, word in asked:
                    ctx.set(port, word)
                asked = []
            cycle += 1
            assert not (waits and available)
            if en:
                asked.append((queries.data, q[head, row, chunk].tolist()))
            if w_en:
                assert available
                word = p[released[0]][w_row, tile * n : (tile + 1) * n].tolist()
                asked.append((weights.data, {"p": word, "shift": int(shifts[released[0]][w_row])}))
            if not config.registered:
                for port, word in asked:
                    ctx.set(port, word)
                asked = []
            if release:
                released[0] += 1
                available_from = cycle + int(rng.integers(0, 40))

    async def take(ctx):
        def fields(beat):
            tag = beat.tag
            plain = (tag.address, tag.first, tag.emit, tag.shift, tag.half, beat.last)
            return (list(beat.operand), *plain)

        found.extend(await collect(ctx, dut.rows, len(beats), stall, 1, fields))

    simulate(dut, feed, take, background=[memories])
    assert found == beats
    assert released[0] == count
