# SPDX-License-Identifier: Apache-2.0
"""Whether a command can be executed, and the sums it is executed with."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig

from .commands import IMPLEMENTED, Opcode, Stat, Status
from .payloads import SLOT_BITS, KVCommand, SequenceState, token_count

__all__ = ["CommandCheck"]

SUM_BITS = 34
"""Enough for two lengths and an argument of 32 bits."""


class CommandCheck(wiring.Component):
    """Status of a command before it has changed anything.

    The inputs have to be constant; the outputs are right ``latency`` cycles later. The first of these that
    holds is the status: BAD_CMD, BAD_SEQ, TENANT, then the command's own errors in the order of the command
    table. Token sums are exact for all arguments.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(KVCommand)``
        The command.
    open : ``In(1)``
        Whether its sequence is open.
    state : ``In(SequenceState(config))``
        Its sequence's state, zeros if it is not open.
    size, free : ``In(range(blocks_max + 1))``
        Blocks of the pool, NULL included, and how many are free.
    status : ``Out(Status)``
        OK if the command can be executed.
    missing : ``Out(range(table_entries + 1))``
        Blocks to be allocated for ALLOC and APPEND.
    position : ``Out(token_count)``
        First token that is neither committed nor reserved.
    committed : ``Out(token_count)``
        Length after COMMIT.
    """

    latency = 2

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        count = range(config.blocks_max + 1)
        super().__init__(
            {
                "command": In(KVCommand),
                "open": In(1),
                "state": In(SequenceState(config)),
                "size": In(count),
                "free": In(count),
                "status": Out(Status),
                "missing": Out(range(config.table_entries + 1)),
                "position": Out(token_count(config)),
                "committed": Out(token_count(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        entries = self.config.table_entries
        opcode, tokens, state = self.command.opcode, self.command.arg0, self.state
        end, needed = Signal(SUM_BITS), Signal(SUM_BITS - SLOT_BITS)
        live = Signal(range(entries + 1))
        table_full, held, out_of_range = Signal(), Signal(), Signal()
        # Cycle 1: sums.
        m.d.sync += [
            self.position.eq(state.length + state.reserved),
            self.committed.eq(state.length + tokens),
            end.eq(state.length + state.reserved + tokens),
            live.eq(state.entries - state.first),
            held.eq(tokens <= state.reserved),
            out_of_range.eq((tokens >> SLOT_BITS) >= state.entries),
        ]
        # Cycle 2: blocks.
        m.d.comb += needed.eq((end + (1 << SLOT_BITS) - 1) >> SLOT_BITS)
        m.d.sync += [
            table_full.eq(needed > entries),
            self.missing.eq(Mux(needed > state.entries, needed - state.entries, 0)),
        ]
        # Cycle 3: the status.
        status = Signal(Status)
        m.d.comb += self.status.eq(status)
        with m.If(~Cat(opcode == known for known in IMPLEMENTED).any()):
            m.d.comb += status.eq(Status.BAD_CMD)
        with m.Elif((opcode != Opcode.STAT) & self._no_sequence(opcode)):
            m.d.comb += status.eq(Status.BAD_SEQ)
        with m.Elif(self.open & (opcode != Opcode.OPEN) & (opcode != Opcode.STAT) & self._foreign()):
            m.d.comb += status.eq(Status.TENANT)
        with m.Else(), m.Switch(opcode):
            with m.Case(Opcode.OPEN):
                with m.If(self.open):
                    m.d.comb += status.eq(Status.SEQ_BUSY)
            with m.Case(Opcode.ALLOC, Opcode.APPEND):
                with m.If((opcode == Opcode.ALLOC) & (tokens == 0)):
                    m.d.comb += status.eq(Status.ZERO_LEN)
                with m.Elif(table_full):
                    m.d.comb += status.eq(Status.TABLE_FULL)
                with m.Elif((opcode == Opcode.ALLOC) & (self.missing + live >= self.size)):
                    m.d.comb += status.eq(Status.NEVER_FITS)
                with m.Elif(self.missing > self.free):
                    m.d.comb += status.eq(Status.NO_SPACE)
            with m.Case(Opcode.COMMIT):
                with m.If(~held):
                    m.d.comb += status.eq(Status.NOT_RESERVED)
            with m.Case(Opcode.ABORT):
                with m.If(state.reserved == 0):
                    m.d.comb += status.eq(Status.NOT_RESERVED)
            with m.Case(Opcode.TRANSLATE):
                with m.If(out_of_range):
                    m.d.comb += status.eq(Status.OUT_OF_RANGE)
            with m.Case(Opcode.STAT):
                with m.If(~self._exists()):
                    m.d.comb += status.eq(Status.OUT_OF_RANGE)
        return m

    def _no_sequence(self, opcode: Value) -> Value:
        inside = self.command.seq < self.config.sequences_max
        return ~inside | ((opcode != Opcode.OPEN) & ~self.open)

    def _foreign(self) -> Value:
        return self.command.tenant != self.state.tenant

    def _exists(self) -> Value:
        """Whether there is what STAT asks for."""
        kind, index = self.command.arg0, self.command.arg1
        found: Any = Const(0)
        for stat in Stat:
            if stat.name.startswith("POOL"):
                inside: Any = Const(1)
            elif stat.name.startswith("BLOCK"):
                inside = index < self.size
            else:
                inside = self.command.seq < self.config.sequences_max
            if stat is Stat.SEQUENCE_ENTRY:
                inside &= index < self.state.entries
            found |= (kind == stat) & inside
        return found
