# SPDX-License-Identifier: Apache-2.0
"""Prompts that begin alike on the accelerator's Verilog: the second one takes over KV blocks of the first.

The host prepares sequences by KV commands through the registers. A golden block manager says beforehand what
each of them has to answer, and in which blocks everything lies.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Stat, Status
from serrano_sim.golden.block_manager import BlockManager, Move
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.sample import greedy
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.job import BusError, KVCommand, MemorySettings, Phase, PhaseResult
from serrano_sim.top.layout import MemoryLayout, Request, kv_noise
from serrano_sim.top.simulate import JobResult, run_job
from serrano_sim.top.trace import Kind, Step

CONFIG = preset("tiny")
MODEL = random_model(4, dim=24, ffn=22, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=41, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
RECORDS = 2 * 2
TENANT = 5
COMMON = tuple((7 * token * token + 3) % 41 for token in range(37))
FIRST = Request((*COMMON, 9, 8, 7, 6, 5), 8, tenant=TENANT, keep=True)
SECOND = Request((*COMMON, 1, 2, 3), 6, tenant=TENANT, adopt=True, keep=True, sequence=1)
MOVE_CLIENT, MOVE_WRITES = 6, 0x80 | 2


@dataclass
class Alone:
    """What the golden model makes of a prompt alone."""

    tokens: list[int]
    logits: list[np.ndarray]
    blocks: np.ndarray
    written: np.ndarray


@cache
def alone(prompt: tuple[int, ...], count: int) -> Alone:
    """One prompt and so many new tokens; ``blocks`` and ``written`` are [entries, block_bytes]."""
    decoder = Decoder(MODEL, CONFIG.n)
    decoder.open()
    fed, tokens, shown = list(prompt), [], []
    for position in range(len(prompt) + count - 1):
        sample = position + 1 >= len(prompt)
        logits = decoder.step(fed[position : position + 1], sample=sample)
        if sample:
            shown.append(np.array(logits[-1]))
            tokens.append(int(greedy(logits)[-1]))
            fed.append(tokens[-1])
    table = decoder.kv.table(0)
    return Alone(tokens, shown, decoder.kv.image[table], decoder.kv.written()[table])


@dataclass
class Host:
    """Plans what the host does, with a mirror of the accelerator's blocks."""

    blocks: int = 10
    manager: BlockManager = field(init=False)
    plan: list[tuple[KVCommand, tuple[int, int]]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    broken: bool = False
    """Whether moves fail."""

    def __post_init__(self):
        self.manager = BlockManager(
            self.blocks,
            CONFIG.blocks_max,
            CONFIG.sequences_max,
            CONFIG.table_entries,
            records=RECORDS,
            mover=self._move,
        )
        # As LOAD does.
        self.manager.initialize(self.blocks)

    def _move(self, move: Move) -> bool:
        self.moves.append(move)
        return not self.broken

    def give(self, opcode: Opcode, sequence: int = 0, argument0: int = 0, argument1: int = 0) -> int:
        """Plan a command of the host; gives its auxiliary value."""
        command = KVCommand(opcode, sequence, TENANT, argument0, argument1)
        status, aux = self.execute(opcode, sequence, argument0, argument1)
        self.plan.append((command, (status, aux)))
        return aux

    def execute(self, opcode: Opcode, sequence: int, argument0: int = 0, argument1: int = 0):
        """A command that the host does not give, but that is executed."""
        status, aux = self.manager.execute(opcode.value, sequence, TENANT, argument0, argument1)
        return int(status), aux

    def planned(self) -> tuple[KVCommand, ...]:
        """The commands planned since reset or :meth:`answered`."""
        return tuple(command for command, _ in self.plan)

    def serve(self, request: Request) -> None:
        """What the accelerator does for a request, as docs/rings.md has it."""
        total = len(request.prompt) + request.max_new
        sequence, length = request.sequence, 0
        if request.adopt:
            length = self.execute(Opcode.STAT, sequence, Stat.SEQUENCE_LENGTH.value)[1]
            if self.execute(Opcode.APPEND, sequence, total - length)[0]:
                return
            self.execute(Opcode.ABORT, sequence)
        else:
            self.execute(Opcode.OPEN, sequence)
            self.execute(Opcode.ALLOC, sequence, total)
        for _ in range(length, total - 1):
            assert self.execute(Opcode.APPEND, sequence, 1)[0] == 0
            assert self.execute(Opcode.COMMIT, sequence, 1)[0] == 0
        if request.keep:
            self.execute(Opcode.TRIM, sequence, total - 1)
        else:
            self.execute(Opcode.FREE, sequence)

    def table(self, sequence: int) -> list[int]:
        """The blocks of a sequence."""
        return list(self.manager.sequences[sequence].table)


def seal(host: Host, count: int) -> list[tuple[int, int]]:
    """Seal the first blocks of sequence 0; gives (block, generation)."""
    return [(host.table(0)[index], host.give(Opcode.SEAL, 0, index)) for index in range(count)]


def share(host: Host, names: list[tuple[int, int]]) -> None:
    host.give(Opcode.OPEN, 1)
    for block, generation in names:
        host.give(Opcode.SHARE, 1, block, generation)


def by_share(host: Host) -> int:
    """The blocks that are full of common tokens."""
    share(host, seal(host, 2))
    return 32


def by_share_and_trim(host: Host) -> int:
    """All sealed blocks, the last one as far as its tokens are common."""
    share(host, seal(host, 3))
    host.give(Opcode.TRIM, 1, len(COMMON))
    return len(COMMON)


def by_fork(host: Host) -> int:
    """All blocks, sealed or not."""
    host.give(Opcode.OPEN, 1)
    host.give(Opcode.FORK, 0, 1)
    host.give(Opcode.TRIM, 1, len(COMMON))
    return len(COMMON)


def layout_of(requests: list[Request], blocks: int, buffer_bytes: int = 0) -> MemoryLayout:
    return MemoryLayout.plan(TAPE, requests, kv_blocks=blocks, buffer_bytes=buffer_bytes)


def run(folder: Path, layout: MemoryLayout, phases: list[Phase], **settings) -> JobResult:
    requests = [request for phase in phases for request in phase.requests]
    return run_job(CONFIG, TAPE, requests, folder, layout=layout, phases=phases, **settings)


def everything(layout: MemoryLayout) -> tuple[tuple[int, int], ...]:
    """For ``peeks``: all KV blocks."""
    return ((layout.kv_address, layout.kv_bytes),)


def blocks_in(layout: MemoryLayout, result: PhaseResult) -> np.ndarray:
    """All KV blocks at the end of a phase, [blocks, block_bytes]."""
    return np.frombuffer(result.peeks[0], dtype=np.uint8).reshape(layout.kv_blocks, -1)


def logits_of(step: Step) -> np.ndarray:
    """The logits that the trace shows of a step with one sampled row, element by element."""
    beats = step.beats[step.beats["kind"] == Kind.LOGITS]
    columns = beats["column"][:, None] + np.arange(CONFIG.lanes)
    assert len(np.unique(columns)) == columns.size
    values = np.zeros(columns.max() + 1, dtype=np.int64)
    values[columns] = beats["values"]
    return values[: MODEL.vocab]


def compare_logits(steps: list[Step], expected: Alone) -> None:
    shown = [logits_of(step) for step in steps if step.sampled]
    assert len(shown) == len(expected.logits)
    for found, logits in zip(shown, expected.logits, strict=True):
        assert np.array_equal(found, logits)


def compare_blocks(blocks: np.ndarray, table: list[int], expected: Alone) -> None:
    """Every committed byte of a sequence."""
    found = blocks[table][: len(expected.blocks)]
    assert expected.written.any(axis=1).all()
    assert np.array_equal(found[expected.written], expected.blocks[expected.written])


@pytest.mark.parametrize("memory", [MemorySettings(), MemorySettings.of(60, 0.3, 4)], ids=["fast", "stalls"])
@pytest.mark.parametrize("way", [by_share, by_share_and_trim, by_fork])
def test_a_second_prompt_takes_over_what_it_has_in_common(way, memory, tmp_path: Path) -> None:
    host = Host()
    layout = layout_of([FIRST, SECOND], host.blocks)
    host.serve(FIRST)
    first_table = host.table(0)
    start = way(host)
    prepared, host.plan = host.plan, []
    host.moves.clear()
    host.serve(SECOND)
    second_table = host.table(1)
    copies = list(host.moves)
    for sequence in (0, 1):
        for index in range(len(host.table(sequence))):
            host.give(Opcode.STAT, sequence, Stat.SEQUENCE_ENTRY.value, index)
        host.give(Opcode.STAT, sequence, Stat.SEQUENCE_LENGTH.value)
        host.give(Opcode.STAT, sequence, Stat.SEQUENCE_RESERVED.value)
    host.give(Opcode.STAT, 0, Stat.POOL_USED.value)
    for sequence in (0, 1):
        host.give(Opcode.FREE, sequence)
    for kind in (Stat.POOL_USED, Stat.POOL_PEAK, Stat.POOL_ENDS):
        host.give(Opcode.STAT, 0, kind.value)
    phases = [
        Phase(load=True, requests=(FIRST,), peeks=everything(layout)),
        Phase(commands=tuple(c for c, _ in prepared), requests=(SECOND,), peeks=everything(layout)),
        Phase(commands=host.planned()),
    ]
    result = run(tmp_path, layout, phases, memory=memory)
    one, two, three = result.phases
    assert two.answers == tuple(answer for _, answer in prepared)
    assert three.answers == tuple(answer for _, answer in host.plan)
    assert three.registers["KV_USED"] == 0
    assert [phase.registers["FAULT_CODE"] for phase in result.phases] == [0, 0, 0]
    assert one.axil_handshakes == two.axil_handshakes == 0

    # Whoever runs the second prompt alone sees the same.
    expected = [alone(request.prompt, request.max_new) for request in (FIRST, SECOND)]
    assert result.tokens == [each.tokens for each in expected]
    steps = result.recording.steps()
    fed = [len(request.prompt) + request.max_new - 1 for request in (FIRST, SECOND)]
    spans = [span for step in steps for span in step.spans]
    positions = [position for span in spans for position in range(span.position, span.end)]
    assert positions == [*range(fed[0]), *range(start, fed[1])]
    for number in (0, 1):
        compare_logits([step for step in steps if step.numbers == (number,)], expected[number])

    before, after = blocks_in(layout, one), blocks_in(layout, two)
    compare_blocks(before, first_table, expected[0])
    compare_blocks(after, second_table, expected[1])
    # Of the first sequence's blocks nothing has changed.
    assert np.array_equal(before[first_table], after[first_table])
    assert first_table[: start // 16] == second_table[: start // 16]
    assert not set(first_table) & set(second_table[start // 16 :])
    # A copy has zeros where no token is.
    assert len(copies) == (start % 16 != 0)
    for move in copies:
        assert move.source == first_table[start // 16] and move.destination == second_table[start // 16]
        assert not after[move.destination][~expected[1].written[start // 16]].any()
    # What belongs to nobody, nobody has touched.
    others = sorted(set(range(layout.kv_blocks)) - set(first_table) - set(second_table))
    assert np.array_equal(after[others], kv_noise(layout.kv_bytes).reshape(after.shape)[others])


@pytest.mark.parametrize(("on", "detail"), [("write", MOVE_WRITES), ("read", MOVE_CLIENT)])
def test_a_copy_that_fails_ends_its_request_alone(on: str, detail: int, tmp_path: Path) -> None:
    host = Host()
    layout = layout_of([FIRST, SECOND, SECOND], host.blocks)
    host.serve(FIRST)
    start = by_fork(host)
    prepared, host.plan = host.planned(), []
    block = host.manager.free[0] if on == "write" else host.table(0)[start // 16]
    at = layout.kv_address + block * layout.block_bytes
    error = BusError(response="SLVERR", on=on, low=at, high=at + layout.block_bytes, after=3, limit=1)
    host.broken = True
    host.serve(SECOND)
    host.broken = False
    # As it was, but that the block at the head of the list has forgotten what it held.
    for kind in (Stat.SEQUENCE_LENGTH, Stat.SEQUENCE_RESERVED, Stat.SEQUENCE_TABLE, Stat.POOL_ENDS):
        host.give(Opcode.STAT, 1, kind.value)
    host.give(Opcode.STAT, 1, Stat.SEQUENCE_ENTRY.value, start // 16)
    host.give(Opcode.STAT, 1, Stat.BLOCK_GENERATION.value, host.manager.free[0])
    checked, host.plan = host.plan, []
    host.serve(SECOND)
    table = host.table(1)
    for sequence in (1, 0):
        host.give(Opcode.FREE, sequence)
    phases = [
        Phase(load=True, requests=(FIRST,)),
        Phase(commands=prepared, errors=(error,), requests=(SECOND,)),
        Phase(commands=tuple(c for c, _ in checked), requests=(SECOND,), peeks=everything(layout)),
        Phase(commands=host.planned()),
    ]
    result = run(tmp_path, layout, phases, memory=MemorySettings.of(20))
    _, bad, good, last = result.phases
    assert [FaultCode(record.status) for _, record in bad.completions] == [FaultCode.KV_COMMAND]
    registers = bad.registers
    assert FaultCode(registers["FAULT_CODE"]) is FaultCode.BUS_SLVERR
    # The write or read, and the command.
    assert registers["FAULT_COUNT"] == 2
    assert registers["FAULT_DETAIL"] == detail
    assert at <= registers["FAULT_ADDRESS_LO"] < at + layout.block_bytes
    assert good.answers == tuple(answer for _, answer in checked)
    assert last.answers == tuple(answer for _, answer in host.plan)
    assert last.registers["KV_USED"] == 0
    expected = alone(SECOND.prompt, SECOND.max_new)
    assert result.tokens[2] == expected.tokens
    assert good.registers["FAULT_CODE"] == 0
    compare_blocks(blocks_in(layout, good), table, expected)


def test_what_is_not_there_cannot_be_adopted(tmp_path: Path) -> None:
    """Each is refused, and none of them disturbs the request behind."""
    usual = {"tenant": TENANT, "adopt": True}
    short = Request(COMMON[:20], 2, tenant=TENANT, keep=True)
    bad = [
        (Request((1, 2), 2, **usual, sequence=2), FaultCode.KV_COMMAND),
        (Request(COMMON[:22], 2, adopt=True, tenant=TENANT + 1), FaultCode.KV_COMMAND),
        (Request(COMMON[:21], 2, **usual), FaultCode.REQUEST_SEQUENCE),
        (Request(COMMON[:30], 2, **usual, sequence=CONFIG.sequences_max), FaultCode.REQUEST_SEQUENCE),
        (Request(COMMON[:30], 2, fields={"flags": 8}), FaultCode.REQUEST_FLAGS),
        (Request(COMMON[:30], 2, fields={"sequence": 1}), FaultCode.REQUEST_SEQUENCE),
        # Two blocks are there, the others taken.
        (Request(COMMON[:36], 13, **usual), FaultCode.REQUEST_SPACE),
    ]
    # Goes on after the prompt and the token that was fed after it.
    good = Request((*COMMON[:20], alone(short.prompt, short.max_new).tokens[0], *COMMON[21:23]), 3, **usual)
    # The host has all sequences but the kept one, which nobody can open.
    homeless = Request(COMMON[:2], 2)
    requests = [short, *(request for request, _ in bad), homeless, good]
    layout = layout_of(requests, 4)
    others = range(1, CONFIG.sequences_max)
    phases = [
        Phase(load=True, requests=(short,)),
        Phase(requests=tuple(requests[1:-2])),
        Phase(
            commands=tuple(KVCommand(Opcode.OPEN, number, TENANT) for number in others), requests=(homeless,)
        ),
        Phase(commands=tuple(KVCommand(Opcode.FREE, number, TENANT) for number in others), requests=(good,)),
    ]
    result = run(tmp_path, layout, phases)
    (last,) = [record for _, record in result.phases[2].completions]
    assert (FaultCode(last.status), last.sequence) == (FaultCode.KV_COMMAND, None)
    assert result.phases[2].registers["FAULT_DETAIL"] == Status.SEQ_BUSY.value
    refused = [FaultCode(record.status) for _, record in result.phases[1].completions]
    assert refused == [code for _, code in bad]
    assert result.phases[1].registers["KV_USED"] == 2
    assert result.tokens[-1] == alone(good.prompt, good.max_new).tokens
    assert result.phases[3].registers["KV_USED"] == 0


LONG = Request(COMMON[:20], 12, tenant=TENANT)


@pytest.mark.parametrize("ending", [Opcode.FREE, Opcode.TRIM])
def test_commands_of_the_host_come_between_two_steps(ending: Opcode, tmp_path: Path) -> None:
    """SEAL, FORK, GATHER and SCRUB while a request is served; then it loses its sequence."""
    layout = layout_of([LONG, LONG], 12, 4096)
    spare, length = 11, 10

    def command(opcode: Opcode, sequence: int = 0, argument0: int = 0, argument1: int = 0) -> KVCommand:
        return KVCommand(opcode, sequence, TENANT, argument0, argument1)

    record = 2
    meanwhile = (
        (1, command(Opcode.SEAL)),
        (1, command(Opcode.OPEN, 1)),
        # From now on the last block is shared, and the next step's APPEND copies it.
        (2, command(Opcode.FORK, 0, 1)),
        (2, command(Opcode.STAT, 1, Stat.SEQUENCE_LENGTH.value)),
        (2, command(Opcode.GATHER, 1, 3, 17 | record << 16)),
        (3, command(Opcode.STAT, 0, Stat.BLOCK_STATE.value, spare)),
        (3, command(Opcode.EVICT, 0, spare)),
        (4, command(Opcode.SEAL, 0, 1)),
        (6, command(ending, 0, length)),
    )
    phases = [
        Phase(
            load=True,
            requests=(LONG,),
            meanwhile=meanwhile,
            peeks=((layout.buffer_address, layout.buffer_bytes), *everything(layout)),
        ),
        Phase(commands=(command(Opcode.FREE, 1),)),
        Phase(requests=(LONG,)),
    ]
    result = run(tmp_path, layout, phases, memory=MemorySettings.of(30, 0.2, 3))
    first, second, third = result.phases
    answers = [(Status(answer.status), answer.aux) for answer in first.meanwhile]
    assert answers[0][0] == answers[1][0] == Status.OK
    assert answers[2] == (Status.OK, 2)
    forked = answers[3][1]
    assert len(LONG.prompt) <= forked < len(LONG.prompt) + 4
    assert answers[4] == (Status.OK, 2)
    # Nobody has had this block, so it is nobody's: tenant 0.
    assert answers[5] == (Status.OK, 0) and answers[6] == (Status.TENANT, 0)
    assert answers[7] == (Status.NOT_FULL, 0)
    assert answers[8][0] == Status.OK

    # Each came after the step that was under way, and before the next one.
    steps = result.recording.steps()
    ends = np.array([step.commit for step in steps if step.commit is not None])
    for (_, given), answer in zip(meanwhile, first.meanwhile, strict=True):
        passed = ((ends > answer.begin) & (ends < answer.end)).sum()
        assert passed <= 1, given
    assert (np.diff(ends) > 0).all()

    # The request noticed at its next step.
    expected = alone(LONG.prompt, LONG.max_new)
    last = first.meanwhile[-1]
    ran = [step for step in steps if step.begin < first.end]
    assert sum(step.begin > last.end for step in ran) == 0
    records = [record for _, record in first.completions]
    assert FaultCode(records[-1].status) is FaultCode.REQUEST_CHANGED and records[-1].ended
    found = [record.token for record in records[:-1]]
    assert 6 <= len(found) < LONG.max_new and found == expected.tokens[: len(found)]
    assert FaultCode(first.registers["FAULT_CODE"]) is FaultCode.REQUEST_CHANGED
    assert first.registers["FAULT_DETAIL"] == (Status.BAD_SEQ.value if ending is Opcode.FREE else 0)

    # What was gathered while steps ran, and what it was gathered from.
    decoder = Decoder(MODEL, CONFIG.n)
    decoder.open()
    for token in [*LONG.prompt, *expected.tokens][:forked]:
        decoder.step([token], sample=False)
    one, two = decoder.kv.table(0)
    size = decoder.kv.record_bytes
    buffer = np.frombuffer(first.peeks[0], dtype=np.uint8)
    assert np.array_equal(buffer[:size], decoder.kv.record(one, record, 3))
    assert np.array_equal(buffer[size : 2 * size], decoder.kv.record(two, record, 0, 4))
    assert not buffer[2 * size :].any()
    blocks = np.frombuffer(first.peeks[1], dtype=np.uint8).reshape(layout.kv_blocks, -1)
    # The fork has the first two blocks that were taken.
    written = decoder.kv.written()
    for block, entry in ((1, one), (2, two)):
        assert np.array_equal(blocks[block][written[entry]], decoder.kv.image[entry][written[entry]])

    assert second.answers == ((0, 2),) and second.registers["KV_USED"] == 0
    assert result.tokens[1] == expected.tokens and third.registers["FAULT_CODE"] == 0
    assert third.registers["KV_USED"] == 0
