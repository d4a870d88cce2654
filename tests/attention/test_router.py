# SPDX-License-Identifier: Apache-2.0
"""Results on their way to softmax and to the normalizer."""

import numpy as np
import pytest

from attention import reference
from attention.test_order import items_of
from serrano.attention.router import ResultRouter
from support.streams import STALLS, collect, send, simulate


def operations_of(config, command):
    items = items_of(config, [command])[0]
    ahead = config.lookahead
    order = []
    for index in range(len(items) + ahead):
        if index < len(items):
            order.append((0, items[index]))
        if index >= ahead:
            order.append((1, items[index - ahead]))
    return order


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "kv_heads", "group", "head_pad", "committed", "rows"),
    [(4, 2, 1, 8, 20, 1), (4, 1, 4, 4, 0, 2), (16, 2, 2, 48, 33, 3), (8, 2, 8, 16, 15, 1)],
)
def test_order(n, kv_heads, group, head_pad, committed, rows, stall):
    config = reference.small(n, 2, attention_rows_max=8)
    rng = np.random.default_rng(n)
    command = {
        "rows": rows, "kv_heads": kv_heads, "group": group,
        "head_dim": head_pad, "head_pad": head_pad, "committed": committed,
    }  # fmt: skip
    chunks, item_rows = -(-head_pad // n), rows * group
    order = operations_of(config, command)
    heads = kv_heads * group
    scales = [
        [(int(rng.integers(1 << 15, 1 << 16)), row * heads + h - 100) for h in range(heads)]
        for row in range(rows)
    ]
    results, scores, outputs = [], [], []
    for values, item in order:
        turns = (chunks * item["last"]) if values else config.group_tiles
        for _ in range(turns):
            for r in range(item_rows):
                word = rng.integers(-(1 << 39), 1 << 39, n).tolist()
                results.append(word)
                if values:
                    outputs.append(word)
                else:
                    scores.append((word, scales[r // group][item["head"] * group + r % group]))
    dut = ResultRouter(config)
    found_scores, found_outputs = [], []

    async def feed_operations(ctx):
        ctx.set(dut.command, command)
        ctx.set(dut.item_rows, item_rows)
        ctx.set(dut.chunks, chunks)
        if config.registered:
            await ctx.tick()
        await send(
            ctx,
            dut.operations,
            [
                {"values": int(v), "item": {k: int(x) for k, x in i.items() if k != "serial"}}
                for v, i in order
            ],
            stall,
        )

    async def feed_results(ctx):
        await send(ctx, dut.results, results, stall, 1)

    async def scale_memory(ctx):
        port = dut.read_scale
        while True:
            _, _, en, row, head = await ctx.tick().sample(port.en, port.row, port.head)
            if en:
                mantissa, exponent = scales[row % rows][head % heads]
                ctx.set(port.data, {"mantissa": mantissa, "exponent": exponent})

    async def take_scores(ctx):
        def fields(payload):
            return (list(payload.sums), (payload.scale.mantissa, payload.scale.exponent))

        found_scores.extend(await collect(ctx, dut.scores, len(scores), stall, 2, fields))

    async def take_outputs(ctx):
        found_outputs.extend(await collect(ctx, dut.outputs, len(outputs), stall, 3, list))

    simulate(dut, feed_operations, feed_results, take_scores, take_outputs, background=[scale_memory])
    assert found_scores == scores
    assert found_outputs == outputs
