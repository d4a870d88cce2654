# SPDX-License-Identifier: Apache-2.0
"""Whether a command can be executed, and the sums it is executed with."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.stream.pace import settled

from .commands import WITHOUT_SEQUENCE, Opcode, Stat, Status
from .payloads import (
    BLOCK_SIZE,
    GENERATION_BITS,
    RECORD_BITS,
    REFERENCE_BITS,
    SLOT_BITS,
    TENANT_BITS,
    BlockState,
    KVCommand,
    SequenceState,
    entry_bits,
    token_count,
)

__all__ = ["CommandCheck", "Destination"]

SUM_BITS = 34
"""Enough for two lengths and an argument of 32 bits."""


class Destination(data.Struct):
    """What FORK has to know of the sequence that is to get the blocks."""

    open: unsigned(1)
    tenant: unsigned(TENANT_BITS)
    empty: unsigned(1)


class CommandCheck(wiring.Component):
    """Status of a command before it has changed anything.

    The first of these that holds is the status: BAD_CMD, BAD_SEQ, TENANT, then the command's own errors in
    the order of the command table. Token sums are exact for all arguments. Two errors are not found here:
    APPEND's NO_SPACE where blocks have to be replaced, and FORK's REF_OVERFLOW.

    ``command``, ``open`` and ``state`` have to be constant for ``latency`` cycles, then outputs are right.
    The other inputs have to be for the last ``block_latency`` of these: 0, which is to say in the cycle of
    the output, or 3 if the accelerator is ``registered``, whose ``latency`` is 8 instead of 2.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    generation_bits, reference_bits : :class:`int`
        Widths of a block's generation and count.

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
    records : ``In(17)``
        Records in a block, for GATHER.
    block : ``In(BlockState)``
        The block that the command speaks of.
    destination : ``In(Destination)``
        The other sequence, for FORK.
    status : ``Out(Status)``
        OK if the command can be executed.
    missing : ``Out(range(table_entries + 1))``
        Blocks to be allocated for ALLOC and APPEND, replaced ones apart.
    position : ``Out(token_count)``
        First token that is neither committed nor reserved.
    committed : ``Out(token_count)``
        Length after COMMIT.
    final : ``Out(entry_bits)``
        Entry of the last token of ALLOC, APPEND and GATHER.
    present : ``Out(1)``
        The table has an entry for the first token of APPEND.
    last_present : ``Out(entry_bits)``
        The last entry that it has for one of APPEND's tokens.
    """

    latency = 2
    """Where the configuration is not ``registered``; else 8, which is what the component itself has."""

    block_latency = 0
    """Cycles from ``block``, ``destination``, ``size`` and ``free`` to outputs; 3 if ``registered``."""

    def __init__(
        self,
        config: AcceleratorConfig,
        generation_bits: int = GENERATION_BITS,
        reference_bits: int = REFERENCE_BITS,
    ):
        self.config = config
        if config.registered:
            self.latency, self.block_latency = 8, 3
        count = range(config.blocks_max + 1)
        super().__init__(
            {
                "command": In(KVCommand),
                "open": In(1),
                "state": In(SequenceState(config)),
                "size": In(count),
                "free": In(count),
                "records": In(RECORD_BITS + 1),
                "block": In(BlockState(generation_bits, reference_bits)),
                "destination": In(Destination),
                "status": Out(Status),
                "missing": Out(range(config.table_entries + 1)),
                "position": Out(token_count(config)),
                "committed": Out(token_count(config)),
                "final": Out(entry_bits(config)),
                "present": Out(1),
                "last_present": Out(entry_bits(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        command, opcode = self.command, self.command.opcode
        errors = self._build_sums(m)
        known = Cat(opcode == code for code in Opcode).any()
        anywhere = Cat(opcode == code for code in WITHOUT_SEQUENCE).any()
        status = Signal(Status)
        general = self._first(
            m,
            "general",
            [
                (Status.BAD_CMD, ~known),
                (Status.BAD_SEQ, ~anywhere & self._no_sequence(opcode)),
                *((Status.TENANT, foreign) for foreign in self._foreign(m, opcode)),
            ],
        )
        own = {code: self._first(m, code.name.lower(), found) for code, found in errors.items()}
        with m.If(general != Status.OK):
            m.d.comb += status.eq(general)
        with m.Else(), m.Switch(opcode):
            for code, of_command in own.items():
                with m.Case(code):
                    m.d.comb += status.eq(of_command)
        m.d.comb += [
            self.status.eq(self._settled(m, status, "status_found")),
            self.committed.eq(self._settled(m, self.state.length + command.arg0, "sum_committed")),
        ]
        return m

    def _settled(self, m: Module, value: Any, name: str) -> Any:
        return settled(m, self.config, value, name)

    def _first(self, m: Module, name: str, errors: list[tuple[Status, Any]]) -> Any:
        """The status is that of the first condition that holds."""
        first = Signal(Status, name=f"first_{name}")
        for index, (status, condition) in reversed(list(enumerate(errors))):
            holds = self._settled(m, Value.cast(condition).any(), f"{name}_{index}")
            with m.If(holds):
                m.d.comb += first.eq(status)
        return self._settled(m, first, f"status_{name}")

    def _build_sums(self, m: Module) -> dict[Opcode, list[tuple[Status, Any]]]:
        """Cycle 1: sums of tokens. Cycle 2: blocks. The errors of each command that has some, in order.

        With registers the sums take four cycles, the errors four more.
        """
        entries, state, block = self.config.table_entries, self.state, self.block
        first, second = self.command.arg0, self.command.arg1
        end, needed = Signal(SUM_BITS), Signal(SUM_BITS - SLOT_BITS)
        gathered, sealed_end = Signal(SUM_BITS), Signal(SUM_BITS + SLOT_BITS)
        live = Signal(range(entries + 1))
        table_full = Signal()
        index = first >> SLOT_BITS
        position = state.length + state.reserved
        m.d.sync += [
            self.position.eq(position),
            end.eq(self._settled(m, position, "sum_position") + first),
            gathered.eq(first + second[:RECORD_BITS]),
            sealed_end.eq((first + 1) << SLOT_BITS),
            live.eq(state.entries - state.first),
        ]
        m.d.comb += needed.eq(self._settled(m, (end + (BLOCK_SIZE - 1)) >> SLOT_BITS, "sum_needed"))
        kept = Mux(needed > state.entries, state.entries, needed)
        kept = self._settled(m, kept, "sum_kept")
        last = Mux(self.command.opcode == Opcode.GATHER, gathered, end) - 1
        m.d.sync += [
            table_full.eq(needed > entries),
            self.missing.eq(Mux(needed > state.entries, needed - state.entries, 0)),
            self.final.eq(last >> SLOT_BITS),
            self.present.eq((first != 0) & ((self.position >> SLOT_BITS) < state.entries)),
            self.last_present.eq(kept - 1),
        ]
        inside = self._inside(first)
        held = self._settled(m, self.missing + live, "sum_held")
        stale = (block.generation != second) | block.generation.all()
        tokens = second[:RECORD_BITS]
        in_use = [(Status.NULL_BLOCK, ~inside), (Status.IN_USE, block.references != 0)]
        return {
            Opcode.OPEN: [(Status.SEQ_BUSY, self.open)],
            Opcode.ALLOC: [
                (Status.ZERO_LEN, first == 0),
                (Status.TABLE_FULL, table_full),
                (Status.NEVER_FITS, held >= self.size),
                (Status.NO_SPACE, self.missing > self.free),
            ],
            Opcode.APPEND: [(Status.TABLE_FULL, table_full), (Status.NO_SPACE, self.missing > self.free)],
            Opcode.COMMIT: [(Status.NOT_RESERVED, first > state.reserved)],
            Opcode.ABORT: [(Status.NOT_RESERVED, state.reserved == 0)],
            Opcode.SEAL: [
                (Status.OUT_OF_RANGE, first >= state.entries),
                (Status.OUT_OF_RANGE, first < state.first),
                (Status.TENANT, block.tenant != self.command.tenant),
                (Status.NOT_FULL, sealed_end > self.position),
                (Status.NOT_WRITTEN, sealed_end > state.length),
                (Status.NOT_WRITTEN, block.written != BLOCK_SIZE),
                (Status.ALREADY, block.sealed),
            ],
            Opcode.SHARE: [
                (Status.UNALIGNED, state.length != state.entries << SLOT_BITS),
                (Status.TABLE_FULL, state.entries == entries),
                (Status.NULL_BLOCK, ~inside),
                (Status.NOT_SEALED, ~block.sealed),
                (Status.STALE_GEN, stale),
                (Status.REF_OVERFLOW, block.references.all()),
            ],
            Opcode.FORK: [
                (
                    Status.SEQ_BUSY,
                    (first == self.command.seq) | ~self.destination.empty | (state.reserved != 0),
                )
            ],
            Opcode.TRIM: [
                (Status.BAD_LEN, first > state.length),
                (Status.BAD_LEN, first < state.first << SLOT_BITS),
            ],
            Opcode.SLIDE: [(Status.BAD_LEN, first > state.length)],
            Opcode.TRANSLATE: [
                (Status.OUT_OF_RANGE, index >= state.entries),
                (Status.NOT_MAPPED, index < state.first),
                (Status.TENANT, block.tenant != self.command.tenant),
            ],
            Opcode.GATHER: [
                (Status.OUT_OF_RANGE, gathered > state.length),
                (Status.OUT_OF_RANGE, second[RECORD_BITS:] >= self.records),
                (Status.NOT_MAPPED, (tokens != 0) & (index < state.first)),
            ],
            Opcode.EVICT: in_use,
            Opcode.SCRUB: in_use,
            Opcode.RESET_POOL: [(Status.IN_USE, self.free + 1 != self.size)],
            Opcode.STAT: [(Status.OUT_OF_RANGE, ~self._exists(m))],
        }

    def _inside(self, block: Value) -> Value:
        """Whether the pool has this block for sequences."""
        return (block != 0) & (block < self.size)

    def _no_sequence(self, opcode: Value) -> Value:
        limit, other = self.config.sequences_max, self.command.arg0
        missing = (self.command.seq >= limit) | ((opcode != Opcode.OPEN) & ~self.open)
        return missing | ((opcode == Opcode.FORK) & ((other >= limit) | ~self.destination.open))

    def _foreign(self, m: Module, opcode: Value) -> tuple[Value, Value, Value]:
        """Whether what the command speaks of belongs to another tenant: sequence, block, destination."""
        tenant = self.command.tenant
        free_for_all = (Opcode.OPEN, *WITHOUT_SEQUENCE)
        speaks_of_block = Cat(opcode == code for code in (Opcode.SHARE, Opcode.EVICT, Opcode.SCRUB)).any()
        speaks_of_sequence = ~Cat(opcode == code for code in free_for_all).any()
        speaks_of_sequence = self._settled(m, speaks_of_sequence, "speaks_of_sequence")
        block = self.command.arg0
        speaks_of_block = self._settled(m, speaks_of_block & (block != 0), "speaks_of_block")
        return (
            speaks_of_sequence & (tenant != self.state.tenant),
            speaks_of_block & (block < self.size) & (tenant != self.block.tenant),
            (opcode == Opcode.FORK) & (tenant != self.destination.tenant),
        )

    def _exists(self, m: Module) -> Value:
        """Whether there is what STAT asks for."""
        kind, index = self.command.arg0, self.command.arg1
        entry = index < self.state.entries
        there = self._settled(m, self.command.seq < self.config.sequences_max, "there")
        limits = {"POOL": Const(1), "BLOCK": index < self.size, "SEQUENCE": there}
        found: Any = Const(0)
        for group, inside in limits.items():
            kinds = (stat for stat in Stat if stat.name.startswith(group) and stat is not Stat.SEQUENCE_ENTRY)
            asked = self._settled(m, Cat(kind == stat for stat in kinds).any(), f"asks_{group.lower()}")
            found |= asked & inside
        return found | (self._settled(m, kind == Stat.SEQUENCE_ENTRY, "asks_entry") & there & entry)
