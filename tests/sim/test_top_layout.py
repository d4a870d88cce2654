# SPDX-License-Identifier: Apache-2.0
"""Where things lie in memory, and the bytes of the rings, against docs/rings.md read by hand."""

import itertools
import struct

import numpy as np
import pytest

from serrano.config import preset
from serrano.kvcache import Opcode
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import read_tape
from serrano_sim.memory.handle import AxiMemory
from serrano_sim.top.job import BusError, Job, KVAnswer, KVCommand, MemorySettings, Phase, phase_results
from serrano_sim.top.layout import Completion, MemoryLayout, Request, blocks_of, kv_noise
from serrano_sim.top.limits import limits_of, misfits
from serrano_sim.top.simulate import plan_job

MODEL = random_model(1, context=64)
TAPE = write_tape(MODEL, 16, 32)
REQUESTS = (Request((3, 4, 5), 7), Request(range(20), 30, eos=9), Request((1,), 1, tenant=6))


def test_nothing_overlaps_and_all_is_aligned():
    layout = MemoryLayout.plan(TAPE, REQUESTS)
    parts = [
        (layout.submit_address, 64 * layout.submit_size),
        (layout.complete_address, 16 * layout.complete_size),
        *((address, 4 * len(r.prompt)) for address, r in zip(layout.prompts, REQUESTS, strict=True)),
        (layout.tape_address, len(TAPE)),
        (layout.kv_address, layout.kv_bytes),
    ]
    assert parts[0][0] == 4096
    for (low, size), (high, _) in itertools.pairwise(parts):
        assert low + size <= high
    assert layout.kv_address + layout.kv_bytes <= layout.size
    assert layout.size % 4096 == 0
    assert layout.tape_address % 4096 == layout.kv_address % 4096 == 0
    assert layout.submit_address % 64 == layout.complete_address % 64 == 0
    assert not any(address % 4 for address in layout.prompts)
    # Three entries; 8 + 31 + 2 records; 50 tokens in blocks of 16, and NULL.
    assert (layout.submit_size, layout.complete_size, layout.kv_blocks) == (4, 64, 5)
    assert layout.block_bytes == read_tape(TAPE).fields["block_bytes"]


def test_a_buffer_comes_last():
    plain, layout = (MemoryLayout.plan(TAPE, REQUESTS, buffer_bytes=size) for size in (0, 100))
    assert plain.buffer_bytes == 0 and layout.buffer_bytes == 100
    assert layout.buffer_address >= layout.kv_address + layout.kv_bytes
    assert layout.buffer_address % 4096 == 0
    assert layout.size == plain.size + 4096


def test_elsewhere():
    here, there = MemoryLayout.plan(TAPE, REQUESTS), MemoryLayout.plan(TAPE, REQUESTS, base=1 << 33)
    assert there.tape_address - here.tape_address == 1 << 33
    assert there.size - here.size == 1 << 33


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": 100}, "Base must be a multiple of 4096, not 100"),
        ({"submit_size": 3}, "Field 'submit_size' must be a power of two, not 3"),
        ({"complete_size": 0}, "Field 'complete_size' must be a power of two, not 0"),
    ],
)
def test_wrong_layouts(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MemoryLayout.plan(TAPE, REQUESTS, **settings)


def test_ring_entries(tmp_path):
    layout = MemoryLayout.plan(TAPE, REQUESTS, submit_size=2)
    memory = AxiMemory(folder=tmp_path, size=layout.size)
    layout.submit(memory, 0, REQUESTS[0], 0x123456789C)
    layout.submit(memory, 3, REQUESTS[1], 0x2000)
    raw = memory.read(layout.submit_address, 128)
    assert raw[:8] == bytes(8)
    assert raw[8:16] == bytes.fromhex("9c78563412000000")
    assert struct.unpack("<IIII", raw[16:32]) == (3, 7, 0xFFFFFFFF, 0)
    assert raw[32:64] == bytes(32)
    assert struct.unpack("<IIQIIII", raw[64:96]) == (3, 0, 0x2000, 20, 30, 9, 0)
    layout.submit(memory, 2, REQUESTS[2], 0)
    assert struct.unpack("<II", memory.read(layout.submit_address, 8)) == (2, 6)


@pytest.mark.parametrize(
    ("names", "flags"),
    [("adopt", 1), ("keep", 2), ("cancelled", 4), ("adopt keep", 3), ("adopt cancelled", 5)],
)
def test_flags_and_sequence(names, flags):
    set_ = dict.fromkeys(names.split(), True)
    request = Request((3, 4), 5, **set_, sequence=0x1234)
    entry = request.entry(7, 64)
    assert struct.unpack("<28xII28x", entry) == (flags, 0x1234)
    assert entry[:28] == Request((3, 4), 5).entry(7, 64)[:28]
    wrong = Request((3, 4), 5, **set_, fields={"flags": 1 << 31, "sequence": 1 << 20})
    assert struct.unpack("<28xII28x", wrong.entry(7, 64)) == (1 << 31, 1 << 20)


def test_cancelling(tmp_path):
    """The flag is added to those that are set, and nothing else changes."""
    layout = MemoryLayout.plan(TAPE, REQUESTS, submit_size=2)
    memory = AxiMemory(folder=tmp_path, size=layout.size)
    layout.submit(memory, 0, REQUESTS[0], 0x1000)
    layout.submit(memory, 3, Request((3, 4), 5, keep=True), 0x2000)
    before = memory.read(layout.submit_address, 128)
    layout.cancel(memory, 3)
    after = memory.read(layout.submit_address, 128)
    assert after[64 + 28] == 6 and before[64 + 28] == 2
    assert after[:92] + after[93:] == before[:92] + before[93:]


def test_bad_entries():
    request = Request((), 4, fields={"prompt_tokens": 5, "prompt": 3, "flags": 1})
    assert struct.unpack("<IIQIIII32x", request.entry(1, 64)) == (1, 0, 3, 5, 4, 0xFFFFFFFF, 1)
    with pytest.raises(ValueError, match=r"^A ring entry's field is one of id, .*, not 'length'$"):
        Request((1,), 1, fields={"length": 2})


def test_completion_records(tmp_path):
    layout = MemoryLayout.plan(TAPE, REQUESTS, complete_size=4)
    memory = AxiMemory(folder=tmp_path, size=layout.size)
    assert layout.completion(memory, 1) is None
    memory.write(layout.complete_address, bytes.fromhex("07000000 2a010000 00 03 0102 01000000"))
    first = layout.completion(memory, 1)
    assert first == Completion(7, 298, 0, True, 1, 0x201)
    assert layout.completion(memory, 5) is None
    memory.write(layout.complete_address, bytes.fromhex("07000000 2a010000 24 02 ffff 05000000"))
    assert layout.completion(memory, 5) == Completion(7, None, 0x24, True, 5)
    for record in (first, Completion(1, None, 3, True, 9), Completion(2, 5, 0, False, 0xFFFFFFFF, 0)):
        assert Completion.unpack(record.pack()) == record


def test_filled_memory(tmp_path):
    layout = MemoryLayout.plan(TAPE, REQUESTS)
    memory = AxiMemory(folder=tmp_path, size=layout.size)
    layout.fill(memory, TAPE, REQUESTS)
    assert memory.read(layout.tape_address, len(TAPE)) == TAPE
    assert memory.array(layout.prompts[1], "<u4", 20).tolist() == list(range(20))
    kv = layout.kv(memory)
    assert kv.shape == (5, layout.block_bytes)
    assert kv.all()
    assert np.array_equal(kv.reshape(-1), kv_noise(layout.kv_bytes))


def test_blocks():
    assert [blocks_of(n) for n in (0, 1, 16, 17, 512)] == [0, 1, 1, 2, 32]


def test_a_job_file(tmp_path):
    phases = (
        Phase(load=True, pokes=((64, b"\1\2"),), errors=(BusError(response="SLVERR", on="read", low=5),)),
        Phase(
            requests=REQUESTS,
            registers={"WATCHDOG": 5},
            commands=(KVCommand(Opcode.OPEN, 1, tenant=3), KVCommand(99, 2, 3, 4, 5)),
            meanwhile=((2, KVCommand(Opcode.FREE, 1)),),
            cancel=((1, 0), (3, 2)),
            peeks=((4096, 8),),
        ),
    )
    job = plan_job(
        preset("base"), TAPE, REQUESTS, phases=phases, memory=MemorySettings.of(60, 0.5, 7), watchdog=9
    )
    job.write(tmp_path)
    again = Job.read(tmp_path)
    assert again == job
    assert again.phases[0].pokes == ((64, b"\1\2"),)
    assert again.phases[1].commands[0] == KVCommand(1, 1, 3, 0, 0)
    assert again.memory.stall == 0.5
    assert again.requests == REQUESTS
    with pytest.raises(ValueError, match=r"^The layout has 3 prompts, the phases 0 requests$"):
        plan_job(preset("base"), TAPE, REQUESTS, phases=phases[:1])


def test_results_of_phases():
    record = {"id": 0, "token": 3, "status": 0, "ended": True, "number": 1, "sequence": 2}
    end = {"irq": True, "axil_handshakes": 2, "registers": {"IRQ": 1}, "begin": 30, "end": 60}
    first, second = phase_results(
        [
            {"event": "commands", "cycle": 29, "answers": [[8, 0], [0, 5]], "cycles": 17},
            {"event": "meanwhile", "cycle": 45, "begin": 40, "status": 0, "aux": 9},
            {"event": "completion", "cycle": 50, "record": record},
            {"event": "meanwhile", "cycle": 59, "begin": 51, "status": 2, "aux": 0},
            {"event": "phase", "cycle": 70, **end, "peeks": ["0a0b"]},
            {"event": "load", "loaded": True, "fault": 0},
            {"event": "phase", "cycle": 90, **end, "peeks": []},
        ]
    )
    assert first.answers == ((8, 0), (0, 5)) and first.command_cycles == 17
    assert first.meanwhile == (KVAnswer(0, 9, 40, 45), KVAnswer(2, 0, 51, 59))
    assert first.completions == ((50, Completion(0, 3, 0, True, 1, 2)),)
    assert first.peeks == (b"\x0a\x0b",) and first.loaded is None
    assert second.loaded is True and second.answers == second.meanwhile == second.completions == ()


def test_what_does_not_fit_is_named():
    limits = limits_of(preset("tiny"))
    model = dict(n=4, align=32, dim=256, ffn=1024, heads=8, kv_heads=1, head_dim=32, head_pad=32, vocab=9)

    class Model:
        def __init__(self, **changes):
            vars(self).update(model | changes)

    assert misfits(Model(), limits) == []
    assert misfits(Model(n=16), limits) == ["the tape's n is 16, the accelerator's is 4"]
    assert misfits(Model(dim=257), limits) == ["dim is 257, dim_max is 256"]
    assert misfits(Model(ffn=1025, vocab=65537), limits) == [
        "ffn is 1025, ffn_max is 1024",
        "vocab is 65537, vocab_max is 65536",
    ]
    assert misfits(Model(head_pad=64), limits) == ["heads * head_dim, padded, is 512, dim_max is 256"]
    assert misfits(Model(heads=16, head_pad=16), limits) == [
        "heads / kv_heads is 16, attention_rows_max is 8"
    ]
