# SPDX-License-Identifier: Apache-2.0
"""Bad input and faults in mid-step.

The request ends with its code, registers say what and where, and the next request runs as if nothing had
happened. Faults enter through tape, bus responses and registers only.
"""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Tape, read_tape
from serrano_sim.top.compare import check
from serrano_sim.top.job import BusError, MemorySettings, Phase
from serrano_sim.top.layout import MemoryLayout, Request
from serrano_sim.top.simulate import JobResult, run_job

CONFIG = preset("tiny")
MODEL = random_model(4, dim=24, ffn=22, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=41, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
PARSED: Tape = read_tape(TAPE)
GOOD = Request((3, 1, 4), 3)
TAPE_CLIENT, KV_CLIENT, EMBED_CLIENT, PROMPT_CLIENT, RING_CLIENT = 5, 0, 1, 2, 3
WRITES = 0x80


def packet_offset(index: int) -> int:
    """Offset of a packet's header in the image."""
    at = PARSED.fields["program_offset"]
    for packet in PARSED.packets[:index]:
        at += CONFIG.tape_align + packet.payload_bytes
    return at


def sealed(index: int, change: dict[int, bytes]) -> bytes:
    """The header of a packet with some bytes changed and its CRC made right again."""
    start = packet_offset(index)
    header = bytearray(TAPE[start : start + 32])
    for offset, content in change.items():
        header[offset : offset + len(content)] = content
    length = PARSED.packets[index].payload_bytes
    payload = TAPE[start + CONFIG.tape_align :][:length]
    return bytes(header[:28]) + struct.pack("<I", zlib.crc32(bytes(header[:28]) + payload))


@dataclass
class Trouble:
    """A fault: how it is brought about, and what must be reported of it."""

    code: FaultCode
    pokes: dict[int, bytes] = field(default_factory=dict)
    """Bytes of the image, by offset."""
    errors: tuple[dict, ...] = ()
    """Arguments of BusError, `low` and `high` being (name of a field of the layout, offset)."""
    packet: int | None = None
    detail: int | None = None
    count: int = 2
    """Faults counted: one for each try."""


def run(folder: Path, requests: list[Request], phases: list[Phase], **settings) -> JobResult:
    layout = MemoryLayout.plan(TAPE, requests, kv_blocks=6)
    return run_job(CONFIG, TAPE, requests, folder, layout=layout, phases=phases, **settings)


def afterwards(result: JobResult) -> None:
    """The last phase ran a good request; everything that was committed equals the golden model."""
    last = result.phases[-1]
    assert [record.status for _, record in last.completions] == [0] * GOOD.max_new
    assert last.registers["FAULT_CODE"] == FaultCode.NONE.value
    assert last.registers["KV_USED"] == 0
    verdict = check(result, MODEL)
    assert verdict.difference is None and not verdict.problems and verdict.logits_compared > 0


LAST = len(PARSED.packets) - 1
TROUBLES = {
    "corrupt payload": Trouble(FaultCode.PACKET_CRC, {packet_offset(2) + 100: b"\x5a\xa5"}, packet=2),
    "corrupt payload of the head": Trouble(
        FaultCode.PACKET_CRC, {packet_offset(16) + 77: b"\x5a\xa5"}, packet=16
    ),
    "corrupt header": Trouble(FaultCode.PACKET_CRC, {packet_offset(4) + 3: b"\x01"}, packet=4),
    "unknown opcode": Trouble(FaultCode.PACKET_OPCODE, {packet_offset(5): sealed(5, {0: b"\x42"})}, packet=5),
    "wrong index": Trouble(FaultCode.PACKET_INDEX, {packet_offset(3): sealed(3, {16: b"\x63"})}, packet=3),
    "payload length that is no multiple": Trouble(
        FaultCode.PACKET_LENGTH, {packet_offset(2): sealed(2, {12: b"\x11"})}, packet=2
    ),
    "dimension that is not the model's": Trouble(
        FaultCode.PACKET_DIMENSION, {packet_offset(6): sealed(6, {4: struct.pack("<I", 28)})}, packet=6
    ),
    "dimension over every buffer": Trouble(
        FaultCode.PACKET_DIMENSION, {packet_offset(4): sealed(4, {4: struct.pack("<I", 1 << 20)})}, packet=4
    ),
    "end of another program": Trouble(
        FaultCode.PACKET_INDEX, {packet_offset(LAST): sealed(LAST, {16: b"\x7f"})}, packet=LAST
    ),
    "bus error in the tape": Trouble(
        FaultCode.BUS_SLVERR,
        errors=(
            {
                "response": "SLVERR",
                "on": "read",
                "low": ("tape_address", 4096),
                "high": ("tape_address", PARSED.fields["program_end"]),
                "limit": 0,
            },
        ),
        detail=TAPE_CLIENT,
    ),
    "bus error in KV reads": Trouble(
        FaultCode.BUS_DECERR,
        errors=({"response": "DECERR", "on": "read", "low": ("kv_address", 0), "limit": 1},),
        detail=KV_CLIENT,
        count=1,
    ),
    "bus error in KV writes": Trouble(
        FaultCode.BUS_SLVERR,
        errors=({"response": "SLVERR", "on": "write", "low": ("kv_address", 0), "after": 9, "limit": 1},),
        detail=WRITES,
        count=1,
    ),
    "bus error in the embedding": Trouble(
        FaultCode.BUS_DECERR,
        errors=(
            {
                "response": "DECERR",
                "on": "read",
                "low": ("tape_address", PARSED.fields["embed_offset"]),
                "high": ("tape_address", len(TAPE)),
                "limit": 0,
            },
        ),
        detail=EMBED_CLIENT,
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_fault_in_mid_step(name: str, tmp_path: Path) -> None:
    trouble = TROUBLES[name]
    requests = [GOOD, GOOD, GOOD]
    layout = MemoryLayout.plan(TAPE, requests, kv_blocks=6)
    pokes = tuple((layout.tape_address + offset, content) for offset, content in trouble.pokes.items())
    mend = tuple(
        (layout.tape_address + offset, TAPE[offset : offset + len(content)])
        for offset, content in trouble.pokes.items()
    )
    errors = tuple(
        BusError(**{k: getattr(layout, v[0]) + v[1] if isinstance(v, tuple) else v for k, v in error.items()})
        for error in trouble.errors
    )
    phases = [
        Phase(load=True, requests=(GOOD,)),
        Phase(pokes=pokes, errors=errors, requests=(GOOD,)),
        Phase(pokes=mend, requests=(GOOD,)),
    ]
    result = run(tmp_path, requests, phases, memory=MemorySettings.of(20, stall=0.2, seed=5))
    bad = result.phases[1]
    ends = [record for _, record in bad.completions if record.ended]
    assert [(FaultCode(record.status), record.token) for record in ends] == [(trouble.code, None)]
    registers = bad.registers
    assert FaultCode(registers["FAULT_CODE"]) == trouble.code
    assert registers["FAULT_COUNT"] == trouble.count
    if trouble.packet is not None:
        assert registers["FAULT_PACKET"] == trouble.packet
    if trouble.detail is not None:
        assert registers["FAULT_DETAIL"] == trouble.detail
        address = registers["FAULT_ADDRESS_LO"] | registers["FAULT_ADDRESS_HI"] << 32
        low = errors[0].low
        assert low - 4096 < address < low + max(len(TAPE), layout.kv_bytes)
    assert bad.irq
    afterwards(result)


@pytest.mark.parametrize("preset_name", ["tiny", "small"])
@pytest.mark.parametrize("after", [0, 23])
def test_a_late_error_of_a_write(after: int, preset_name: str, tmp_path: Path) -> None:
    """The step has come to its end and waits for answers alone: the first one of 24, or the last, is bad."""
    config = preset(preset_name)
    tape = write_tape(MODEL, config.n, config.tape_align)
    requests = [Request((3,), 1), GOOD]
    layout = MemoryLayout.plan(tape, requests, kv_blocks=6)
    area = {"low": layout.kv_address, "high": layout.kv_address + layout.kv_bytes}
    error = BusError(response="SLVERR", on="write", after=after, **area)
    phases = [Phase(load=True, requests=requests[:1], errors=(error,)), Phase(requests=(GOOD,))]
    memory = MemorySettings(read_latency=20, write_latency=60_000, max_writes=64)
    result = run_job(config, tape, requests, tmp_path, layout=layout, phases=phases, memory=memory)
    bad = result.phases[0]
    assert [(FaultCode(record.status), record.token) for _, record in bad.completions] == [
        (FaultCode.BUS_SLVERR, None)
    ]
    assert bad.registers["FAULT_COUNT"] == 1
    assert bad.registers["FAULT_DETAIL"] == WRITES
    afterwards(result)


def test_a_transient_bus_error_in_the_tape_is_tried_again(tmp_path: Path) -> None:
    requests = [GOOD, GOOD]
    layout = MemoryLayout.plan(TAPE, requests, kv_blocks=6)
    error = BusError(response="SLVERR", on="read", low=layout.tape_address + 4096, after=3, limit=1)
    phases = [Phase(load=True, requests=(GOOD,), errors=(error,)), Phase(requests=(GOOD,))]
    result = run(tmp_path, requests, phases)
    assert result.tokens[0] == result.tokens[1] and len(result.tokens[0]) == GOOD.max_new
    assert result.phases[0].registers["FAULT_COUNT"] == 1
    afterwards(result)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request((3,), 3, fields={"prompt_tokens": 0}), FaultCode.REQUEST_EMPTY),
        (Request((3,), 3, fields={"max_new": 0}), FaultCode.REQUEST_EMPTY),
        (Request((3,), 3, fields={"prompt_tokens": 62}), FaultCode.REQUEST_LENGTH),
        (Request((3,), 3, fields={"max_new": 0xFFFFFFFF}), FaultCode.REQUEST_LENGTH),
        (Request((3,), 3, fields={"prompt": 0x1002}), FaultCode.REQUEST_ADDRESS),
        (Request((3,), 3, fields={"max_new": 60}), FaultCode.REQUEST_RING),
        (Request((3, 41), 3), FaultCode.REQUEST_TOKEN),
        (Request((3, 0xFFFFFFFF), 3), FaultCode.REQUEST_TOKEN),
    ],
)
def test_a_bad_request(request_: Request, code: FaultCode, tmp_path: Path) -> None:
    phases = [Phase(load=True, requests=(request_,)), Phase(requests=(GOOD,))]
    result = run(tmp_path, [request_, GOOD], phases)
    bad = result.phases[0]
    assert [FaultCode(record.status) for _, record in bad.completions] == [code]
    assert FaultCode(bad.registers["FAULT_CODE"]) == code and bad.irq
    afterwards(result)


def test_too_few_blocks(tmp_path: Path) -> None:
    large = Request((3,), 30, fields={})
    layout = MemoryLayout.plan(TAPE, [large, GOOD], kv_blocks=2)
    phases = [Phase(load=True, requests=(large,)), Phase(requests=(GOOD,))]
    result = run_job(CONFIG, TAPE, [large, GOOD], tmp_path, layout=layout, phases=phases)
    assert [record.status for _, record in result.phases[0].completions] == [FaultCode.REQUEST_SPACE.value]
    afterwards(result)


def test_watchdog(tmp_path: Path) -> None:
    phases = [
        Phase(load=True, registers={"WATCHDOG": 300}, requests=(GOOD,)),
        Phase(registers={"WATCHDOG": 0}, requests=(GOOD,)),
    ]
    result = run(tmp_path, [GOOD, GOOD], phases, memory=MemorySettings.of(400))
    bad = result.phases[0]
    assert [FaultCode(record.status) for _, record in bad.completions] == [FaultCode.WATCHDOG]
    afterwards(result)


def changed(offset: int, value: int, seal: bool = True) -> bytes:
    descriptor = bytearray(TAPE[:256])
    struct.pack_into("<I", descriptor, offset, value)
    if seal:
        struct.pack_into("<I", descriptor, 252, zlib.crc32(bytes(descriptor[:252])))
    return bytes(descriptor)


@pytest.mark.parametrize(
    ("descriptor", "code"),
    [
        (changed(0, 0x46464952), FaultCode.DESCRIPTOR_MAGIC),
        (changed(4, 2), FaultCode.DESCRIPTOR_VERSION),
        (changed(24, 28, seal=False), FaultCode.DESCRIPTOR_CRC),
        (changed(16, 16 | 32 << 16), FaultCode.DESCRIPTOR_GEOMETRY),
        (changed(24, CONFIG.dim_max + 4), FaultCode.DESCRIPTOR_LIMIT),
    ],
)
def test_a_tape_that_cannot_be_loaded(descriptor: bytes, code: FaultCode, tmp_path: Path) -> None:
    layout = MemoryLayout.plan(TAPE, [GOOD], kv_blocks=6)
    at = layout.tape_address
    phases = [
        Phase(pokes=((at, descriptor),), load=True),
        Phase(pokes=((at, TAPE[:256]),), load=True, requests=(GOOD,)),
    ]
    result = run(tmp_path, [GOOD], phases, check_tape=False)
    assert result.phases[0].loaded is False
    assert FaultCode(result.phases[0].load_fault) == code
    assert result.phases[1].loaded
    afterwards(result)
