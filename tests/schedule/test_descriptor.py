# SPDX-License-Identifier: Apache-2.0
"""DescriptorLoader: fields of good descriptors, and the refusal of bad ones."""

import dataclasses
import struct
import zlib
from functools import cache

import pytest

from serrano.config import AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano.schedule.descriptor import DescriptorLoader
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import read_tape
from support.streams import STALLS, collect, send, simulate

CONFIG = preset("tiny")


@cache
def image(n: int, align: int) -> bytes:
    model = random_model(1, dim=40, ffn=44, layers=1, heads=6, kv_heads=2, head_dim=8, vocab=33)
    return write_tape(model, n, align)


def load(config: AcceleratorConfig, descriptor: bytes, stall: float = 0.0) -> tuple[FaultCode, dict, int]:
    dut = DescriptorLoader(config)
    width = config.port_bytes
    result = {}

    async def feed(ctx) -> None:
        (request,) = await collect(ctx, dut.memory.request, 1, convert=lambda p: (p.address, p.bytes))
        assert request == (0x3000, 256)
        items = [
            {"bytes": list(descriptor[i : i + width]), "last": i + width == 256} for i in range(0, 256, width)
        ]
        await send(ctx, dut.memory.data, items, stall, 1)

    async def control(ctx) -> None:
        ctx.set(dut.address, 0x3000)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        (code,) = await ctx.tick().sample(dut.code).until(dut.done)
        result["code"] = FaultCode(code)
        result["loaded"] = ctx.get(dut.loaded)
        result["model"] = ctx.get(dut.model)

    simulate(dut, feed, control)
    return result["code"], result["model"], result["loaded"]


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "base"])
@pytest.mark.parametrize("stall", STALLS)
def test_fields(name: str, stall: float) -> None:
    config = preset(name)
    content = image(config.n, config.tape_align)
    code, model, loaded = load(config, content[:256], stall)
    fields = read_tape(content).fields
    assert code == FaultCode.NONE and loaded
    for field in ("dim", "ffn", "layers", "heads", "kv_heads", "head_dim", "head_pad", "vocab", "context"):
        assert getattr(model, field) == fields[field], field
    for field in ("program_offset", "head_offset", "end_offset", "program_end", "packets"):
        assert getattr(model, field) == fields[field], field
    for field in ("rope_offset", "rope_stride", "embed_offset", "embed_stride", "block_bytes"):
        assert getattr(model, field) == fields[field], field
    assert model.record_bytes == fields["record_bytes"]
    assert model.group == 3
    for scale in ("s_eps", "s_score"):
        packed = getattr(model, scale)
        assert packed.exponent << 10 | packed.fraction == fields[scale]


def changed(change: dict[int, int], sealed: bool = True) -> bytes:
    descriptor = bytearray(image(CONFIG.n, CONFIG.tape_align)[:256])
    for offset, value in change.items():
        struct.pack_into("<I", descriptor, offset, value)
    if sealed:
        struct.pack_into("<I", descriptor, 252, zlib.crc32(descriptor[:252]))
    return bytes(descriptor)


@pytest.mark.parametrize(
    ("descriptor", "code"),
    [
        (changed({0: 0x12345678}), FaultCode.DESCRIPTOR_MAGIC),
        (changed({4: 2}), FaultCode.DESCRIPTOR_VERSION),
        (changed({4: 0x0005_0001}), FaultCode.NONE),
        (changed({24: 44}, sealed=False), FaultCode.DESCRIPTOR_CRC),
        (changed({16: 8 | 32 << 16}), FaultCode.DESCRIPTOR_GEOMETRY),
        (changed({16: 4 | 64 << 16}), FaultCode.DESCRIPTOR_GEOMETRY),
        (changed({20: 16 | 32 << 16}), FaultCode.DESCRIPTOR_GEOMETRY),
        (changed({24: CONFIG.dim_max + 1}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({24: 0x10028}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({24: 0}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({28: CONFIG.ffn_max + 1}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({36: 7}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({36: 34, 40: 17}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({40: 0}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({44: 132, 48: 132}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({36: 12, 40: 4, 44: 128, 48: 128}), FaultCode.DESCRIPTOR_LIMIT),
        (changed({52: CONFIG.vocab_max + 1}), FaultCode.DESCRIPTOR_LIMIT),
    ],
)
@pytest.mark.parametrize("registered", [False, True])
def test_refused(descriptor: bytes, code: FaultCode, registered: bool) -> None:
    found, _, loaded = load(dataclasses.replace(CONFIG, registered=registered), descriptor)
    assert found == code
    assert loaded == (code == FaultCode.NONE)


def test_context_is_limited_to_the_accelerators() -> None:
    code, model, _ = load(CONFIG, changed({56: 1 << 20}))
    assert code == FaultCode.NONE and model.context == CONFIG.context_max


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize(
    ("dim_max", "kv_width_max", "fits"), [(48, 16, True), (48, 12, False), (44, 16, False)]
)
def test_products_are_limited(dim_max: int, kv_width_max: int, fits: bool, registered: bool) -> None:
    """Six heads of 8 channels, two of them for K and V."""
    sizes = {"dim_max": dim_max, "kv_width_max": kv_width_max, "head_dim_max": 8}
    limited = dataclasses.replace(CONFIG, registered=registered, **sizes)
    code, _, _ = load(limited, image(CONFIG.n, CONFIG.tape_align)[:256])
    assert code == (FaultCode.NONE if fits else FaultCode.DESCRIPTOR_LIMIT)


def test_limits_are_those_of_the_configuration() -> None:
    small = dataclasses.replace(CONFIG, dim_max=16, kv_width_max=16, head_dim_max=16)
    code, _, loaded = load(small, image(CONFIG.n, CONFIG.tape_align)[:256])
    assert code == FaultCode.DESCRIPTOR_LIMIT and not loaded
