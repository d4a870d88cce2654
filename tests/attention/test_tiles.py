# SPDX-License-Identifier: Apache-2.0
"""Tiles of K and V from records and from the step."""

import dataclasses

import numpy as np
import pytest

from attention import reference
from attention.test_order import items_of
from attention.test_router import operations_of
from serrano.attention.tiles import TileFeeder
from serrano_sim.golden.kvcache import run_offsets
from support.streams import STALLS, collect, send, simulate


def expected_units(config, command, order, memory, own):
    """Units of all operations: ``memory[serial]`` and ``own[head]`` are K and V, [2, tokens, head_dim]."""
    n, vectors, head_dim = config.n, config.load_vectors, command["head_dim"]
    chunks = -(-head_dim // n)
    units = []
    for values, item in order:
        group = np.zeros((16, chunks * n), dtype=np.int64)
        for t in range(16):
            row = t - item["base"]
            if row < 0:
                group[t, :head_dim] = memory[item["serial"]][values, t]
            elif row < command["rows"]:
                group[t, :head_dim] = own[item["head"]][values, row]
        for chunk in range(chunks):
            for tile in range(0, 16, n):
                # As far as there are tokens.
                steps = range(tile, min(tile + n, 16), vectors)
                steps = [t for t in steps if t < item["base"] + command["rows"]] or [tile]
                for t in steps:
                    vector = group[t : t + vectors, chunk * n : (chunk + 1) * n].tolist()
                    units.append((vector, 1 - values, t == steps[-1]))
    return units


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "port", "head_dim", "committed", "rows"),
    [
        (4, 4, 6, 21, 3),
        (4, 2, 2, 16, 1),
        (4, 4, 4, 0, 2),
        (8, 2, 20, 37, 1),
        (8, 8, 8, 15, 3),
        (16, 16, 48, 33, 2),
        (16, 16, 2, 7, 3),
        (16, 32, 24, 18, 1),
        (16, 64, 36, 35, 5),
    ],
)
def test_units(n, port, head_dim, committed, rows, stall):
    config = dataclasses.replace(reference.small(n, 2, head_dim_max=64, rows_max=8), port_bytes=port)
    rng = np.random.default_rng(head_dim + port)
    pad = max(n, head_dim)
    command = {
        "rows": rows, "kv_heads": 2, "group": 1, "head_dim": head_dim, "head_pad": pad,
        "committed": committed,
    }  # fmt: skip
    order = operations_of(config, command)
    memory = {
        item["serial"]: rng.integers(-128, 128, (2, 16, head_dim))
        for item in items_of(config, [command])[0]
        if item["memory"]
    }
    own = rng.integers(-128, 128, (2, 2, rows, -(-head_dim // n) * n))
    forward_words, own = own, own[..., :head_dim]
    units = expected_units(config, command, order, memory, own)
    load, offsets = config.load_bytes, run_offsets(head_dim, n)
    images = {}
    for serial, codes in memory.items():
        images[serial] = rng.integers(-128, 128, 64 + 32 * head_dim)
        for kind in range(2):
            images[serial][64 + kind * 16 * head_dim + offsets] = codes[kind]
    present_from = {serial: int(rng.integers(0, 300)) for serial in images}
    dut = TileFeeder(config)
    found, freed, loaded = [], [0], [0]

    async def feed(ctx):
        ctx.set(dut.command, command)
        ctx.set(dut.chunks, -(-head_dim // n))
        if config.registered:
            await ctx.tick()
        operations = [{"values": v, "item": {name: int(x) for name, x in i.items()}} for v, i in order]
        for one in operations:
            one["item"]["serial"] %= 8
        await send(ctx, dut.operations, operations, stall)

    async def memories(ctx):
        records, forward = dut.records, dut.forward
        cycle = 0
        # What was asked for, and with registers is given an advance later.
        asked = None
        while True:
            serial = next((s for s in images if s % 8 == ctx.get(records.serial)), None)
            present = serial is not None and cycle >= present_from[serial] + ctx.get(records.unit)
            complete = serial is not None and cycle >= present_from[serial] + 400
            ctx.set(records.present, int(present))
            ctx.set(records.complete, int(complete))
            sampled = await ctx.tick().sample(
                records.en, records.slot, records.unit,
                forward.en, forward.values, forward.row, forward.head, forward.chunk,
                dut.wait_record, dut.free, dut.loaded, forward.advance,
            )  # fmt: skip
            *sampled, advance = sampled
            assert complete or not sampled[-2]
            en, slot, unit, step_en, values, row, head, chunk, waits, free, end = sampled[2:]
            cycle += 1
            freed[0] += free
            loaded[0] += end
            assert not (waits and complete)
            # With registers something is read in every cycle, and not taken if it is not there.
            assert config.registered or not en or present
            if en and present:
                assert slot == serial % 6
                word = images[serial][unit * load : (unit + 1) * load]
                ctx.set(records.data, [int(byte) for byte in word])
            if config.registered and advance:
                if asked is not None:
                    ctx.set(forward.data, asked)
                asked = None
            if step_en:
                vectors = rng.integers(-128, 128, (config.load_vectors, n))
                for vector in range(config.load_vectors):
                    if 0 <= row + vector < rows:
                        word = forward_words[head, values, row + vector, chunk * n : (chunk + 1) * n]
                        vectors[vector] = word
                asked = vectors.tolist()
                if not config.registered:
                    ctx.set(forward.data, asked)

    async def take(ctx):
        def fields(unit):
            assert loaded[0] == 0
            return ([list(vector) for vector in unit.vectors], unit.by_column, unit.ends)

        found.extend(await collect(ctx, dut.tiles, len(units), stall, 1, fields))

    simulate(dut, feed, take, background=[memories])
    assert found == units
    assert freed[0] == len(memory)
    assert loaded[0] == 1


def test_one_unit_per_cycle():
    config = reference.small(16, 8, head_dim_max=64)
    command = {"rows": 1, "kv_heads": 1, "group": 1, "head_dim": 64, "head_pad": 64, "committed": 32}
    order = operations_of(config, command)
    dut = TileFeeder(config)

    async def feed(ctx):
        ctx.set(dut.command, command)
        ctx.set(dut.chunks, 4)
        ctx.set(dut.records.present, 1)
        ctx.set(dut.records.complete, 1)
        operations = [{"values": v, "item": {name: int(x) for name, x in i.items()}} for v, i in order]
        await send(ctx, dut.operations, operations)

    async def take(ctx):
        ctx.set(dut.tiles.ready, 1)
        seen = []
        while sum(seen) < (len(order) - 2) * 4 * 8 + 2 * 4:
            _, _, valid = await ctx.tick().sample(dut.tiles.valid)
            seen.append(valid)
        first = seen.index(1)
        assert first == dut.latency
        assert all(seen[first:])

    simulate(dut, feed, take)
