# SPDX-License-Identifier: Apache-2.0
"""Issuer: packets in order, unpacking ahead of execution but not beyond ATTEND, and wrong dimensions."""

import dataclasses
from functools import cache

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano.schedule.issuer import Issuer
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Opcode, Tape, read_tape
from support.streams import STALLS, collect, send, simulate

CONFIG = preset("tiny")
CONFIGS = (CONFIG, dataclasses.replace(CONFIG, registered=True))
WITH_PAYLOAD = (Opcode.QKV, Opcode.MATMUL, Opcode.GATE_UP)


@cache
def tape() -> Tape:
    model = random_model(1, dim=44, ffn=46, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=33)
    return read_tape(write_tape(model, CONFIG.n, CONFIG.tape_align))


def model_info() -> dict:
    names = ("dim", "ffn", "heads", "kv_heads", "head_pad", "vocab")
    return {name: tape().fields[name] for name in names}


def headers() -> list[dict]:
    return [
        {
            "opcode": int(p.opcode),
            "flags": int(p.opcode == Opcode.MATMUL and p.n_out == 33),
            "layer": p.layer,
            "k": p.k,
            "n_out": p.n_out,
            "payload_bytes": p.payload_bytes,
            "index": p.index,
        }
        for p in tape().packets
    ]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("config", CONFIGS, ids=("plain", "registered"))
def test_order_and_shapes(stall: float, config) -> None:
    dut = Issuer(config)
    n = CONFIG.n
    log = []

    async def feed(ctx) -> None:
        ctx.set(dut.model, model_info())
        await send(ctx, dut.headers, headers(), stall, 1)

    async def packets(ctx) -> None:
        for expected in tape().packets:
            (index,) = await collect(ctx, dut.packets, 1, stall, 2, lambda p: p.index)
            assert index == expected.index
            log.append(("execute", index))
            if expected.opcode == Opcode.ATTEND:
                await ctx.tick().repeat(60)
                log.append(("attended", index))
                ctx.set(dut.attended, 1)
                await ctx.tick()
                ctx.set(dut.attended, 0)
        assert not ctx.get(dut.fault.valid)

    async def unpack(ctx) -> None:
        for expected in tape().packets:
            if expected.opcode not in WITH_PAYLOAD:
                continue
            (shape,) = await collect(
                ctx, dut.unpack, 1, stall, 3, lambda p: (p.blocks, p.tiles, p.kmean_blocks)
            )
            log.append(("unpack", expected.index))
            kmeans = 2 * tape().fields["head_pad"] // n if expected.opcode == Opcode.QKV else 0
            assert shape == (-(-expected.n_out // n), -(-expected.k // n), kmeans)

    simulate(dut, feed, packets, unpack)
    attended = log.index(("attended", 3))
    assert log.index(("unpack", 2)) < attended < log.index(("unpack", 4))


@pytest.mark.parametrize(
    ("packet", "change"),
    [
        (0, {"n_out": 40}),
        (1, {"k": 40}),
        (2, {"n_out": 48}),
        (3, {"n_out": 16}),
        (4, {"k": 48}),
        (4, {"n_out": 33}),
        (4, {"flags": 1}),
        (6, {"n_out": 46}),
        (7, {"k": 1 << 20}),
        (16, {"n_out": 34}),
        (17, {"n_out": 1}),
        (18, {"k": 1}),
    ],
)
@pytest.mark.parametrize("config", CONFIGS, ids=("plain", "registered"))
def test_wrong_dimensions(packet: int, change: dict, config) -> None:
    dut = Issuer(config)
    items = headers()
    items[packet] |= change

    async def feed(ctx) -> None:
        ctx.set(dut.model, model_info())
        ctx.set(dut.packets.ready, 1)
        ctx.set(dut.unpack.ready, 1)
        ctx.set(dut.attended, 1)
        await send(ctx, dut.headers, items[:packet])
        ctx.set(dut.headers.payload, items[packet])
        ctx.set(dut.headers.valid, 1)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.fault.valid)
        assert FaultCode(ctx.get(dut.fault.code)) == FaultCode.PACKET_DIMENSION
        assert ctx.get(dut.fault.index) == packet
        assert not ctx.get(dut.headers.ready)

    simulate(dut, feed)
