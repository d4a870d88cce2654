# SPDX-License-Identifier: Apache-2.0
"""The controller of the paged KV cache: it executes commands on block tables and the pool of blocks."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig

from .check import CommandCheck
from .commands import Opcode, Stat, Status
from .payloads import (
    BLOCK_SIZE,
    GENERATION_BITS,
    SLOT_BITS,
    BlockState,
    KVCommand,
    KVPort,
    SequenceState,
    TranslatePort,
    block_bits,
    entry_bits,
)
from .pool import BlockPool, PoolOperation
from .requesters import Requesters
from .tables import SequenceTables

__all__ = ["Controller"]


class Controller(wiring.Component):
    """Block manager of the KV cache, as ``docs/blocks/kvcache.md`` describes it.

    Commands are executed one at a time, each as a whole; one whose status is not OK changes nothing.
    ``initialize`` closes all sequences and makes a new pool of ``blocks`` blocks; the controller does the
    same after reset. Commands that come meanwhile are executed afterwards.

    From the cycle in which a command is taken to that of its response: ALLOC, APPEND, COMMIT and FREE take
    ``6 + 2 * b`` cycles, ``b`` being the blocks allocated, released, or getting tokens; ABORT 6, TRANSLATE 7,
    STAT 8, OPEN and everything refused 5. The other requester's command may come before.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    translate_ports : :class:`int`
        Number of clients with look-ups, in descending priority.
    generation_bits : :class:`int`
        Width of a block's generation.

    Members
    -------
    host, steps : ``In(KVPort())``
        Requesters.
    translate : ``In(TranslatePort(config)).array(translate_ports)``
        Look-ups, one per cycle, each answered ``translate_latency`` cycles after it was taken.
    locked : ``In(sequences_max)``
        Sequences of the running step: commands of the host that change one of them wait.
    initialize : ``In(1)``
        Start over, in the cycle after the command that is being executed.
    blocks : ``In(32)``
        Blocks of the pool, NULL included, taken over by ``initialize``; ``blocks_max`` if it is more.
    initializing : ``Out(1)``
        The pool is not ready yet; set from the cycle after ``initialize``.
    used, peak : ``Out(range(blocks_max + 1))``
        Blocks held by sequences, and the most since ``initialize``.

    Raises
    ------
    ValueError
        If ``translate_ports`` is below 1, ``generation_bits`` not 1 to 32, or if the configuration has more
        than 65,536 blocks or 65,535 table entries.
    """

    translate_latency = SequenceTables.latency

    def __init__(
        self, config: AcceleratorConfig, translate_ports: int = 2, generation_bits: int = GENERATION_BITS
    ):
        if translate_ports < 1:
            raise ValueError(f"Number of look-up ports must be at least 1, not {translate_ports!r}")
        self.config = config
        self.translate_ports = translate_ports
        self.generation_bits = generation_bits
        # What these refuse is refused now.
        entry_bits(config), block_bits(config), BlockState(generation_bits)
        count = range(config.blocks_max + 1)
        super().__init__(
            {
                "host": In(KVPort()),
                "steps": In(KVPort()),
                "translate": In(TranslatePort(config)).array(translate_ports),
                "locked": In(config.sequences_max),
                "initialize": In(1),
                "blocks": In(32),
                "initializing": Out(1),
                "used": Out(count),
                "peak": Out(count),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.requesters = requesters = Requesters(self.config)
        m.submodules.tables = tables = SequenceTables(self.config, self.translate_ports)
        m.submodules.pool = pool = BlockPool(self.config, self.generation_bits)
        m.submodules.check = check = CommandCheck(self.config)
        wiring.connect(m, wiring.flipped(self.host), requesters.host)
        wiring.connect(m, wiring.flipped(self.steps), requesters.steps)
        for outer, inner in zip(self.translate, tables.ports, strict=True):
            wiring.connect(m, wiring.flipped(outer), inner)

        command = Signal(KVCommand)
        state = Signal(SequenceState(self.config))
        # Initialization also follows reset.
        wanted = Signal(init=1)
        m.d.comb += [
            requesters.locked.eq(self.locked),
            self.used.eq(pool.used),
            self.peak.eq(pool.peak),
            self.initializing.eq(wanted | pool.initializing),
            pool.blocks.eq(Mux(self.blocks > self.config.blocks_max, self.config.blocks_max, self.blocks)),
            pool.tenant.eq(command.tenant),
            check.command.eq(command),
            check.open.eq(tables.r_open),
            check.state.eq(tables.r_state),
            check.size.eq(pool.size),
            check.free.eq(pool.free),
            state.eq(tables.r_state),
            tables.r_seq.eq(requesters.command.seq),
            tables.w_seq.eq(command.seq),
            tables.w_open.eq(1),
            tables.w_state.eq(state),
            tables.entry_seq.eq(command.seq),
            tables.entry_w_block.eq(pool.subject),
            tables.owner_block.eq(pool.subject),
            tables.owner_tenant.eq(command.tenant),
        ]
        with m.If(self.initialize):
            m.d.sync += wanted.eq(1)
        parts = _Parts(requesters, tables, pool, check, command, state)
        self._build_sequence(m, parts, wanted)
        return m

    def _build_sequence(self, m: Module, parts: "_Parts", wanted: Signal) -> None:
        """The states of a command."""
        requesters, tables, pool, check = parts.requesters, parts.tables, parts.pool, parts.check
        command, state = parts.command, parts.state
        index, final = Signal(entry_bits(self.config)), Signal(entry_bits(self.config))
        # A block that is released comes to the free list in the cycle after APPLY.
        released = Signal(range(self.config.table_entries + 1))
        m.d.sync += released.eq(released + pool.freed)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += tables.r_en.eq(requesters.offered)
                m.d.sync += command.eq(requesters.command)
                with m.If(wanted):
                    m.d.comb += [pool.initialize.eq(1), tables.clear.eq(1)]
                    m.d.sync += wanted.eq(self.initialize)
                    m.next = "INITIALIZE"
                with m.Elif(requesters.offered):
                    m.d.comb += requesters.take.eq(1)
                    m.next = "SUMS"
            with m.State("INITIALIZE"):
                with m.If(~pool.initializing):
                    m.next = "IDLE"
            with m.State("SUMS"):
                m.next = "BLOCKS"
            with m.State("BLOCKS"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += requesters.status.eq(check.status)
                m.d.sync += released.eq(0)
                with m.If(check.status != Status.OK):
                    m.d.comb += requesters.respond.eq(1)
                    m.next = "IDLE"
                with m.Else(), m.Switch(command.opcode):
                    with m.Case(Opcode.OPEN):
                        m.d.comb += state.tenant.eq(command.tenant)
                        _finish(m, parts, 0)
                    with m.Case(Opcode.ALLOC, Opcode.APPEND):
                        m.d.sync += [index.eq(state.entries), final.eq(state.entries + check.missing - 1)]
                        m.next = "UPDATE"
                        with m.If(check.missing != 0):
                            m.next = "TAKE"
                    with m.Case(Opcode.COMMIT):
                        m.d.sync += [
                            index.eq(state.length >> SLOT_BITS),
                            final.eq((check.committed - 1) >> SLOT_BITS),
                        ]
                        m.next = "UPDATE"
                        with m.If(command.arg0 != 0):
                            m.next = "LOOKUP"
                    with m.Case(Opcode.ABORT):
                        m.next = "UPDATE"
                    with m.Case(Opcode.FREE):
                        # Look-ups find a closed sequence from now on.
                        m.d.comb += [tables.w_en.eq(1), tables.w_open.eq(0)]
                        m.d.sync += [index.eq(state.entries - 1), final.eq(state.first)]
                        m.next = "RELEASED"
                        with m.If(state.entries != state.first):
                            m.next = "LOOKUP"
                    with m.Case(Opcode.TRANSLATE):
                        m.d.sync += index.eq(command.arg0 >> SLOT_BITS)
                        m.next = "LOOKUP"
                    with m.Case(Opcode.STAT):
                        m.d.sync += index.eq(command.arg1)
                        m.next = "LOOKUP"
            self._build_allocation(m, parts, index, final)
            self._build_walk(m, parts, index, final, released)

    def _build_allocation(self, m: Module, parts: "_Parts", index: Signal, final: Signal) -> None:
        """Blocks for a sequence, and the state after a command."""
        tables, pool, check = parts.tables, parts.pool, parts.check
        command, state = parts.command, parts.state
        with m.State("TAKE"):
            m.d.comb += [pool.go.eq(1), pool.operation.eq(PoolOperation.TAKE)]
            m.next = "TAKEN"
        with m.State("TAKEN"):
            m.d.comb += [
                tables.entry_index.eq(index),
                tables.entry_w_en.eq(1),
                tables.owner_en.eq(1),
            ]
            m.d.sync += index.eq(index + 1)
            m.next = "TAKE"
            with m.If(index == final):
                m.next = "UPDATE"
        held = tables.r_state
        with m.State("UPDATE"), m.Switch(command.opcode):
            with m.Case(Opcode.ALLOC):
                m.d.comb += state.entries.eq(held.entries + check.missing)
                _finish(m, parts, check.missing)
            with m.Case(Opcode.APPEND):
                m.d.comb += [
                    state.entries.eq(held.entries + check.missing),
                    state.reserved.eq(held.reserved + command.arg0),
                ]
                _finish(m, parts, check.position)
            with m.Case(Opcode.COMMIT):
                m.d.comb += [
                    state.length.eq(check.committed),
                    state.reserved.eq(held.reserved - command.arg0),
                ]
                _finish(m, parts, check.committed)
            with m.Case(Opcode.ABORT):
                m.d.comb += state.reserved.eq(0)
                _finish(m, parts, held.length)

    def _build_walk(self, m: Module, parts: "_Parts", index: Signal, final: Signal, released: Signal) -> None:
        """Table entries one after the other: what FREE and COMMIT do to them, what others want to know."""
        requesters, tables, pool, check = parts.requesters, parts.tables, parts.pool, parts.check
        command = parts.command
        entry = Signal.like(tables.entry_block)
        with m.State("LOOKUP"):
            m.d.comb += [tables.entry_index.eq(index), tables.entry_r_en.eq(1)]
            m.next = "APPLY"
        with m.State("APPLY"):
            m.d.comb += pool.block.eq(tables.entry_block)
            with m.Switch(command.opcode):
                with m.Case(Opcode.FREE):
                    m.d.comb += [pool.go.eq(1), pool.operation.eq(PoolOperation.DROP)]
                    m.d.sync += index.eq(index - 1)
                    m.next = "LOOKUP"
                    with m.If(index == final):
                        m.next = "RELEASED"
                with m.Case(Opcode.COMMIT):
                    partial = index == (check.committed >> SLOT_BITS)
                    m.d.comb += [
                        pool.go.eq(1),
                        pool.operation.eq(PoolOperation.MARK),
                        pool.written.eq(Mux(partial, check.committed[:SLOT_BITS], BLOCK_SIZE)),
                    ]
                    m.d.sync += index.eq(index + 1)
                    m.next = "LOOKUP"
                    with m.If(index == final):
                        m.next = "UPDATE"
                with m.Case(Opcode.TRANSLATE):
                    slot = Cat(command.arg0[:SLOT_BITS], tables.entry_block)
                    m.d.comb += requesters.status.eq(
                        Mux(tables.entry_block == 0, Status.NOT_MAPPED, Status.OK)
                    )
                    _finish(m, parts, Mux(tables.entry_block == 0, 0, slot), write=False)
                with m.Case(Opcode.STAT):
                    m.d.comb += [
                        pool.go.eq(1),
                        pool.operation.eq(PoolOperation.READ),
                        pool.block.eq(command.arg1),
                    ]
                    m.d.sync += entry.eq(tables.entry_block)
                    m.next = "ANSWER"
        with m.State("RELEASED"):
            m.d.comb += tables.w_open.eq(0)
            _finish(m, parts, released + pool.freed)
        with m.State("ANSWER"):
            _finish(m, parts, _statistic(parts, entry), write=False)


@dataclass(frozen=True)
class _Parts:
    """What the states of a command work on: the submodules, the command, and its sequence's state."""

    requesters: Requesters
    tables: SequenceTables
    pool: BlockPool
    check: CommandCheck
    command: Any
    state: Any


def _finish(m: Module, parts: _Parts, aux: Any, *, write: bool = True) -> None:
    """The command's last cycle: its response, and the sequence's new state."""
    m.d.comb += [
        parts.requesters.respond.eq(1),
        parts.requesters.aux.eq(aux),
        parts.tables.w_en.eq(int(write)),
    ]
    m.next = "IDLE"


def _statistic(parts: _Parts, entry: Signal) -> Value:
    """The answer to STAT."""
    pool, tables, state = parts.pool, parts.tables, parts.state
    block, half = pool.state, 16
    values = {
        Stat.POOL_BLOCKS: pool.size,
        Stat.POOL_USED: pool.used,
        Stat.POOL_PEAK: pool.peak,
        Stat.POOL_ENDS: _words(pool.head, pool.tail, half),
        Stat.BLOCK_STATE: _words(
            _words(block.references, block.tenant, 8), _words(block.written, block.sealed, 8), half
        ),
        Stat.BLOCK_GENERATION: block.generation,
        Stat.BLOCK_LINKS: _words(pool.following, pool.previous, half),
        Stat.SEQUENCE_OWNER: _words(state.tenant, tables.r_open, 8),
        Stat.SEQUENCE_LENGTH: state.length,
        Stat.SEQUENCE_RESERVED: state.reserved,
        Stat.SEQUENCE_TABLE: _words(state.entries, state.first, half),
        Stat.SEQUENCE_ENTRY: entry,
    }
    answer: Any = Const(0, 32)
    for stat, value in values.items():
        answer = Mux(parts.command.arg0 == stat, value, answer)
    return answer


def _words(low: Any, high: Any, bits: int) -> Value:
    """Two fields, the second one ``bits`` bits up."""
    return Cat(Value.cast(low) | Const(0, bits), high)
