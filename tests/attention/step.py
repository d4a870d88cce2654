# SPDX-License-Identifier: Apache-2.0
"""Whole attention steps: stimuli and expected results, and the unit with the array that it feeds."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from attention import reference
from serrano.attention import Attention
from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul import Engine
from serrano.vector.payloads import HeadKind
from serrano_sim.golden import softmax
from serrano_sim.golden.fixed import rhu
from serrano_sim.golden.kvcache import KVCache
from serrano_sim.golden.scale import Scale, unpack
from serrano_sim.golden.silu import h16_encode

GROUP = 16
ARRAY_PORTS = ("tiles", "rows", "results")


class AttentionWithEngine(wiring.Component):
    """The attention unit on its array; the ports are those of :class:`Attention` without the array's."""

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        members = dict(Attention(config).signature.members)
        super().__init__({name: member for name, member in members.items() if name not in ARRAY_PORTS})

    def elaborate(self, platform):
        m = Module()
        m.submodules.attention = attention = Attention(self.config)
        m.submodules.engine = engine = Engine(self.config)
        connect(m, attention.tiles, engine.tiles)
        connect(m, attention.rows, engine.rows)
        connect(m, engine.results, attention.results)
        for name, member in self.signature.members.items():
            inner, outer = getattr(attention, name), getattr(self, name)
            if member.is_signature:
                connect(m, flipped(outer), inner)
            elif member.flow is wiring.In:
                m.d.comb += inner.eq(outer)
            else:
                m.d.comb += outer.eq(inner)
        return m


@dataclass
class Step:
    """The rows of one sequence: what comes from the heads, from memory, and what is to be staged."""

    command: dict
    codes: list[dict]
    scales: list[dict]
    records: list[bytes]
    staged: dict[tuple[int, int], int]


def padded_head(head_dim: int, n: int) -> int:
    """The tape's rule."""
    if head_dim >= n:
        return -(-head_dim // n) * n
    pad = n // 2
    while pad < head_dim:
        pad *= 2
    return pad


def make(rng, config, kv_heads, group, head_dim, committed, rows, s_q=(-24, -18), s_kv=(-4, 4)) -> Step:
    """A random step; what lies in memory behind the committed tokens is garbage."""
    heads, tokens, pad = kv_heads * group, committed + rows, padded_head(head_dim, config.n)
    k, v = rng.integers(-127, 128, (2, kv_heads, tokens, head_dim))
    q = rng.integers(-127, 128, (heads, rows, head_dim))
    k[..., 0], v[..., -1], q[..., 0] = -128, 127, 127
    s_k, s_v = (reference.scales(rng, s_kv, (kv_heads, tokens)) for _ in range(2))
    s_q = Scale(rng.integers(1 << 15, 1 << 16, (heads, rows)), rng.integers(*s_q, (heads, rows)))
    staged = {}
    for head in range(heads):
        own = head // group
        y = softmax.attend(
            q[head],
            s_q[head],
            k[own],
            unpack(s_k[own]),
            v[own],
            unpack(s_v[own]),
            committed + np.arange(rows),
        )
        for (row, d), code in np.ndenumerate(h16_encode(y)):
            staged[row, head * pad + d] = int(code)
        for row in range(rows):
            staged.update({(row, head * pad + d): 0 for d in range(head_dim, pad)})

    cache = KVCache(1, kv_heads, head_dim, config.n, blocks=64)
    cache.image[:] = rng.integers(0, 256, cache.image.shape)
    cache.open(0)
    cache.reserve(0, committed)
    part = np.s_[:, :committed]
    if committed:
        cache.append(0, 0, k[part], s_k[part], v[part], s_v[part])
    size = cache.record_bytes
    records = [
        cache.image[block, head * size : (head + 1) * size].tobytes()
        for head in range(kv_heads)
        for block in cache.table(0)
    ]

    step_k, step_v = (np.swapaxes(x[:, committed:], 0, 1) for x in (k, v))
    kinds = (
        (HeadKind.K, step_k, unpack(s_k[:, committed:].T)),
        (HeadKind.V, step_v, unpack(s_v[:, committed:].T)),
        (HeadKind.Q, np.swapaxes(q, 0, 1), Scale(s_q.m.T, s_q.e.T)),
    )
    codes, scales = [], []
    for kind, values, scale in kinds:
        for head in range(values.shape[1]):
            for row in range(rows):
                word = np.zeros(pad, dtype=np.int64)
                word[:head_dim] = values[row, head]
                place = {"kind": kind, "row": row, "head": head}
                codes += [
                    {**place, "column": c, "codes": word[c : c + config.lanes].tolist(), "last": 0}
                    for c in range(0, pad, config.lanes)
                ]
                pair = {"mantissa": int(scale.m[row, head]), "exponent": int(scale.e[row, head])}
                scales.append({**place, "scale": pair, "last": 0})
    codes[-1]["last"] = scales[-1]["last"] = 1
    command = {
        "rows": rows,
        "kv_heads": kv_heads,
        "group": group,
        "head_dim": head_dim,
        "head_pad": pad,
        "committed": committed,
        "final": 1,
    }
    return Step(command, codes, scales, records, staged)


def divided(step: Step, parts: tuple[int, ...]) -> list[Step]:
    """The same step as several commands of so many rows each; codes and scales come with the first."""
    found, skip = [], 0
    for rows in parts:
        staged = {place: code for place, code in step.staged.items() if skip <= place[0] < skip + rows}
        final = int(skip + rows == sum(parts))
        command = {**step.command, "skip": skip, "rows": rows, "final": final}
        first = skip == 0
        codes, scales = (step.codes, step.scales) if first else ([], [])
        found.append(Step(command, codes, scales, step.records, staged))
        skip += rows
    return found


def moved(step: Step, row: int) -> Step:
    """The same tokens as rows ``row`` and on of a larger step."""

    def shifted(beats: list[dict]) -> list[dict]:
        return [{**beat, "row": beat["row"] + row} for beat in beats]

    staged = {(place + row, column): code for (place, column), code in step.staged.items()}
    return Step({**step.command, "row": row}, shifted(step.codes), shifted(step.scales), step.records, staged)


def record_beats(config: AcceleratorConfig, record: bytes) -> list[dict]:
    width = config.port_bytes
    beats = [list(record[start : start + width]) for start in range(0, len(record), width)]
    return [{"bytes": b, "last": int(i == len(beats) - 1), "error": 0} for i, b in enumerate(beats)]


def staged_fields(payload) -> tuple[list[int], int, int, int, int]:
    return (list(payload.codes), payload.row, payload.column, payload.half, payload.last)


def check_staged(config: AcceleratorConfig, step: Step, beats) -> None:
    """Every element exactly once, equal to golden; ``last`` on the last beat alone."""
    found = {}
    for index, (codes, row, column, half, last) in enumerate(beats):
        assert not half
        assert last == (index == len(beats) - 1)
        for lane, code in enumerate(codes):
            assert (row, column + lane) not in found
            found[row, column + lane] = code
    assert found == step.staged


def beat_count(config: AcceleratorConfig, step: Step) -> int:
    return len(step.staged) // config.lanes


class ArrayModel:
    """What the array does, as three benches on the ports of an :class:`Attention`."""

    def __init__(self, config, dut, seed=0, stall=0.0):
        self.config, self.dut, self.stall = config, dut, stall
        self.rng = np.random.default_rng(seed)
        self.tiles, self.results = deque(), deque()
        self.kept, self.high = {}, None

    async def pause(self, ctx):
        while self.rng.random() < self.stall:
            await ctx.tick()

    async def take(self, ctx, port):
        # Not `until`: these benches never end, and it cannot be abandoned.
        ctx.set(port.ready, 1)
        valid = False
        while not valid:
            _, _, payload, valid = await ctx.tick().sample(port.payload, port.valid)
        ctx.set(port.ready, 0)
        return payload

    async def take_tiles(self, ctx):
        port = self.dut.tiles
        while True:
            vectors = []
            for _ in range(self.config.tile_units):
                await self.pause(ctx)
                while len(self.tiles) > 1:
                    await ctx.tick()
                unit = await self.take(ctx, port)
                by_column = unit.by_column
                vectors += [list(vector) for vector in unit.vectors]
                if unit.ends:
                    break
            # What is not loaded may be anything.
            left = self.config.n - len(vectors)
            vectors += self.rng.integers(-128, 128, (left, self.config.n)).tolist()
            tile = np.array(vectors, dtype=np.int64)
            self.tiles.append(tile.T if by_column else tile)

    async def take_rows(self, ctx):
        port = self.dut.rows
        while True:
            await self.pause(ctx)
            while not self.tiles or len(self.results) > 20:
                await ctx.tick()
            row = await self.take(ctx, port)
            self.accumulate(row)
            if row.last:
                self.tiles.popleft()

    def accumulate(self, row):
        tag = row.tag
        sums = np.array(list(row.operand), dtype=np.int64) @ self.tiles[0]
        if tag.half == Half.HIGH:
            assert not tag.emit
            self.high = 256 * sums
            return
        if tag.half == Half.LOW:
            sums = sums + self.high
        old = 0 if tag.first else rhu(self.kept[tag.address], tag.shift)
        self.kept[tag.address] = old + sums
        if tag.emit:
            self.results.append(self.kept[tag.address].tolist())

    async def give_results(self, ctx):
        port = self.dut.results
        while True:
            await self.pause(ctx)
            while not self.results:
                await ctx.tick()
            ctx.set(port.payload, self.results.popleft())
            ctx.set(port.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(port.ready)
            ctx.set(port.valid, 0)

    @property
    def benches(self):
        return [self.take_tiles, self.take_rows, self.give_results]
