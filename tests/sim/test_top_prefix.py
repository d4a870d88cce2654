# SPDX-License-Identifier: Apache-2.0
"""Two prompts with a common prefix: the plan, played back, and compared with the golden model."""

import dataclasses

import numpy as np
import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano_host.tape import Descriptor
from serrano_sim.golden.block_manager import Opcode, Status
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.compare import agree, check
from serrano_sim.top.job import KVCommand
from serrano_sim.top.layout import Request
from serrano_sim.top.mirror import Mirror, command_text
from serrano_sim.top.prefix import (
    ALONE,
    FIRST,
    SECOND,
    Method,
    blocks_needed,
    common_prefix,
    golden_tokens,
    plan_prefix,
    reused_tokens,
)
from serrano_sim.top.savings import savings
from serrano_sim.top.simulate import plan_job
from support.playback import TRACE, WRITE, play, script

CONFIG = dataclasses.replace(preset("tiny"), sequences_max=4)
MODEL = random_model(5, dim=24, ffn=22, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=41, context=96)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
BASE = tuple(int(token) for token in np.random.default_rng(1).integers(3, 41, 60))


@dataclasses.dataclass(frozen=True)
class Case:
    first: tuple[int, ...]
    second: tuple[int, ...]
    new: int
    method: Method
    reused: int
    shared: int
    copied: int


def other(count, *more):
    """The first tokens of BASE, then another one than BASE has."""
    return (*BASE[:count], 43 - BASE[count], *more)


CASES = {
    # Of 37 tokens and 13 new ones 49 are written: three full blocks.
    "share and trim": Case(BASE[:37], other(36, 5), 13, Method.SHARE_TRIM, 36, 2, 1),
    # Of 37 tokens and 3 new ones 39 are written: the partial block is not full.
    "fork and trim": Case(BASE[:37], other(36, 5), 3, Method.FORK_TRIM, 36, 2, 1),
    "whole blocks": Case(BASE[:40], other(32, 5, 6), 3, Method.SHARE, 32, 2, 0),
    "identical": Case(BASE[:37], BASE[:37], 3, Method.FORK_TRIM, 36, 2, 1),
    "identical, whole blocks": Case(BASE[:33], BASE[:33], 3, Method.SHARE, 32, 2, 0),
    "a prefix of the first": Case(BASE[:45], BASE[:21], 2, Method.SHARE_TRIM, 20, 1, 1),
    "the first is a prefix": Case(BASE[:20], BASE[:45], 2, Method.FORK_TRIM, 20, 1, 1),
    "less than a block": Case(BASE[:5], other(3), 2, Method.FORK_TRIM, 3, 0, 1),
    "less than a block, which is full": Case(BASE[:20], other(3), 2, Method.SHARE_TRIM, 3, 0, 1),
    "one token": Case(BASE[:5], (BASE[0], 1, 2), 2, Method.FORK_TRIM, 1, 0, 1),
    "nothing": Case(BASE[:20], (43 - BASE[0], *BASE[1:20]), 2, Method.NOTHING, 0, 0, 0),
    "a single token": Case(BASE[:20], BASE[:1], 2, Method.NOTHING, 0, 0, 0),
}


def plan_of(case, config=CONFIG, **settings):
    first, second = Request(case.first, case.new), Request(case.second, case.new)
    return plan_prefix(config, first, second, (case.new, case.new), **settings)


def made(plan, folder, change=lambda script: None):
    job = plan_job(CONFIG, TAPE, plan.requests, phases=plan.phases, kv_blocks=plan.kv_blocks)
    played = script(job, MODEL, 3000)
    change(played)
    return play(job, TAPE, played, folder)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_that_is_carried_out(name, tmp_path):
    case = CASES[name]
    plan = plan_of(case)
    assert (plan.method, plan.reused) == (case.method, case.reused)
    result = made(plan, tmp_path)
    verdict = check(result, MODEL)
    assert verdict.errors == [] and verdict.bit_exact
    assert verdict.answers_compared == sum(len(phase.commands) for phase in plan.phases)
    assert result.tokens[SECOND] == result.tokens[ALONE] == verdict.tokens[ALONE]
    agreement = agree(verdict.parts(SECOND), verdict.parts(ALONE), 41)
    computed = len(case.second) - case.reused + case.new - 1
    assert agreement.problems == []
    assert (agreement.positions, agreement.logits) == (computed, case.new * 41)
    # In which all blocks of all requests are there at the end, each with its own contents.
    written = len(case.first) + case.new - 1 + (case.reused % 16) + computed
    alone = len(case.second) + case.new - 1
    assert verdict.kv_bytes_compared == (written + alone) * 2 * 2 * 20
    found = savings(result, verdict, plan, agreement, Descriptor.unpack(TAPE[:256]))
    total = -(-(len(case.second) + case.new) // 16)
    assert (found["blocks_shared"], found["blocks_copied"]) == (case.shared, case.copied)
    assert found["blocks_allocated"] == {
        "shared": total - case.shared,
        "alone": total,
        "saved": case.shared,
    }
    # Chunks of prompt of four rows, then single tokens.
    shared_steps, alone_steps = (
        -(-rows // 4) + case.new - 1 for rows in (len(case.second) - case.reused, len(case.second))
    )
    assert found["steps"] == {
        "shared": shared_steps,
        "alone": alone_steps,
        "saved": alone_steps - shared_steps,
    }
    assert (
        found["kv_bytes_written"]["saved"] == case.reused * 100 - case.copied * result.job.layout.block_bytes
    )
    assert found["memory_saved_bytes"] == case.shared * result.job.layout.block_bytes
    assert found["cycles"]["shared"] >= 3000 * computed
    # All records of the second are written at its end.
    assert found["cycles_to_first_token"]["shared"] <= found["cycles"]["shared"]


def test_the_hosts_commands():
    def told(name, phase):
        commands = plan_of(CASES[name]).phases[phase].commands
        return [command_text(command) for command in commands if command.opcode != Opcode.STAT]

    assert told("share and trim", FIRST) == ["OPEN of sequence 1 (0, 0)"]
    assert told("share and trim", SECOND) == [
        "SEAL of sequence 1 (0, 0)",
        "SEAL of sequence 1 (1, 0)",
        "SEAL of sequence 1 (2, 0)",
        "OPEN of sequence 2 (0, 0)",
        # After reset generations are 0; LOAD and allocation advance them.
        "SHARE of sequence 2 (1, 2)",
        "SHARE of sequence 2 (2, 2)",
        "SHARE of sequence 2 (3, 2)",
        "TRIM of sequence 2 (36, 0)",
    ]
    assert told("share and trim", ALONE) == [
        "FREE of sequence 2 (0, 0)",
        "FREE of sequence 1 (0, 0)",
        "RESET_POOL of sequence 0 (0, 0)",
    ]
    assert told("fork and trim", SECOND)[2:] == [
        "OPEN of sequence 2 (0, 0)",
        "FORK of sequence 1 (2, 0)",
        "TRIM of sequence 2 (36, 0)",
    ]
    assert told("nothing", SECOND) == ["SEAL of sequence 1 (0, 0)", "OPEN of sequence 2 (0, 0)"]


def test_requests_of_a_plan():
    plan = plan_of(CASES["fork and trim"])
    told = [(request.adopt, request.keep, request.sequence) for request in plan.requests]
    assert told == [(True, True, 1), (True, True, 2), (False, False, 0)]
    assert plan.phases[FIRST].load and not any(phase.load for phase in plan.phases[1:])
    assert [len(phase.requests) for phase in plan.phases] == [1, 1, 1, 0]


def test_common_prefixes():
    assert common_prefix((1, 2, 3), (1, 2, 4, 3)) == 2
    assert common_prefix((), (1,)) == common_prefix((2,), (1,)) == 0
    assert common_prefix((1, 2), (1, 2, 3)) == 2
    assert reused_tokens((1, 2, 3), (1, 2, 3)) == 2
    assert reused_tokens((1, 2, 3), (1, 5)) == 1
    # The bos token alone is no prefix of a text.
    assert reused_tokens((1, 2, 3), (1, 5), bos=1) == 0
    assert reused_tokens((1, 2, 3), (1, 2), bos=1) == 1
    assert reused_tokens((7,), (7, 8), bos=1) == 1
    assert plan_of(CASES["one token"], bos=BASE[0]).method is Method.NOTHING


def test_an_early_end():
    """How long the first sequence becomes decides whether its partial block is full."""
    request = Request(BASE[:37], 13)
    tokens = golden_tokens(MODEL, CONFIG.n, request)
    assert tokens == Decoder(MODEL, CONFIG.n).generate(request.prompt, 13)
    assert len(tokens) == 13
    eos = tokens[4]
    early = golden_tokens(MODEL, CONFIG.n, dataclasses.replace(request, eos=eos))
    assert early == tokens[: tokens.index(eos) + 1]
    second = Request(other(36, 5), 13)
    assert plan_prefix(CONFIG, request, second, (13, 13)).method is Method.SHARE_TRIM
    assert plan_prefix(CONFIG, request, second, (len(early), 13)).method is Method.FORK_TRIM


def test_an_early_end_that_is_carried_out(tmp_path):
    case = CASES["share and trim"]
    made_alone = golden_tokens(MODEL, CONFIG.n, Request(case.second, 13))
    eos = next(token for token in reversed(made_alone) if token != made_alone[-1])
    count = made_alone.index(eos) + 1
    first, second = (Request(prompt, 13, eos) for prompt in (case.first, case.second))
    counts = [len(golden_tokens(MODEL, CONFIG.n, request)) for request in (first, second)]
    assert counts[1] == count < 13
    plan = plan_prefix(CONFIG, first, second, tuple(counts))
    verdict = check(made(plan, tmp_path), MODEL)
    assert verdict.errors == [] and verdict.bit_exact


def test_the_pool():
    """It keeps all that was written, if there are so many blocks; the first two requests must fit."""
    case = CASES["share and trim"]
    first, second = Request(case.first, 13), Request(case.second, 13)
    needed = blocks_needed(first, second, 36)
    assert needed == 1 + 4 + 4 - 2
    assert plan_of(case).kv_blocks == needed + 4
    assert plan_of(case, dataclasses.replace(CONFIG, blocks_max=9)).kv_blocks == 9
    with pytest.raises(ValueError, match=r"^7 KV blocks are needed, blocks_max of tiny is 6$"):
        plan_of(case, dataclasses.replace(CONFIG, blocks_max=6))


def test_a_pool_that_is_used_twice(tmp_path):
    plan = plan_of(CASES["share and trim"], dataclasses.replace(CONFIG, blocks_max=8))
    verdict = check(made(plan, tmp_path), MODEL)
    assert verdict.errors == [] and verdict.bit_exact


# What is wrong is told


def test_a_wrong_answer(tmp_path):
    def change(script):
        # The first SEAL: a generation.
        script.answers[1] = (0, 3)
        script.answers[2] = (int(Status.OUT_OF_RANGE), 0)

    verdict = check(made(plan_of(CASES["share and trim"]), tmp_path, change), MODEL)
    assert verdict.errors == [
        "phase 1: KV command 0, SEAL of sequence 1 (0, 0): expected OK 2, found OK 3",
    ]
    assert not verdict.bit_exact


def test_a_status_by_name(tmp_path):
    def change(script):
        script.answers[2] = (int(Status.OUT_OF_RANGE), 0)

    verdict = check(made(plan_of(CASES["share and trim"]), tmp_path, change), MODEL)
    text = "phase 1: KV command 1, STAT of sequence 1 (20, 0): expected OK 1, found OUT_OF_RANGE 0"
    assert verdict.errors == [text]


def test_a_missing_answer(tmp_path):
    verdict = check(made(plan_of(CASES["nothing"]), tmp_path, lambda script: script.answers.pop()), MODEL)
    assert verdict.errors == ["phase 3: 2 answers to 3 KV commands"]


def test_blocks_that_are_left(tmp_path):
    plan = plan_of(CASES["fork and trim"])
    job = plan_job(CONFIG, TAPE, plan.requests, phases=plan.phases, kv_blocks=plan.kv_blocks)
    result = play(job, TAPE, script(job, MODEL, 3000), tmp_path, {"KV_USED": 3})
    assert check(result, MODEL).errors == [
        "phase 1: 3 KV blocks are in use at its end, not 4",
        "phase 2: 3 KV blocks are in use at its end, not 0",
        "phase 3: 3 KV blocks are in use at its end, not 0",
    ]


@pytest.mark.parametrize("place", ["first", "copy", "behind the copy"])
def test_a_byte_that_changed(place, tmp_path):
    """In a block of the first sequence, in the copy, and where the copy must have left zeros."""
    case = CASES["fork and trim"]
    plan = plan_of(case)

    def change(script):
        layout = script.job.layout
        # The second sequence has blocks 1, 2 and the copy of 3 in 4, with 36 + 2 + 2 tokens.
        block, token = {"first": (3, 4), "copy": (4, 3), "behind the copy": (4, 9)}[place]
        start = layout.kv_address + block * layout.block_bytes
        kv = script.decoder.kv
        address = start + 2 * token - 2 * token % 16
        data = bytearray(kv.image[block, : 2 * 16].tobytes()[2 * token - 2 * token % 16 :][:16])
        data[2 * token % 16] ^= 1
        ends = [i for i, (what, _) in enumerate(script.actions) if what == TRACE]
        script.actions.insert(
            ends[-1] + 1,
            (WRITE, address | int.from_bytes(data.ljust(16, b"\0"), "little") << 40 | 0xFFFF << 168),
        )

    verdict = check(made(plan, tmp_path, change), MODEL)
    block, token = {"first": (3, 4), "copy": (4, 3), "behind the copy": (4, 9)}[place]
    assert len(verdict.errors) == 1
    text = (
        f"KV memory: block {block}, byte {2 * token} (layer 0, KV head 0, K scale of token {token}): expected"
    )
    assert verdict.errors[0].startswith(text)
    assert verdict.errors[0].endswith("1 bytes differ")


def test_runs_that_do_not_agree(tmp_path):
    result = made(plan_of(CASES["fork and trim"]), tmp_path)
    verdict = check(result, MODEL)
    shared, alone = verdict.parts(SECOND), verdict.parts(ALONE)
    assert [step.spans[0].position for step in shared] == [36, 38, 39]
    assert [step.spans[0].position for step in alone] == [*range(0, 37, 4), 38, 39]

    def changed(change):
        beats = shared[1].beats.copy()
        step = dataclasses.replace(shared[1], beats=change(beats))
        return agree([shared[0], step, *shared[2:]], alone, 41)

    def flip(beats):
        place = np.flatnonzero(beats["kind"] == 4)[2]
        beats["values"][place, 1] ^= 1
        return beats

    # Tiny has 2 lanes: the third beat has columns 4 and 5.
    lanes = CONFIG.lanes
    found = changed(flip)
    assert found.positions == 2
    text = f"position 38 (steps {shared[1].index} and {alone[10].index}), packet 16, column {2 * lanes + 1}: "
    assert found.problems[0].startswith(text)
    assert found.problems[0].endswith(" are not the same")
    found = changed(lambda beats: beats[1:])
    assert found.problems[0].endswith("the results are not of the same form")
    # The order of beats does not matter, nor what lies behind the vocabulary.
    assert changed(lambda beats: beats[::-1]).problems == []

    def padding(beats):
        place = np.flatnonzero((beats["kind"] == 4) & (beats["column"] + lanes > 41))[0]
        beats["values"][place, -1] ^= 1
        return beats

    assert changed(padding).problems == []
    # Whether a row that is not sampled goes through the head's norm depends on the others; logits do not.
    first = shared[0].beats
    normed = (first["packet"] == 15) & (first["row"] == 0)
    assert normed.any()
    one, all_ = (
        agree([dataclasses.replace(shared[0], beats=beats)], alone, 41) for beats in (first[~normed], first)
    )
    assert one.problems == all_.problems == [] and one.positions == all_.positions == 2
    assert all_.elements - one.elements == MODEL.dim and one.logits == 41
    found = changed(lambda beats: beats[beats["packet"] < 16])
    assert found.problems[0].endswith("the results are not of the same form")


# The mirror


def test_a_mirror():
    mirror = Mirror(CONFIG, 4)
    mirror.load()
    request = Request((1, 2, 3), 40)
    assert mirror.admit(request, 2).table == (1, 2, 3)
    assert mirror.step(request, 2, 3) is Status.OK and mirror.length(2) == 3
    assert mirror.step(request, 2, 50) is not Status.OK and mirror.length(2) == 3
    mirror.end(request, 2)
    assert mirror.manager.free == [3, 2, 1]
    # What does not fit leaves nothing behind.
    assert mirror.admit(Request((1, 2, 3), 60)) is FaultCode.REQUEST_SPACE
    assert mirror.manager.used == 0
    assert mirror.manager.free == [3, 2, 1]
    # Nor does what was not opened, and that changes nothing.
    adopting = dataclasses.replace(request, adopt=True, sequence=2)
    assert mirror.admit(adopting) is FaultCode.KV_COMMAND
    assert mirror.manager.sequences == {}
    assert mirror.length(2) == 0


def test_a_mirror_of_sequences_that_are_there():
    mirror = Mirror(CONFIG, 8)
    mirror.load()
    kept = Request((1, 2, 3), 20, keep=True)
    assert mirror.admit(kept).sequence == 0
    mirror.step(kept, 0, 20)
    mirror.end(kept, 0)
    assert mirror.unused() == 1 and mirror.length(0) == 20
    assert mirror.admit(kept, 0) is FaultCode.KV_COMMAND
    going_on = Request(range(20), 5, adopt=True)
    assert mirror.admit(going_on) is FaultCode.REQUEST_SEQUENCE
    assert mirror.admit(dataclasses.replace(going_on, prompt=range(21), tenant=3)) is FaultCode.KV_COMMAND
    assert mirror.admit(Request(range(21), 150, adopt=True)) is FaultCode.REQUEST_SPACE
    admission = mirror.admit(Request(range(21), 20, adopt=True))
    assert (admission.sequence, admission.length, admission.table) == (0, 20, (1, 2, 3))
    assert admission.allocated == (3,)
    for number in (1, 2, 3):
        assert mirror.command(KVCommand(Opcode.OPEN, number)) == (0, 0)
    assert mirror.unused() is None
    assert mirror.admit(Request((1,), 1)) is FaultCode.KV_COMMAND
