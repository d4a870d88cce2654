# SPDX-License-Identifier: Apache-2.0
"""WriteCombiner: every byte reaches its address, and words are joined."""

import random

import pytest

from kvcache.memory import accelerator
from serrano.kvcache.combine import WriteCombiner
from support.streams import STALLS, send, simulate


@pytest.mark.parametrize(
    ("lanes", "port_bytes"),
    [(1, 2), (1, 4), (2, 2), (2, 4), (8, 2), (8, 4), (8, 8), (8, 16), (2, 64), (32, 4)],
)
@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_bytes_and_words(lanes: int, port_bytes: int, stall: float, registered: bool) -> None:
    more = {"kv_width_max": 256, "head_dim_max": 128, "registered": registered}
    dut = WriteCombiner(accelerator(64, port_bytes, lanes, **more))
    rng = random.Random(f"{lanes} {port_bytes}")
    memory, wanted = bytearray(4096), bytearray(4096)
    pieces = []
    top = lanes.bit_length() - 1
    codes, scales = 0, 2048
    for _ in range(150):
        scale = rng.random() < 0.2
        size = 1 if scale else rng.choice([top, top, rng.randint(min(1, top), top)])
        if scale:
            address = scales = rng.choice([scales + 2, 2048 + 2 * rng.randrange(1000)])
        else:
            address = codes = -(-rng.choice([codes + (1 << size), rng.randrange(1900)]) >> size) << size
        content = [rng.randrange(256) for _ in range(max(2, lanes))]
        wanted[address : address + (1 << size)] = bytes(content[: 1 << size])
        pieces.append({"address": address, "size": size, "bytes": content, "scale": scale})
    writes = []
    acknowledged = []

    async def feed(ctx) -> None:
        await send(ctx, dut.pieces, pieces, stall, 1)
        ctx.set(dut.flush, 1)
        await ctx.tick().until(~dut.waiting)
        assert ctx.get(dut.pending) == (len(acknowledged) < len(writes))
        await ctx.tick().until(~dut.pending)

    async def serve(ctx) -> None:
        slow = random.Random(2)
        request = dut.memory.request
        owed = 0
        while True:
            ready = slow.random() >= stall
            ctx.set(request.ready, ready)
            if ready and ctx.get(request.valid):
                word = ctx.get(request.payload)
                assert word.address % port_bytes == 0
                writes.append((word.address, word.strobe))
                for byte in range(port_bytes):
                    if word.strobe >> byte & 1:
                        memory[word.address + byte] = word.bytes[byte]
            await ctx.tick()
            owed = len(writes) - len(acknowledged)
            if owed and slow.random() < 0.5:
                acknowledged.append(1)
            ctx.set(dut.memory.pending, len(acknowledged) < len(writes))

    simulate(dut, feed, background=[serve])
    assert memory == wanted
    assert len(acknowledged) == len(writes)


@pytest.mark.parametrize(("lanes", "port_bytes", "writes"), [(8, 16, 8), (8, 8, 16), (8, 4, 32), (2, 16, 2)])
@pytest.mark.parametrize("registered", [False, True])
def test_neighbours_share_a_word(lanes: int, port_bytes: int, writes: int, registered: bool) -> None:
    dut = WriteCombiner(accelerator(16, port_bytes, lanes, registered=registered))
    taken = []

    async def bench(ctx) -> None:
        top = lanes.bit_length() - 1
        pieces = [
            {"address": 64 + lanes * i, "size": top, "bytes": [i] * lanes, "scale": 0} for i in range(16)
        ]
        await send(ctx, dut.pieces, pieces)
        ctx.set(dut.flush, 1)
        await ctx.tick().until(~dut.waiting)

    async def serve(ctx) -> None:
        ctx.set(dut.memory.request.ready, 1)
        async for _, _, valid, strobe in ctx.tick().sample(
            dut.memory.request.valid, dut.memory.request.payload.strobe
        ):
            if valid:
                taken.append(strobe)

    simulate(dut, bench, background=[serve])
    assert taken == [(1 << port_bytes) - 1] * writes
