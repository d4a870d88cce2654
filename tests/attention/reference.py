# SPDX-License-Identifier: Apache-2.0
"""Stimuli and expected results of the attention benches, from the golden model."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from serrano.config import AcceleratorConfig, preset
from serrano_sim.golden import softmax
from serrano_sim.golden.fixed import limit, msb, rhu
from serrano_sim.golden.scale import Scale, pack, unpack
from serrano_sim.golden.softmax import State
from serrano_sim.golden.tables import recip

GROUP = 16


def small(n: int, lanes: int, **fields) -> AcceleratorConfig:
    """A configuration for unit tests: the preset of this ``n`` with small buffers."""
    base = preset({4: "tiny", 8: "ulx3s", 16: "base", 32: "wide"}[n])
    sizes = {"dim_max": 128, "ffn_max": 256, "kv_width_max": 64, "head_dim_max": 64, "heads_max": 16}
    return dataclasses.replace(base, **{"name": "small", "lanes": lanes, **sizes, **fields})


async def answered(ctx, config, port) -> None:
    """Asks at a read port with ``advance``, and lets the cycles pass until the answer is there."""
    ctx.set(port.en, 1)
    ctx.set(port.advance, 1)
    await ctx.tick()
    ctx.set(port.en, 0)
    if config.registered:
        # Nothing moves while the reader stands still.
        ctx.set(port.advance, 0)
        await ctx.tick().repeat(2)
        ctx.set(port.advance, 1)
        await ctx.tick()
        ctx.set(port.advance, 0)


@dataclass
class Item:
    """One group of one head: sums [rows, 16], scales, valid tokens of row 0, and what softmax makes of it."""

    sums: np.ndarray
    k_scales: np.ndarray
    v_scales: np.ndarray
    first: bool
    last: bool
    count: int
    p: np.ndarray
    shift: np.ndarray
    total: np.ndarray
    difference: np.ndarray
    weights: softmax.Weights
    valid: np.ndarray


@dataclass
class Head:
    """The items of one head, the scales of its rows and what its outputs are multiplied by."""

    rows: int
    group: int
    s_q: Scale
    items: list[Item]
    finals: list[tuple[int, int]]
    empty: np.ndarray


def scales(rng, bounds, shape, packed=True):
    values = Scale((1 << 15) + 32 * rng.integers(0, 1024, shape), rng.integers(*bounds, shape))
    return pack(values) if packed else values


def head(rng, rows, group, counts, s_q=(-16, -8), s_k=(-6, 4), s_v=(-10, 10), sums=1 << 17) -> Head:
    """A random head of items with ``counts`` tokens for row 0; ``sums`` bounds or lists the sums."""
    assert rows % group == 0
    q_scales = Scale(rng.integers(1 << 15, 1 << 16, rows), rng.integers(*s_q, rows))
    state, items = State.fresh((rows,), 1), []
    for index, count in enumerate(counts):
        shape = (rows, GROUP)
        acc = rng.choice(sums, shape) if isinstance(sums, list) else rng.integers(-sums, sums + 1, shape)
        acc[rng.random(acc.shape) < 0.1] = 0
        k, v = scales(rng, s_k, GROUP), scales(rng, s_v, GROUP)
        valid = np.arange(GROUP) < limit(count + np.arange(rows) // group, 0, GROUP)[:, None]
        w = softmax.weights(acc, q_scales, unpack(k), unpack(v))
        before = state
        state, p = softmax.update(before, w, np.zeros((GROUP, 1), dtype=np.int64), valid)
        # Where the state was empty the outputs are zero, and any shift will do: -1 here.
        shift = np.where(before.empty, -1, limit(state.x - before.x, 0, 63))
        items.append(
            Item(
                acc, k, v, index == 0, index == len(counts) - 1, count,
                p, shift, state.l, state.m - state.x, w, valid,
            )
        )  # fmt: skip
    l = np.where(state.empty, 1 << 24, state.l)  # noqa: E741
    position = msb(l)
    shifts = limit(state.m + position - state.x - 1, -16, 63)
    finals = list(zip(recip(rhu(l, position - 15)).tolist(), shifts.tolist(), strict=True))
    return Head(rows, group, q_scales, items, finals, state.empty)


def unpacked(codes):
    return [{"fraction": int(code) & 1023, "exponent": int(code) >> 10} for code in codes]


def item_payload(item: Item) -> dict:
    return {
        "k_scales": unpacked(item.k_scales),
        "v_scales": unpacked(item.v_scales),
        "first": int(item.first),
        "last": int(item.last),
        "count": item.count,
    }


def score_payloads(config: AcceleratorConfig, head: Head, item: Item) -> list[dict]:
    beats = []
    for tile in range(config.group_tiles):
        for row in range(head.rows):
            sums = np.resize(item.sums[row, tile * config.n : (tile + 1) * config.n], config.n)
            scale = {"mantissa": int(head.s_q.m[row]), "exponent": int(head.s_q.e[row])}
            beats.append({"sums": [int(s) for s in sums], "scale": scale})
    return beats


def check_weights(config: AcceleratorConfig, heads: list[Head], beats: list[dict]) -> None:
    """All weights of all items, in order."""
    position = 0
    for head in heads:
        for item in head.items:
            for row in range(head.rows):
                for tile in range(config.group_tiles):
                    beat = beats[position]
                    position += 1
                    assert (beat["row"], beat["tile"]) == (row, tile)
                    assert (beat["first"], beat["last"]) == (item.first, item.last)
                    expected = item.p[row, tile * config.n : (tile + 1) * config.n].tolist()
                    assert beat["p"] == expected + [0] * (config.n - len(expected))
                    if item.shift[row] >= 0:
                        assert beat["shift"] == item.shift[row]
    assert position == len(beats)


def weight_fields(payload) -> dict:
    """A weight beat as taken from a bench, in plain numbers."""
    names = ("row", "tile", "shift", "first", "last")
    return {"p": list(payload.p), **{name: getattr(payload, name) for name in names}}


def final_fields(payload) -> tuple[int, int]:
    return (payload.reciprocal, payload.shift)


def check_finals(heads: list[Head], finals: list[tuple[int, int]]) -> None:
    expected = [(row, empty) for head in heads for row, empty in zip(head.finals, head.empty, strict=True)]
    assert len(expected) == len(finals)
    for got, (want, empty) in zip(finals, expected, strict=True):
        assert empty or got == want
