# SPDX-License-Identifier: Apache-2.0
"""Executing commands that have been found right: those on one block or one sequence, and moves of bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from amaranth import *

from serrano.config import AcceleratorConfig
from serrano.stream.pace import paced, settled

from .check import CommandCheck
from .commands import Opcode, Stat, Status
from .payloads import BLOCK_SIZE, RECORD_BITS, SLOT_BITS, MoveKind
from .pool import BlockPool, PoolOperation
from .tables import SequenceTables

__all__ = [
    "Parts",
    "build_blocks",
    "build_gather",
    "build_short",
    "finish",
    "judged",
    "judgment",
    "operate",
    "read_statistic",
    "refuse",
    "start_block",
    "step",
]


@dataclass(frozen=True)
class Parts:
    """What the states of a command work on.

    ``state`` is what would be written for the command's sequence: what it was, unless assigned otherwise.
    ``index`` and ``final`` are the present and the last entry of a walk through the table; ``entry`` is the
    block in the entry that the command speaks of; ``status``, ``wrong``: what the check has found, and
    whether it is an error; ``at_end``: ``index`` is ``final``; ``above``, ``below``: the entries beside
    ``index``; ``no_blocks``: the pool has none but NULL; ``responds``: a move is over. States act with
    ``acts``; the last one gives the answer, and the next state is ``rest``. ``finishes`` are the auxiliary
    values of commands that are done, each with a signal that
    chooses it in the cycle of the answer; with registers it is looked at a cycle later. ``refusals`` are the
    statuses of commands that are refused, likewise.
    """

    config: AcceleratorConfig
    tables: SequenceTables
    pool: BlockPool
    check: CommandCheck
    command: Any
    state: Any
    move: Any
    index: Signal
    final: Signal
    entry: Signal
    status: Any
    wrong: Any
    at_end: Any
    above: Any
    below: Any
    no_blocks: Any
    responds: Any
    acts: Signal
    rest: str
    finishes: list[tuple[Signal, Any]] = field(default_factory=list)
    refusals: list[tuple[Signal, Any]] = field(default_factory=list)


def step(m: Module, parts: Parts, name: str) -> Any:
    """A state that acts in its turn."""
    return paced(m, name, parts.acts)


def finish(m: Module, parts: Parts, aux: Any = 0, *, write: bool = True) -> None:
    """The command's last cycle: its response, and the sequence's new state."""
    chosen = Signal(name="finishes")
    m.d.comb += [chosen.eq(1), parts.tables.w_en.eq(int(write))]
    parts.finishes.append((chosen, aux))
    m.next = parts.rest


def judgment(opcode: Opcode) -> str:
    """The state in which the status of such a command is known."""
    return f"JUDGE_{opcode.name}"


@contextmanager
def judged(m: Module, parts: Parts, opcode: Opcode) -> Iterator[None]:
    """The status of a command with this opcode is known: unless it is refused, it is done, or begun."""
    with step(m, parts, judgment(opcode)):
        with m.If(parts.wrong):
            refuse(m, parts, parts.status)
        with m.Else():
            yield


def refuse(m: Module, parts: Parts, status: Any) -> None:
    """The last cycle of a command that has changed nothing."""
    chosen = Signal(name="refuses")
    m.d.comb += chosen.eq(1)
    parts.refusals.append((chosen, status))
    m.next = parts.rest


def operate(m: Module, parts: Parts, operation: PoolOperation, block: Any = 0) -> None:
    """An operation of the pool begins."""
    m.d.comb += [parts.pool.go.eq(1), parts.pool.operation.eq(operation), parts.pool.block.eq(block)]


def build_short(m: Module, parts: Parts, nothing: Value) -> None:
    """Commands that are done at once; ``nothing``: the first argument is 0."""
    command, state, tables = parts.command, parts.state, parts.tables
    last_committed = settled(m, parts.config, (parts.check.committed - 1) >> SLOT_BITS, "last_committed")
    with judged(m, parts, Opcode.OPEN):
        m.d.comb += state.tenant.eq(command.tenant)
        finish(m, parts)
    with judged(m, parts, Opcode.COMMIT):
        m.d.sync += [parts.index.eq(tables.r_state.length >> SLOT_BITS), parts.final.eq(last_committed)]
        m.next = "MARK_ENTRY"
        with m.If(nothing):
            m.next = "MARKED"
    with judged(m, parts, Opcode.ABORT):
        m.d.comb += state.reserved.eq(0)
        finish(m, parts, tables.r_state.length)
    with judged(m, parts, Opcode.TRANSLATE):
        finish(m, parts, Cat(command.arg0[:SLOT_BITS], parts.entry), write=False)
    with judged(m, parts, Opcode.STAT):
        m.next = "ANSWER"


def start_block(m: Module, parts: Parts, number: Signal) -> None:
    """Commands on one block, or on the pool, begin."""
    with judged(m, parts, Opcode.SEAL):
        m.next = "SEAL"
    with judged(m, parts, Opcode.SHARE):
        m.next = "HOLD"
    for opcode in (Opcode.EVICT, Opcode.SCRUB):
        with judged(m, parts, opcode):
            m.d.sync += number.eq(parts.command.arg0)
            m.next = "FORGET"
    with judged(m, parts, Opcode.RESET_POOL):
        m.d.sync += number.eq(1)
        m.next = "FORGET"
        with m.If(parts.no_blocks):
            m.next = "ANSWER"


def build_blocks(m: Module, parts: Parts, number: Signal, statistic: Value) -> None:
    """SEAL, SHARE, EVICT, SCRUB, RESET_POOL, and STAT, whose answer is given."""
    pool, tables, command, state = parts.pool, parts.tables, parts.command, parts.state
    generation = Signal.like(pool.advanced)
    longer = settled(m, parts.config, tables.r_state.length + BLOCK_SIZE, "longer")
    last_block = settled(m, parts.config, (pool.size - 1)[: len(number)], "last_block")
    is_last = settled(m, parts.config, number == last_block, "is_last")
    with step(m, parts, "SEAL"):
        operate(m, parts, PoolOperation.SEAL, parts.entry)
        m.next = "SEALED"
    with step(m, parts, "SEALED"):
        finish(m, parts, pool.state.generation, write=False)
    with step(m, parts, "HOLD"):
        operate(m, parts, PoolOperation.HOLD, command.arg0)
        m.next = "HELD"
    with step(m, parts, "HELD"):
        # A block that comes from the list's middle loses its own links in the next cycle.
        m.next = "SHARED"
    with step(m, parts, "SHARED"):
        m.d.comb += [
            tables.entry_index.eq(tables.r_state.entries),
            tables.entry_w_en.eq(1),
            state.entries.eq(tables.r_state.entries + 1),
            state.length.eq(longer),
        ]
        finish(m, parts, longer)
    with step(m, parts, "FORGET"):
        operate(m, parts, PoolOperation.FORGET, number)
        m.next = "FORGOTTEN"
    with step(m, parts, "FORGOTTEN"):
        m.d.sync += [number.eq(number + 1), generation.eq(pool.advanced)]
        with m.Switch(command.opcode):
            with m.Case(Opcode.EVICT):
                finish(m, parts, pool.advanced, write=False)
            with m.Case(Opcode.SCRUB):
                m.next = "ZERO"
            with m.Default():
                m.next = "FORGET"
                with m.If(is_last):
                    finish(m, parts, write=False)
    with m.State("ZERO"):
        build_move(m, parts, "ZEROED", MoveKind.ZERO, destination=command.arg0)
    with step(m, parts, "ZEROED"):
        with build_answer(m, parts):
            with m.If(parts.move.response.payload.error):
                refuse(m, parts, Status.BUS_ERROR)
            with m.Else():
                finish(m, parts, generation, write=False)
    with step(m, parts, "ANSWER"):
        finish(m, parts, statistic, write=False)


def build_move(m: Module, parts: Parts, following: str, kind: MoveKind, **fields: Any) -> None:
    """In the present state: ask for a move, then go on to ``following``."""
    command = parts.move.command
    m.d.comb += [command.valid.eq(1), command.payload.kind.eq(kind)]
    m.d.comb += [command.payload[name].eq(value) for name, value in fields.items()]
    with m.If(command.ready):
        m.next = following


def build_answer(m: Module, parts: Parts) -> Any:
    """In the present state: wait for the end of a move; the context is entered with it."""
    m.d.comb += parts.move.response.ready.eq(1)
    return m.If(parts.responds & parts.move.response.valid)


def build_gather(m: Module, parts: Parts) -> None:
    """GATHER by command: one move for each record."""
    tables, pool, command = parts.tables, parts.pool, parts.command
    first, index = command.arg0, parts.index
    # The slot behind the last one; 0 is the end of its block.
    end = settled(m, parts.config, (first + command.arg1[:RECORD_BITS])[:SLOT_BITS], "end_slot")
    place = Signal.like(parts.index)
    following = settled(m, parts.config, place + 1, "following_place")
    low = settled(m, parts.config, Mux(place == 0, first[:SLOT_BITS], 0), "low")
    high = Mux(parts.at_end & (end != 0), end, BLOCK_SIZE)
    high = settled(m, parts.config, high, "high")
    empty = settled(m, parts.config, command.arg1[:RECORD_BITS] == 0, "empty")
    foreign = settled(m, parts.config, pool.state.tenant != command.tenant, "foreign")
    with step(m, parts, "GATHER"):
        m.d.sync += place.eq(0)
        m.next = "GATHER_ENTRY"
        with m.If(empty):
            finish(m, parts, write=False)
    with step(m, parts, "GATHER_ENTRY"):
        m.d.comb += [tables.entry_index.eq(index), tables.entry_r_en.eq(1)]
        m.next = "GATHER_BLOCK"
    with step(m, parts, "GATHER_BLOCK"):
        m.d.sync += parts.entry.eq(tables.entry_block)
        operate(m, parts, PoolOperation.READ, tables.entry_block)
        m.next = "GATHER_OWNER"
    with step(m, parts, "GATHER_OWNER"):
        m.next = "GATHER_MOVE"
        with m.If(foreign):
            refuse(m, parts, Status.TENANT)
    with m.State("GATHER_MOVE"):
        build_move(
            m,
            parts,
            "GATHERED",
            MoveKind.GATHER,
            source=parts.entry,
            record=command.arg1[RECORD_BITS:],
            low=low,
            high=high,
            index=place,
        )
    with step(m, parts, "GATHERED"):
        with build_answer(m, parts):
            m.d.sync += [index.eq(parts.above), place.eq(following)]
            m.next = "GATHER_ENTRY"
            with m.If(parts.move.response.payload.error):
                refuse(m, parts, Status.BUS_ERROR)
            with m.Elif(parts.at_end):
                finish(m, parts, following, write=False)


def read_statistic(m: Module, parts: Parts) -> Value:
    """The answer to STAT; that to RESET_POOL is 0."""
    pool, tables, command = parts.pool, parts.tables, parts.command
    state = tables.r_state
    block, half = pool.state, 16
    free = block.references == 0
    values = {
        Stat.POOL_BLOCKS: pool.size,
        Stat.POOL_USED: pool.used,
        Stat.POOL_PEAK: pool.peak,
        Stat.POOL_ENDS: _words(pool.head, pool.tail, half),
        Stat.BLOCK_STATE: _words(
            _words(block.references, block.tenant, 8), _words(block.written, block.sealed, 8), half
        ),
        Stat.BLOCK_GENERATION: block.generation,
        Stat.BLOCK_LINKS: Mux(free, _words(pool.following, pool.previous, half), 0),
        Stat.SEQUENCE_OWNER: _words(state.tenant, tables.r_open, 8),
        Stat.SEQUENCE_LENGTH: state.length,
        Stat.SEQUENCE_RESERVED: state.reserved,
        Stat.SEQUENCE_TABLE: _words(state.entries, state.first, half),
        Stat.SEQUENCE_ENTRY: Mux(command.arg1 < state.first, 0, parts.entry),
    }
    # With registers the pool's, the block's and the sequence's apart, then the one that is asked for.
    asked = settled(m, parts.config, command.opcode == Opcode.STAT, "asks_statistic")
    kind = settled(m, parts.config, command.arg0[:8], "kind")
    answer: Any = Const(0, 32)
    for group in ("POOL", "BLOCK", "SEQUENCE"):
        found = Signal(32, name=f"statistic_{group.lower()}")
        with m.If(asked), m.Switch(kind):
            for stat, value in values.items():
                if stat.name.startswith(group):
                    with m.Case(stat.value):
                        m.d.comb += found.eq(value)
        answer = answer | settled(m, parts.config, found, f"statistic_{group.lower()}_read")
    return settled(m, parts.config, answer, "statistic_read")


def _words(low: Any, high: Any, bits: int) -> Value:
    """Two fields, the second one ``bits`` bits up."""
    return Cat(Value.cast(low) | Const(0, bits), high)
