# SPDX-License-Identifier: Apache-2.0
"""Unpacker: payloads of golden tapes come apart into the scales, means and tiles they were made of."""

import struct
from functools import cache

import numpy as np
import pytest

from serrano.config import AcceleratorConfig, preset
from serrano.tape.unpacker import Unpacker
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Opcode, Tape, read_tape
from support.streams import STALLS, collect, send, simulate


@cache
def tape(n: int, align: int) -> tuple[bytes, Tape]:
    model = random_model(1, dim=44, ffn=46, layers=1, heads=2, kv_heads=1, head_dim=8, vocab=33)
    image = write_tape(model, n, align)
    return image, read_tape(image)


def packets(config: AcceleratorConfig) -> list[tuple[dict, bytes, list[tuple[list[int], list[int]]], bytes]]:
    """(command, payload, scales and means of each block, bytes of all tiles) of every packet with payload."""
    image, parsed = tape(config.n, config.tape_align)
    n, at, result = config.n, parsed.fields["program_offset"], []
    for packet in parsed.packets:
        at += config.tape_align
        payload = image[at : at + packet.payload_bytes]
        at += packet.payload_bytes
        if not payload:
            continue
        blocks, tiles = -(-packet.n_out // n), -(-packet.k // n)
        is_qkv = packet.opcode == Opcode.QKV
        kmean_blocks = -(-parsed.fields["head_pad"] // n) if is_qkv else 0
        scales, body, place = [], b"", 0
        for block in range(blocks):
            own = list(struct.unpack_from(f"<{n}H", payload, place))
            place += 2 * n
            means = [0] * n
            if block < kmean_blocks:
                means = list(struct.unpack_from(f"<{n}h", payload, place))
                place += 2 * n
            scales.append((own, means))
            body += payload[place : place + tiles * n * n]
            place += tiles * n * n
        result.append(
            ({"blocks": blocks, "tiles": tiles, "kmean_blocks": kmean_blocks}, payload, scales, body)
        )
    return result


def units(config: AcceleratorConfig, payload: bytes) -> list[dict]:
    width = config.load_bytes
    return [
        {"bytes": list(payload[i : i + width]), "last": i + width == len(payload)}
        for i in range(0, len(payload), width)
    ]


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "base"])
@pytest.mark.parametrize("stall", STALLS)
def test_blocks(name: str, stall: float) -> None:
    config = preset(name)
    dut = Unpacker(config)
    work = packets(config)
    assert any(scales[0][1] != [0] * config.n for _, _, scales, _ in work)

    async def commands(ctx) -> None:
        await send(ctx, dut.command, [command for command, *_ in work], stall, 1)

    async def payload(ctx) -> None:
        for _, content, _, _ in work:
            await send(ctx, dut.payload, units(config, content), stall, 2)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.fault)

    async def scales(ctx) -> None:
        for _, _, expected, _ in work:
            got = await collect(
                ctx,
                dut.scales,
                len(expected),
                stall,
                3,
                lambda p: ([s.exponent << 10 | s.fraction for s in p.scales], list(p.kmeans)),
            )
            assert got == expected

    async def tiles(ctx) -> None:
        for _, _, _, body in work:
            got = await collect(
                ctx,
                dut.tiles,
                len(body) // config.load_bytes,
                stall,
                4,
                lambda p: (np.array([list(v) for v in p.vectors], dtype=np.int8).tobytes(), p.by_column),
            )
            assert b"".join(content for content, _ in got) == body
            assert not any(by_column for _, by_column in got)
        # With registers padding waits as tiles do.
        ctx.set(dut.tiles.ready, 1)

    simulate(dut, commands, payload, scales, tiles)


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_payload_of_the_wrong_length(change: int) -> None:
    config = preset("tiny")
    command, payload, _, _ = packets(config)[0]
    payload = (
        payload[: change * config.tape_align] if change < 0 else payload + bytes(change * config.tape_align)
    )
    dut = Unpacker(config)

    async def bench(ctx) -> None:
        ctx.set(dut.scales.ready, 1)
        ctx.set(dut.tiles.ready, 1)
        await send(ctx, dut.command, [command])
        for unit in units(config, payload):
            await send(ctx, dut.payload, [unit])
            if ctx.get(dut.fault):
                break
        await ctx.tick()
        assert ctx.get(dut.fault)

    simulate(dut, bench)


def test_one_unit_per_cycle() -> None:
    config = preset("base")
    dut = Unpacker(config)
    command, payload, _, _ = packets(config)[1]

    async def bench(ctx) -> None:
        ctx.set(dut.scales.ready, 1)
        ctx.set(dut.tiles.ready, 1)
        await send(ctx, dut.command, [command])
        for unit in units(config, payload):
            ctx.set(dut.payload.payload, unit)
            ctx.set(dut.payload.valid, 1)
            assert ctx.get(dut.payload.ready)
            await ctx.tick()

    simulate(dut, bench)
