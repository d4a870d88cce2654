# SPDX-License-Identifier: Apache-2.0
"""The comparison with the golden model: what equals it passes, what was changed is named, to the element."""

import dataclasses

import numpy as np
import pytest

from serrano.config import AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.compare import check, kv_place
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import plan_job
from support.playback import TRACE, WRITE, Script, play, script

TINY = dataclasses.replace(preset("tiny"), sequences_max=4, dim_max=512, kv_width_max=512)
CONFIGS = {4: TINY, 8: preset("ulx3s"), 16: preset("base")}
SHAPES = (
    {"dim": 36, "ffn": 44, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 45},
    {"dim": 48, "ffn": 21, "heads": 2, "kv_heads": 2, "head_dim": 48, "vocab": 33},
    {"dim": 20, "ffn": 18, "heads": 8, "kv_heads": 1, "head_dim": 6, "vocab": 19},
)


def make(n: int, shape: dict, requests: tuple[Request, ...], **settings):
    config: AcceleratorConfig = CONFIGS[n]
    if shape["head_dim"] % n not in (0, 1, 2, 4, 8):
        shape = {**shape, "head_dim": 8}
    model = random_model(n, layers=2, context=64, **shape)
    tape = write_tape(model, n, config.tape_align)
    job = plan_job(config, tape, requests, **settings)
    return job, tape, model, script(job, model, 3000)


@pytest.mark.parametrize("n", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equal(n, shape, tmp_path):
    job, tape, model, made = make(n, shape, (Request((3, 1, 4), 15),))
    verdict = check(play(job, tape, made, tmp_path), model)
    assert verdict.errors == []
    assert verdict.bit_exact
    assert verdict.logits_compared == 15 * shape["vocab"]
    assert verdict.kv_bytes_compared == 17 * 2 * model.kv_heads * (2 * model.head_dim + 4)
    assert verdict.tokens == [made.tokens]
    # A chunk of prompt, then single tokens.
    assert [step.spans[0].position for step in verdict.steps[0]] == [0, *range(3, 17)]
    assert verdict.steps[0][-1].counters["cycles"] == 17 * 3000


REQUESTS = (Request((3, 1), 20), Request((5,), 3), Request((9, 2, 6), 30), Request(range(9), 8))


def test_several_requests_reuse_blocks(tmp_path):
    """The free list is mirrored: with so few blocks later requests get them in another order."""
    job, tape, model, made = make(16, SHAPES[0], REQUESTS, kv_blocks=5)
    result = play(job, tape, made, tmp_path)
    verdict = check(result, model)
    assert verdict.errors == []
    assert [len(tokens) for tokens in verdict.tokens] == [20, 3, 30, 8]
    assert result.tokens == verdict.tokens


@pytest.mark.parametrize("n", CONFIGS)
def test_steps_of_several_requests(n, tmp_path):
    job, tape, model, made = make(n, SHAPES[0], REQUESTS, kv_blocks=12)
    result = play(job, tape, made, tmp_path)
    verdict = check(result, model)
    assert verdict.errors == [] and verdict.bit_exact
    assert verdict.logits_compared == (20 + 3 + 30 + 8) * model.vocab
    assert [admission.sequence for admission in verdict.admissions] == [0, 1, 2, 3]
    steps = result.recording.steps()
    assert max(len(step.spans) for step in steps) >= 3 and max(step.sampled for step in steps) > 1
    for number, request in enumerate(REQUESTS):
        parts = verdict.parts(number)
        assert sum(step.rows for step in parts) == request.tokens - 1
        assert sum(step.sampled for step in parts) == request.max_new


@pytest.mark.parametrize("n", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_element_is_named(n, seed, tmp_path):
    """An element of a random packet of a random step is changed by a random amount."""
    rng = np.random.default_rng(100 * n + seed)
    job, tape, model, made = make(n, SHAPES[seed % 3], (Request((3, 1, 4), 3),))
    pad = {(4, 6): 8, (4, 48): 48, (8, 48): 48, (16, 48): 48}.get((n, model.head_dim), 8)
    lanes = job.config.lanes
    places = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 <= 5]
    while True:
        place = places[rng.integers(len(places))]
        data = made.actions[place][1]
        kind, row, packet, column = (
            data & 255,
            data >> 8 & 255,
            data >> 16 & 0xFFFF,
            data >> 32 & 0xFFFFFFFF,
        )
        lane = int(rng.integers(lanes))
        element = column + lane
        heads = model.heads * model.head_dim
        if kind == 3 or (kind == 2 and packet in (3, 10)):
            head, channel = divmod(element, pad)
            element = head * model.head_dim + channel
            width = heads if kind == 2 else heads + 2 * model.kv_heads * model.head_dim
            if channel >= model.head_dim:
                continue
        else:
            width = {1: model.dim, 2: model.ffn if packet in (6, 13) else model.dim, 4: model.vocab, 5: 2}[
                kind
            ]
        if element < width:
            break
    changed = data ^ 1 << 64 + 32 * lane + int(rng.integers(32))
    made.actions[place] = (TRACE, changed)
    step = sum(what == TRACE and other & 255 == 6 for what, other in made.actions[:place]) - 1
    # The first step has the prompt's three rows, of which the last one is sampled.
    if step == 0 and kind in (4, 5):
        row = 2
    position = row if step == 0 else step + 2
    verdict = check(play(job, tape, made, tmp_path), model)
    difference = verdict.difference
    assert not verdict.bit_exact
    assert (difference.step, difference.position, difference.packet) == (step, position, packet)
    assert (difference.row, difference.element) == (row, element)

    def value(bits):
        raw = bits >> 64 + 32 * lane & 0xFFFFFFFF
        return raw - (raw >> 31 << 32)

    assert (difference.expected, difference.found) == (value(data), value(changed))


def beats_of(actions, kind, packet):
    return [
        i
        for i, (what, data) in enumerate(actions)
        if what == TRACE and data & 255 == kind and data >> 16 & 0xFFFF == packet
    ]


def changed(tmp_path, change):
    job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),))
    change(made.actions)
    return check(play(job, tape, made, tmp_path), model)


def test_a_missing_beat(tmp_path):
    verdict = changed(tmp_path, lambda actions: actions.pop(beats_of(actions, 3, 2)[1]))
    text = (
        "step 0 (request 0, position 0), packet 2 (QKV of layer 0), row 0, element 8 (k head 1, channel 0):"
    )
    assert str(verdict.difference).startswith(text)
    assert str(verdict.difference).endswith("found nothing")


def test_a_beat_shown_twice(tmp_path):
    def change(actions):
        place = beats_of(actions, 3, 2)[2]
        actions.insert(place, actions[place])

    text = "row 0, element 16 (v head 0, channel 0) (shown 2 times): expected"
    assert text in str(changed(tmp_path, change).difference)


def test_padding_of_codes_is_zero(tmp_path):
    def change(actions):
        place = beats_of(actions, 2, 1)[4]
        assert actions[place][1] >> 32 & 0xFFFFFFFF == 32
        actions[place] = (TRACE, actions[place][1] | 9 << 64 + 32 * 5)

    difference = changed(tmp_path, change).difference
    assert (difference.what, difference.expected, difference.found) == ("padding in column 37", 0, 9)


def test_results_of_the_wrong_kind(tmp_path):
    def change(actions):
        for place in beats_of(actions, 2, 1):
            actions[place] = (TRACE, actions[place][1] ^ 3)

    assert "packet 1 (NORM of layer 0), row 0, kind of beat (CODES): expected 2, found 1" in str(
        changed(tmp_path, change).difference
    )


def test_packets_in_disorder(tmp_path):
    def change(actions):
        one, two = beats_of(actions, 2, 1)[0], beats_of(actions, 3, 2)[0]
        actions[one], actions[two] = actions[two], actions[one]

    verdict = changed(tmp_path, change)
    assert "packet 1 (order): results after those of packet 2" in str(verdict.difference)


def test_a_packet_too_many(tmp_path):
    def change(actions):
        place = beats_of(actions, 2, 1)[0]
        actions[place:place] = [(TRACE, actions[place][1] & ~(0xFFFF << 16) | 300 << 16)]

    assert str(changed(tmp_path, change).difference) == (
        "step 0 (request 0, position 0), packet 1 (order): results after those of packet 300"
    )


def test_a_wrong_step(tmp_path):
    def change(actions):
        place = beats_of(actions, 6, 0)[1]
        actions[place] = (TRACE, actions[place][1] ^ 1 << 96)

    assert changed(tmp_path, change).errors[0] == "request 0, step 1: it must sample"


def test_counters_that_do_not_add_up(tmp_path):
    def change(actions):
        # Counter 3 is array_busy.
        for place in beats_of(actions, 8, 0):
            if actions[place][1] >> 32 & 0xFFFFFFFF == 3:
                actions[place] = (TRACE, actions[place][1] + (1 << 64))

    verdict = changed(tmp_path, change)
    assert verdict.bit_exact
    assert verdict.violations[0] == "step 0: array cycles add up to 9,001, not to 9,000"
    assert len(verdict.violations) == 3


def test_cycles_that_did_not_go_by(tmp_path):
    def change(actions):
        place = beats_of(actions, 7, 0)[1]
        actions.insert(place, (TRACE, 0))

    verdict = changed(tmp_path, change)
    assert verdict.violations == ["step 1: 3,000 cycles counted since the last commit, 3,001 went by"]


@pytest.mark.parametrize("n", CONFIGS)
def test_places_in_kv_memory(n):
    """Every place is the byte that differs if that token's code or scale is another one."""
    model = make(n, SHAPES[0], (Request((3, 1, 4), 3),))[2]
    record = 16 * (2 * 8 + 4)
    rng = np.random.default_rng(n)
    for _ in range(20):
        layer, head, token = rng.integers(2), rng.integers(2), rng.integers(5)
        channel, kind = int(rng.integers(8)), int(rng.integers(2))
        chunk, rest = divmod(channel, n)
        width = min(n, 8)
        code = 64 + kind * 128 + chunk * 16 * width + token * width + rest
        start = (layer * 2 + head) * record
        text = f"layer {layer}, KV head {head}, {'KV'[kind]} "
        assert kv_place(model, n, start + code) == f"{text}code {channel} of token {token}"
        assert kv_place(model, n, start + 32 * kind + 2 * token) == f"{text}scale of token {token}"


def test_a_write_into_a_block_of_nobody(tmp_path):
    job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),), kv_blocks=4)
    address = job.layout.kv_address + 3 * job.layout.block_bytes
    made.actions.append((WRITE, address | 1 << 168))
    verdict = check(play(job, tape, made, tmp_path), model)
    assert verdict.errors == ["KV memory: block 3 was written and belongs to nobody"]


def test_a_write_into_the_tape(tmp_path):
    job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),))
    made.actions.append((WRITE, job.layout.tape_address | 1 << 168))
    assert check(play(job, tape, made, tmp_path), model).errors == ["the tape was written to"]


def test_a_failed_request(tmp_path):
    """A step that was begun and not committed counts for nothing; the record with the fault ends it."""
    job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),))
    commits = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 == 7]
    made.actions, made.late, made.number = made.actions[: commits[1]], [], 0
    code = FaultCode.PACKET_CRC.value
    made.show(9, 0, [code, 7])
    made.show(12, 0, [code << 16, 0])
    made.complete(id=0, token=made.tokens[0], status=0, ended=False, sequence=0)
    made.complete(id=0, token=None, status=code, ended=True, sequence=0)
    result = play(job, tape, made, tmp_path, {"SUBMIT_HEAD": 1, "COMPLETE_TAIL": 2})
    verdict = check(result, model)
    assert len(verdict.steps[0]) == 1
    assert result.recording.steps()[1].faults == ((0x24, 7),)
    # Nothing was written to KV memory here, as the script does so at the end.
    assert [text.partition(":")[0] for text in verdict.errors] == ["KV memory"]
    assert verdict.tokens == [made.tokens[:1]]


def test_records_and_entries_are_counted(tmp_path):
    """One record more than the host has seen, one of a request that there is not, an entry that is left."""
    for name, value in (("COMPLETE_TAIL", 4), ("SUBMIT_HEAD", 0)):
        job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),))
        verdict = check(play(job, tape, made, tmp_path / name, {name: value}), model)
        assert verdict.problems == [f"phase 0: {name} is {value}, not {3 if value else 1}"]
    job, tape, model, made = make(16, SHAPES[0], (Request((3, 1, 4), 3),))
    made.complete(id=9, token=1, status=0, ended=False, sequence=0)
    verdict = check(play(job, tape, made, tmp_path / "strange"), model)
    assert any("id=9" in problem and "of no request" in problem for problem in verdict.problems)


# Requests and their sequences

ADMIT, SPAN, END = 11, 10, 12


TWO = (Request((3, 1, 4), 3), Request((5, 9), 4))


def batch(tmp_path, change, requests=TWO):
    """Two requests at a time, with something changed in the trace."""
    job, tape, model, made = make(16, SHAPES[0], requests, kv_blocks=5)
    change(made)
    return check(play(job, tape, made, tmp_path), model)


def alter(kind, number, **changes):
    """Changes the beat of that number among those of a kind: lanes by number, or the row or column."""

    def change(made):
        place = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 == kind]
        what, data = made.actions[place[number]]
        for name, value in changes.items():
            low, size = {"row": (8, 8), "column": (32, 32)}.get(name) or (64 + 32 * int(name[-1]), 32)
            data = data & ~(((1 << size) - 1) << low) | value << low
        made.actions[place[number]] = (what, data)

    return change


def lose(kind, number):
    """Loses that beat."""

    def change(made):
        place = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 == kind]
        del made.actions[place[number]]

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (alter(ADMIT, 1, lane0=0), "request 1, admission: another request is using sequence 0"),
        (alter(ADMIT, 1, lane1=0), "request 0, admission: it has been admitted already"),
        (alter(ADMIT, 1, lane1=2), "request 2, admission: there is no request 2 to be served"),
        (
            alter(ADMIT, 1, lane0=32),
            "request 1, admission: with sequence 32 it must be refused with KV_COMMAND",
        ),
        (lose(ADMIT, 1), "request 1, step 1: it does not have sequence 1"),
        (alter(SPAN, 1, lane0=1 << 16 | 1), "request 0, step 1: it does not have sequence 1"),
        (
            alter(SPAN, 1, column=4),
            "request 0, step 1: positions 4 to 5, the sequence has 3 tokens and 1 to come",
        ),
        (
            alter(SPAN, 0, lane0=4 << 16),
            "request 0, step 0: positions 0 to 4, the sequence has 0 tokens and 3 to come",
        ),
        (alter(SPAN, 0, lane0=2 << 16), "request 0, step 0: it must not sample"),
        (alter(SPAN, 2, row=2), "request 1, step 1: its first row is 2, not 1"),
        (alter(SPAN, 2, lane0=0x10000, lane1=0), "request 0, step 1: it has two spans"),
        (lose(SPAN, 2), "step 1: 3 rows, 2 of them sampled; 1 spans have 1"),
        (alter(END, 0, lane0=1), "request 0, end: sequence 1, it has 0"),
        (alter(END, 0, lane0=0xFFFF), "request 0, end: sequence None, it has 0"),
        (lose(END, 1), "request 1: status NONE in memory, no end in the trace"),
        (
            alter(END, 1, lane0=0x24 << 16 | 1),
            "request 1: status NONE in memory, the end PACKET_CRC in the trace",
        ),
    ],
)
def test_events_that_are_wrong(change, error, tmp_path):
    verdict = batch(tmp_path, change)
    assert verdict.problems[0] == error
    assert not verdict.bit_exact


def test_a_row_too_many(tmp_path):
    """A result behind the rows of the step."""

    def change(made):
        place = beats_of(made.actions, 2, 1)[0]
        made.actions[place] = (TRACE, made.actions[place][1] | 3 << 8)

    verdict = batch(tmp_path, change)
    assert str(verdict.difference).endswith("(NORM of layer 0), row 2, rows behind it: expected 0, found 1")


def test_a_result_of_the_second_request(tmp_path):
    """Of the second row of the second step, which is the first token of another request."""

    def change(made):
        step = beats_of(made.actions, 6, 0)[1]
        place = next(
            i for i in beats_of(made.actions, 3, 2) if i > step and made.actions[i][1] >> 8 & 255 == 1
        )
        made.actions[place] = (TRACE, made.actions[place][1] ^ 1 << 64)

    difference = batch(tmp_path, change).difference
    assert (difference.step, difference.request, difference.position, difference.row) == (1, 1, 0, 1)


def test_a_sequence_that_is_not_in_the_records(tmp_path):
    def change(made):
        for place, (what, data) in enumerate(made.actions):
            if what == WRITE and data & (1 << 40) - 1 < made.job.layout.kv_address:
                made.actions[place] = what, data ^ 1 << 40 + 80

    verdict = batch(tmp_path, change)
    assert verdict.problems == [
        "request 0: sequence 1 in its records, it has 0",
        "request 1: sequence 0 in its records, it has 1",
    ]


def refuse(code, number=1):
    """Instead of being admitted the last request is refused."""

    def change(made):
        first = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 == ADMIT]
        made.actions = made.actions[: first[number]]
        made.late = []
        made.show(END, 0, [0xFFFF | code.value << 16, number])
        made.complete(id=number, token=None, status=code.value, ended=True)

    return change


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (FaultCode.REQUEST_SPACE, "request 0: it was refused, and can be served"),
        (FaultCode.NONE, "request 0: it has ended well without a sequence"),
    ],
)
def test_a_refusal_that_is_wrong(code, error, tmp_path):
    verdict = batch(tmp_path, refuse(code, 0), (Request((3, 1, 4), 3),))
    assert verdict.problems == [error]


def test_a_refusal_that_is_right(tmp_path):
    """Of a request that has no place in the pool at all."""

    request = Request((3,), 40)
    model = make(16, SHAPES[0], (request,))[2]
    tape = write_tape(model, 16, CONFIGS[16].tape_align)
    job = plan_job(CONFIGS[16], tape, (request,), kv_blocks=3)
    made, code = Script(job, model), FaultCode.REQUEST_SPACE.value
    made.show(END, 0, [0xFFFF | code << 16, 0])
    made.complete(id=0, token=None, status=code, ended=True)
    registers = {"SUBMIT_HEAD": 1, "COMPLETE_TAIL": 1}
    verdict = check(play(job, tape, made, tmp_path, registers), model)
    assert verdict.errors == [] and verdict.steps == [[]] and not verdict.bit_exact
