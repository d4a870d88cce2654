# SPDX-License-Identifier: Apache-2.0
"""The controller of the paged KV cache: it executes commands on block tables and the pool of blocks."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.stream import HalfRegister
from serrano.stream.pace import settled, take_turns
from serrano.stream.slices import sliced

from .check import CommandCheck, Destination
from .commands import Opcode, Status
from .execution import (
    Parts,
    build_blocks,
    build_gather,
    build_short,
    judged,
    judgment,
    operate,
    read_statistic,
    refuse,
    start_block,
    step,
)
from .payloads import (
    GENERATION_BITS,
    RECORD_BITS,
    REFERENCE_BITS,
    SLOT_BITS,
    BlockState,
    KVCommand,
    KVPort,
    MovePort,
    SequenceState,
    TranslatePort,
    block_bits,
    entry_bits,
)
from .pool import BlockPool, PoolOperation
from .requesters import Requesters
from .tables import SequenceTables
from .walks import build_fork, build_growth, build_mark, build_release, measure_walks, start_walk

__all__ = ["Controller"]


class Controller(wiring.Component):
    """Block manager of the KV cache, as ``docs/blocks/kvcache.md`` describes it.

    Commands are executed one at a time, each as a whole; one whose status is not OK changes nothing, except
    that what a block held is forgotten if the memory refused to write it. ``initialize`` closes all sequences
    and makes a new pool of ``blocks`` blocks; the controller does the same after reset. Commands that come
    meanwhile are executed afterwards.

    A command passes IDLE, SUMS, BLOCKS and the JUDGE of its opcode: its sequence is read, sums are formed,
    the block it speaks of is read, its status is known. What is right is executed by the states of
    ``execution`` (one block, one sequence, moves of bytes) and ``walks`` (entry after entry). If the
    accelerator is ``registered``, each state takes four cycles instead of one
    (:mod:`~serrano.stream.pace`), and there is one more before JUDGE, one after a scan for APPEND and two
    after the answer.

    From the cycle in which a command is taken to that of its response: OPEN, ABORT, TRANSLATE and everything
    refused at once 5; STAT 6; SEAL, SHARE and EVICT 7; COMMIT, FREE, TRIM, SLIDE and FORK ``6 + 2 * b`` and
    ALLOC ``6 + 2 * b`` cycles, ``b`` being the blocks that get tokens, or are released, shared or allocated;
    APPEND ``8 + 2 * b`` over the blocks that it touches, plus replaced ones; RESET_POOL two per block of the
    pool. The other requester's command may come before. With ``registered`` it is four times as many and up
    to 8 more, or 12 for APPEND; the next command begins up to 12 cycles later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    translate_ports : :class:`int`
        Number of clients with look-ups, in descending priority.
    generation_bits, reference_bits : :class:`int`
        Widths of a block's generation and count.

    Members
    -------
    host, steps : ``In(KVPort())``
        Requesters.
    translate : ``In(TranslatePort(config)).array(translate_ports)``
        Look-ups, one per cycle, each answered ``translate_latency`` cycles after it was taken, 3 or, with
        ``registered``, 6. There, a look-up of another port than the first is asked for a cycle after it came.
    moves : ``Out(MovePort(config))``
        To what moves the bytes of blocks.
    records : ``In(17)``
        Records in a block, for GATHER.
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
        If ``translate_ports`` is below 1, ``generation_bits`` not 1 to 32, ``reference_bits`` not 2 to 8, or
        if the configuration has more than 65,536 blocks or 65,535 table entries.
    """

    translate_latency = SequenceTables.latency

    def __init__(
        self,
        config: AcceleratorConfig,
        translate_ports: int = 2,
        generation_bits: int = GENERATION_BITS,
        reference_bits: int = REFERENCE_BITS,
    ):
        if translate_ports < 1:
            raise ValueError(f"Number of look-up ports must be at least 1, not {translate_ports!r}")
        self.config = config
        if config.registered:
            self.translate_latency = 6
        self.translate_ports = translate_ports
        self.generation_bits = generation_bits
        self.reference_bits = reference_bits
        # What these refuse is refused now.
        entry_bits(config), block_bits(config), BlockState(generation_bits, reference_bits)
        count = range(config.blocks_max + 1)
        super().__init__(
            {
                "host": In(KVPort()),
                "steps": In(KVPort()),
                "translate": In(TranslatePort(config)).array(translate_ports),
                "moves": Out(MovePort(config)),
                "records": In(RECORD_BITS + 1),
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
        config, widths = self.config, (self.generation_bits, self.reference_bits)
        m.submodules.requesters = requesters = Requesters(config)
        m.submodules.tables = tables = SequenceTables(config, self.translate_ports)
        m.submodules.pool = pool = BlockPool(config, *widths)
        m.submodules.check = check = CommandCheck(config, *widths)
        wiring.connect(m, wiring.flipped(self.host), requesters.host)
        wiring.connect(m, wiring.flipped(self.steps), requesters.steps)
        for index, (outer, inner) in enumerate(zip(self.translate, tables.ports, strict=True)):
            # It is late in the cycle that one behind the first is known to be taken.
            behind = {"registered": config.registered and index > 0, "kind": HalfRegister}
            wish = sliced(m, f"wish_{index}", wiring.flipped(outer.request), **behind)
            wiring.connect(m, wish, inner.request)
            m.d.comb += outer.response.eq(inner.response)

        # Its opcode goes to many places, through a register of its own.
        self._command, command = Signal(KVCommand, name="taken"), Signal(KVCommand)
        opcode = settled(m, config, self._command.opcode, "opcode")
        m.d.comb += [command.eq(self._command), command.opcode.eq(opcode)]
        state = Signal(SequenceState(config))
        index, final = Signal(entry_bits(config)), Signal(entry_bits(config))
        entry = Signal(block_bits(config))
        parts = Parts(
            config,
            tables,
            pool,
            check,
            command,
            state,
            self.moves,
            index,
            final,
            entry,
            status=settled(m, config, check.status, "status"),
            wrong=settled(m, config, check.status != Status.OK, "wrong"),
            at_end=settled(m, config, index == final, "at_end"),
            above=settled(m, config, (index + 1)[: len(index)], "above"),
            below=settled(m, config, (index - 1)[: len(index)], "below"),
            no_blocks=settled(m, config, pool.size <= 1, "no_blocks"),
            responds=settled(m, config, self.moves.response.valid, "responds"),
            acts=take_turns(m, config),
            rest="REST" if config.registered else "IDLE",
        )
        # Initialization also follows reset.
        wanted = Signal(init=1)
        m.d.comb += [
            requesters.locked.eq(self.locked),
            self.used.eq(pool.used),
            self.peak.eq(pool.peak),
            self.initializing.eq(wanted | pool.initializing),
            pool.blocks.eq(Mux(self.blocks > config.blocks_max, config.blocks_max, self.blocks)),
            pool.tenant.eq(command.tenant),
            check.command.eq(command),
            check.open.eq(tables.r_open),
            check.state.eq(tables.r_state),
            check.size.eq(pool.size),
            check.free.eq(pool.free),
            check.records.eq(settled(m, config, self.records, "records_before")),
            state.eq(tables.r_state),
            tables.w_seq.eq(command.seq),
            tables.w_open.eq(1),
            tables.w_state.eq(state),
            tables.entry_seq.eq(command.seq),
            tables.entry_w_block.eq(pool.subject),
            tables.owner_block.eq(pool.subject),
            tables.owner_tenant.eq(command.tenant),
        ]
        self._build_judged(m, parts)
        with m.If(self.initialize):
            m.d.sync += wanted.eq(1)
        # The block that EVICT, SCRUB and RESET_POOL work on.
        number = Signal(block_bits(config))
        with m.FSM() as fsm:
            self._build_start(m, parts, requesters, wanted)
            self._build_judgment(m, parts, number)
            build_growth(m, parts)
            build_mark(m, parts)
            build_release(m, parts)
            build_fork(m, parts)
            build_blocks(m, parts, number, self._statistic)
            build_gather(m, parts)
        self._build_taking(m, parts, requesters, fsm, wanted)
        self._build_answer(m, parts, requesters)
        return m

    def _build_judged(self, m: Module, parts: Parts) -> None:
        """What comes to the judgment."""
        config, check = self.config, parts.check
        self._nothing = settled(m, config, parts.command.arg0 == 0, "nothing")
        self._walks = measure_walks(m, parts)
        self._statistic = read_statistic(m, parts)
        m.d.comb += check.block.eq(parts.pool.state)

    def _build_answer(self, m: Module, parts: Parts, requesters: Requesters) -> None:
        """The answer; with registers, what it says is chosen when it is known which it is."""
        config = self.config
        answers: list[Value] = []

        def chosen(choices: list[tuple[Signal, Any]]) -> Value:
            values = []
            for choice, value in choices:
                late = settled(m, config, choice, "answers")
                answers.append(late)
                values.append(Mux(late, Value.cast(value), 0))
            return reduce(or_, values)

        aux, status = chosen(parts.finishes), chosen(parts.refusals)
        m.d.comb += [
            requesters.respond.eq(settled(m, config, Cat(answers).any(), "answered")),
            requesters.status.eq(settled(m, config, status, "answered_status")),
            requesters.aux.eq(settled(m, config, aux[:32], "answered_aux")),
        ]

    def _build_taking(
        self, m: Module, parts: Parts, requesters: Requesters, fsm: Any, wanted: Signal
    ) -> None:
        """In IDLE, where it is registered that it is: a command is taken, or everything begins anew."""
        tables, pool, command = parts.tables, parts.pool, parts.command
        idle, sums = (settled(m, self.config, fsm.ongoing(name), name.lower()) for name in ("IDLE", "SUMS"))
        acts = idle & parts.acts
        m.d.comb += [
            pool.initialize.eq(acts & wanted),
            tables.clear.eq(acts & wanted),
            requesters.take.eq(acts & ~wanted & requesters.offered),
            # FORK reads the other sequence, then its own again.
            tables.r_seq.eq(Mux(idle, requesters.command.seq, Mux(sums, command.arg0, command.seq))),
        ]
        with m.If(acts):
            m.d.sync += self._command.eq(requesters.command)
            with m.If(wanted):
                m.d.sync += wanted.eq(self.initialize)

    def _build_start(self, m: Module, parts: Parts, requesters: Requesters, wanted: Signal) -> None:
        """A command is taken; its sequence, the other one of FORK, and its block are read."""
        tables, pool, command = parts.tables, parts.pool, parts.command
        destination = Signal(Destination)
        m.d.comb += parts.check.destination.eq(destination)
        with step(m, parts, "IDLE"):
            m.d.comb += tables.r_en.eq(requesters.offered)
            with m.If(wanted):
                m.next = "INITIALIZE"
            with m.Elif(requesters.offered):
                m.next = "SUMS"
        with step(m, parts, "INITIALIZE"):
            with m.If(~pool.initializing):
                m.next = "IDLE"
        with step(m, parts, "SUMS"):
            with m.Switch(command.opcode):
                with m.Case(Opcode.FORK):
                    m.d.comb += tables.r_en.eq(1)
                with m.Case(Opcode.SEAL):
                    m.d.comb += [tables.entry_index.eq(command.arg0), tables.entry_r_en.eq(1)]
                with m.Case(Opcode.TRANSLATE):
                    m.d.comb += [tables.entry_index.eq(command.arg0 >> SLOT_BITS), tables.entry_r_en.eq(1)]
                with m.Case(Opcode.STAT):
                    m.d.comb += [tables.entry_index.eq(command.arg1), tables.entry_r_en.eq(1)]
            m.next = "BLOCKS"
        with step(m, parts, "BLOCKS"):
            m.d.sync += [
                parts.entry.eq(tables.entry_block),
                destination.open.eq(tables.r_open),
                destination.tenant.eq(tables.r_state.tenant),
                destination.empty.eq(tables.r_state.entries == 0),
            ]
            operate(m, parts, PoolOperation.READ, command.arg0)
            with m.Switch(command.opcode):
                with m.Case(Opcode.FORK):
                    m.d.comb += tables.r_en.eq(1)
                with m.Case(Opcode.SEAL, Opcode.TRANSLATE):
                    m.d.comb += pool.block.eq(tables.entry_block)
                with m.Case(Opcode.STAT):
                    m.d.comb += pool.block.eq(command.arg1)
            if self.config.registered:
                m.next = "SETTLE"
            else:
                self._choose_judgment(m, command.opcode)
        if self.config.registered:
            with step(m, parts, "SETTLE"):
                self._choose_judgment(m, command.opcode)
            # The step loop has seen its answer, and locked what it wants, before the next command is chosen.
            with step(m, parts, "REST"):
                m.next = "RESTED"
            with step(m, parts, "RESTED"):
                m.next = "IDLE"

    def _build_judgment(self, m: Module, parts: Parts, number: Signal) -> None:
        """The status is known: a command is refused, done, or begun."""
        with step(m, parts, "JUDGE"):
            refuse(m, parts, parts.status)
        build_short(m, parts, self._nothing)
        start_walk(m, parts, self._walks)
        start_block(m, parts, number)
        with judged(m, parts, Opcode.GATHER):
            m.d.sync += [
                parts.index.eq(parts.command.arg0 >> SLOT_BITS),
                parts.final.eq(parts.check.final),
            ]
            m.next = "GATHER"

    def _choose_judgment(self, m: Module, opcode: Value) -> None:
        """Each opcode has its own state, so that what follows does not depend on it; others are refused."""
        m.next = "JUDGE"
        with m.Switch(opcode):
            for known in Opcode:
                with m.Case(known):
                    m.next = judgment(known)
