# SPDX-License-Identifier: Apache-2.0
"""The bench of the whole accelerator, tried on a stand-in that plays back the golden model's results."""

import dataclasses

import numpy as np
import pytest

from serrano.config import preset
from serrano.csr.table import REGISTERS
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.runner import SimulationError
from serrano_sim.top.compare import check
from serrano_sim.top.device import END_REGISTERS
from serrano_sim.top.job import MemorySettings, Phase
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import BENCH, Options, load_result, plan_job, prepare, simulate
from support.playback import DONE, HANG, TRACE, WRITE, fake_design, script
from support.top import flipped

CONFIG = preset("base")
MODEL = random_model(3, dim=36, ffn=44, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=45, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
REQUEST = Request((5, 7, 11), 4)


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    return fake_design(tmp_path_factory.mktemp("fake"))


def play(design, folder, change=lambda actions: actions, requests=(REQUEST,), **settings):
    settings.setdefault("kv_blocks", 6)
    job = plan_job(CONFIG, TAPE, requests, **settings)
    path = prepare(job, TAPE, folder)
    made = script(job, MODEL)
    made.actions = change(made.actions)
    made.write_to(path)
    simulate(design, path, Options(timeout=120))
    return load_result(path, TAPE)


def test_a_run_is_bit_exact(design, tmp_path):
    result = play(design, tmp_path, memory=MemorySettings.of(7, stall=0.3, seed=5))
    verdict = check(result, MODEL)
    # The counters' cycles are those of the script; stalls of the memory do not hold the trace up.
    assert verdict.errors == []
    assert verdict.bit_exact
    assert verdict.logits_compared == 4 * 45
    assert verdict.kv_bytes_compared == 6 * 2 * 2 * (2 * 8 + 4)
    assert result.tokens == verdict.tokens
    assert len(result.tokens[0]) == 4
    phase = result.phases[0]
    assert phase.loaded and phase.irq
    assert phase.axil_handshakes == 0
    assert phase.registers["KV_PEAK"] == 7
    assert phase.end > phase.begin > 0
    assert result.seconds > 0


def test_several_requests(design, tmp_path):
    requests = (REQUEST, Request((1, 2), 3), Request(range(20), 2))
    result = play(design, tmp_path, requests=requests, memory=MemorySettings.of(9, stall=0.2, seed=6))
    verdict = check(result, MODEL)
    assert verdict.errors == [] and verdict.bit_exact
    assert result.tokens == verdict.tokens and [len(made) for made in result.tokens] == [4, 3, 2]
    assert {record.id: record.sequence for _, record in result.phases[0].completions} == {0: 0, 1: 1, 2: 2}


def test_cancelling(design, tmp_path):
    """The stand-in does not care; the host flags the entry, tells the number, and does not count that."""
    requests = (REQUEST, Request((1, 2), 3))
    phase = Phase(load=True, requests=requests, cancel=((1, 1), (2, 0)), registers={"CANCEL": 7})
    result = play(design, tmp_path, requests=requests, phases=(phase,))
    assert check(result, MODEL).errors == []
    assert [event["number"] for event in result.events if event["event"] == "cancel"] == [1, 0]
    layout = result.job.layout
    flags = [result.memory.read(layout.submit_address + 64 * number + 28, 4) for number in (0, 1)]
    assert flags == [b"\4\0\0\0"] * 2
    assert result.phases[0].axil_handshakes == 0


def test_what_comes_too_late_is_told(design, tmp_path):
    phase = Phase(load=True, requests=(REQUEST,), cancel=((4, 0),))
    with pytest.raises(SimulationError, match=r"the requests ended before the commands .* were given"):
        play(design, tmp_path, phases=(phase,))


def flip(kind, number):
    """Flips a bit of lane 1 in the beat of that number among those of a kind."""

    def change(actions):
        places = [i for i, (what, data) in enumerate(actions) if what == TRACE and data & 15 == kind]
        what, data = actions[places[number]]
        return [*actions[: places[number]], (what, data ^ 1 << 64 + 32), *actions[places[number] + 1 :]]

    return change


def test_a_flipped_bit_is_named(design, tmp_path):
    # Logits of the second step: packet 16; beats of 8 for 48 logits.
    verdict = check(play(design, tmp_path, flip(4, 6 + 2)), MODEL)
    assert not verdict.bit_exact
    difference = verdict.difference
    assert (difference.step, difference.position, difference.packet) == (1, 3, 16)
    assert (difference.row, difference.element, difference.name) == (0, 17, "MATMUL")
    assert difference.expected ^ difference.found == 1
    assert verdict.errors[0].startswith(
        "step 1 (request 0, position 3), packet 16 (MATMUL), row 0, element 17: expected"
    )


def test_wrong_memory_is_named(design, tmp_path):
    def change(actions):
        # The first write to KV memory is the beginning of block 1: K scales of layer 0, head 0.
        start = plan_job(CONFIG, TAPE, (REQUEST,), kv_blocks=6).layout.kv_address
        place = next(
            i for i, (what, data) in enumerate(actions) if what == WRITE and data & (1 << 40) - 1 >= start
        )
        return [*actions[:place], (WRITE, actions[place][1] ^ 1 << 40 + 16), *actions[place + 1 :]]

    verdict = check(play(design, tmp_path, change), MODEL)
    assert verdict.difference is None and not verdict.bit_exact
    assert verdict.problems[0].startswith(
        "KV memory: block 1, byte 2 (layer 0, KV head 0, K scale of token 1): expected"
    )


def test_a_hang_is_told(design, tmp_path):
    def change(actions):
        return [*actions[:200], (HANG, 0)]

    with pytest.raises(SimulationError, match=r"nothing happened for \d+ cycles; last beat of the trace: "):
        play(design, tmp_path, change, patience=30_000, alarm_period=10_000)


def test_a_wrong_accelerator_is_refused(design, tmp_path):
    job = plan_job(CONFIG, TAPE, (REQUEST,))
    path = prepare(job, TAPE, tmp_path)
    other = script(job, MODEL)
    other.job = dataclasses.replace(job, config=dataclasses.replace(CONFIG, dim_max=1024))
    other.write_to(path)
    with pytest.raises(SimulationError, match="registers: DIM_MAX is 0x400, not 0x800"):
        simulate(design, path, Options(timeout=120))


def test_a_tape_that_does_not_fit_is_refused(design, tmp_path):
    config = dataclasses.replace(CONFIG, dim_max=32, kv_width_max=32, head_dim_max=32)
    job = plan_job(config, TAPE, (REQUEST,))
    path = prepare(job, TAPE, tmp_path)
    script(job, MODEL).write_to(path)
    with pytest.raises(SimulationError, match="the tape does not fit: dim is 36, dim_max is 32"):
        simulate(design, path, Options(timeout=120))


def test_end_flag_and_tokens(design, tmp_path):
    """The last record lacks its end flag at first; it comes with one more record."""

    def change(actions):
        last = max(i for i, (what, _) in enumerate(actions) if what == WRITE)
        without = actions[last][1] & ~(2 << 40 + 8 * 9)
        again = actions[last][1] + (1 << 40 + 96) + 16
        return [*actions[:last], (WRITE, without), (WRITE, again), (DONE, 0)]

    result = play(design, tmp_path, change)
    verdict = check(result, MODEL)
    assert len(result.tokens[0]) == 5
    assert "5 tokens" not in verdict.errors[0]
    assert verdict.errors[0].startswith(f"request 0: tokens {result.tokens[0]} in memory, ")
    assert np.array_equal(result.tokens[0][:4], verdict.tokens[0])


def test_names():
    assert BENCH == "serrano_sim.cocotb.bench_top"
    assert set(END_REGISTERS) <= {entry.name for entry in REGISTERS}


def test_a_flipped_constant(design, tmp_path):
    """Of the stand-in: the offset of CONTROL becomes that of STATUS, and LOAD does nothing any more."""
    pattern = r"CONTROL = 10'h([0-9a-f]+)"
    other = flipped(design, tmp_path / "flipped", pattern)
    assert "CONTROL = 10'h021" in other.files[0].read_text()
    assert other.ports == design.ports
    with pytest.raises(SimulationError, match="no interrupt after LOAD"):
        play(other, tmp_path / "run", patience=20_000, alarm_period=10_000)
    with pytest.raises(ValueError, match=r"matches 1 times, not 2$"):
        flipped(design, tmp_path / "none", pattern, 1)
