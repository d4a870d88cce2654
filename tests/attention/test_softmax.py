# SPDX-License-Identifier: Apache-2.0
"""Online softmax against the golden model, item by item."""

import numpy as np
import pytest

from attention import reference
from serrano.attention.exponentials import Exponentials
from serrano.attention.softmax import OnlineSoftmax
from support.streams import STALLS, collect, send, simulate

SHAPES = [(4, 1), (8, 1), (4, 2), (8, 2), (16, 2), (16, 8), (32, 16), (32, 8)]


def run(config, heads, stall=0.0, seed=0):
    """All weights and finals for heads of the same shape."""
    dut = OnlineSoftmax(config)
    rows, group = heads[0].rows, heads[0].group
    items = [(head, item) for head in heads for item in head.items]
    weights, finals = [], []

    async def setup(ctx):
        ctx.set(dut.rows, rows)
        ctx.set(dut.group, group)

    async def send_items(ctx):
        await send(ctx, dut.items, [reference.item_payload(item) for _, item in items], stall, seed)

    async def send_scores(ctx):
        beats = [beat for head, item in items for beat in reference.score_payloads(config, head, item)]
        await send(ctx, dut.scores, beats, stall, seed + 1)

    async def take_weights(ctx):
        count = len(items) * rows * config.group_tiles
        weights.extend(
            await collect(ctx, dut.weights, count, stall, seed + 2, convert=reference.weight_fields)
        )

    async def take_finals(ctx):
        count = len(heads) * rows
        finals.extend(await collect(ctx, dut.finals, count, stall, seed + 3, convert=reference.final_fields))

    simulate(dut, setup, send_items, send_scores, take_weights, take_finals)
    return weights, finals


def check(config, heads, stall, seed=0):
    weights, finals = run(config, heads, stall, seed)
    reference.check_weights(config, heads, weights)
    reference.check_finals(heads, finals)


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("rows", "group"), [(1, 1), (3, 1), (8, 4), (8, 8)])
@pytest.mark.parametrize(("n", "lanes"), SHAPES)
def test_equals_golden(n, lanes, rows, group, stall):
    config = reference.small(n, lanes, attention_rows_max=8)
    rng = np.random.default_rng(n + rows)
    heads = [reference.head(rng, rows, group, counts) for counts in ([30, 14], [16, 16, 5], [1])]
    check(config, heads, stall)


@pytest.mark.parametrize("stall", STALLS)
def test_masked_groups(stall):
    """Groups of which some or all rows see nothing, at the end of a head and at its beginning."""
    rng = np.random.default_rng(1)
    config = reference.small(16, 8, attention_rows_max=8)
    counts = ([14, -2], [16, 0], [-30000, 16, -7], [-2, -1, 3, -20], [65000, 0, 65000])
    heads = [reference.head(rng, 6, 2, list(some)) for some in counts]
    assert not all(head.empty.any() for head in heads)
    check(config, heads, stall)


@pytest.mark.parametrize(
    ("s_q", "s_k", "s_v"),
    [
        ((-80, -79), (-40, -39), (-40, -39)),
        ((40, 48), (20, 24), (20, 24)),
        ((-40, 0), (-10, 10), (-40, 24)),
        ((-20, 10), (-16, 16), (-16, 16)),
        ((-30, -28), (0, 1), (23, 24)),
    ],
)
@pytest.mark.parametrize(("n", "lanes"), [(4, 1), (4, 2), (16, 8)])
def test_extreme_scales(n, lanes, s_q, s_k, s_v):
    rng = np.random.default_rng(2)
    config = reference.small(n, lanes, attention_rows_max=4)
    heads = [
        reference.head(rng, 4, 2, [16, 16, 16, 9], s_q, s_k, s_v, sums)
        for sums in (0, 3, 1 << 21, (1 << 31) - 1)
    ]
    check(config, heads, 0.3, 5)


def test_extreme_sums():
    rng = np.random.default_rng(3)
    config = reference.small(16, 8, attention_rows_max=4)
    sums = [-(1 << 31), 1 - (1 << 31), -1, 0, 1, (1 << 31) - 1]
    check(config, [reference.head(rng, 2, 1, [16, 12], s_q=(-60, 20), sums=sums) for _ in range(6)], 0.0)


def test_sink():
    """A token of huge score and tiny value, then tokens that matter: both exponents move apart."""
    config = reference.small(16, 8, attention_rows_max=4)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        one = reference.head(rng, 3, 1, [16, 16, 10], s_q=(-8, -7), s_k=(-4, 4), s_v=(-38, 20))
        check(config, [one, one], 0.5, seed)


@pytest.mark.parametrize(
    ("n", "lanes", "rows"), [(4, 1, 1), (4, 1, 4), (16, 8, 1), (16, 8, 8), (4, 2, 1), (4, 2, 8), (8, 2, 3)]
)
def test_throughput(n, lanes, rows):
    """Once it runs, an item takes 16 / lanes cycles per row, and a buffer's turn when it has few rows."""
    config = reference.small(n, lanes, attention_rows_max=8)
    rng = np.random.default_rng(4)
    count = 20
    head = reference.head(rng, rows, 1, [16] * count)
    dut = OnlineSoftmax(config)
    times = []

    async def feed_items(ctx):
        ctx.set(dut.rows, rows)
        ctx.set(dut.group, 1)
        await send(ctx, dut.items, [reference.item_payload(item) for item in head.items])

    async def feed_scores(ctx):
        await send(
            ctx,
            dut.scores,
            [beat for item in head.items for beat in reference.score_payloads(config, head, item)],
        )

    async def take(ctx):
        ctx.set(dut.weights.ready, 1)
        ctx.set(dut.finals.ready, 1)
        seen = cycle = 0
        while seen < count * rows * config.group_tiles:
            _, _, valid = await ctx.tick().sample(dut.weights.valid)
            cycle += 1
            seen += valid
            if valid:
                times.append(cycle)

    simulate(dut, feed_items, feed_scores, take)
    busy = rows * 16 // lanes
    # A slot is filled (and the fill drains through the pipeline), then emptied; there are two.
    drain = 6 + Exponentials.latency_of(config)
    assert (times[-1] - times[0]) / count <= max(busy, (2 * busy + drain) / 2, 16 // lanes + 3)
