# SPDX-License-Identifier: Apache-2.0
"""State and block tables of the sequences, and the look-ups in them."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory

from .commands import Status
from .payloads import (
    BLOCK_SIZE,
    SLOT_BITS,
    TENANT_BITS,
    SequenceState,
    TranslatePort,
    block_bits,
    entry_bits,
    sequence_bits,
)

__all__ = ["SequenceTables"]


class SequenceTables(wiring.Component):
    """What the controller keeps of sequences, with one look-up per cycle for gather and append.

    A look-up that is taken is answered ``latency`` cycles later. It asks in this order whether the sequence
    is open, whether the table reaches so far, whether the entry is not NULL, and whether the block's owner is
    the sequence's. The controller's own reading of the table goes first; among the ports, the first one
    listed.

    A sequence that is not open reads as zeros. Its table's contents do not matter: entries count from when
    the sequence's state says so.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    ports : :class:`int`
        Number of clients with look-ups.

    Members
    -------
    clear : ``In(1)``
        Close all sequences.
    w_en : ``In(1)``
        Write a sequence's state.
    w_seq : ``In(sequence_bits)``
        Which sequence.
    w_open : ``In(1)``
        Whether it is open from now on.
    w_state : ``In(SequenceState(config))``
        Its state.
    r_en : ``In(1)``
        Read a sequence's state.
    r_seq : ``In(sequence_bits)``
        Which sequence.
    r_open : ``Out(1)``
        Whether it was open, one cycle later, until the next reading.
    r_state : ``Out(SequenceState(config))``
        Its state, likewise.
    entry_seq, entry_index : ``In(sequence_bits)``, ``In(entry_bits)``
        A table entry, for writing and reading.
    entry_w_en : ``In(1)``
        Write it.
    entry_w_block : ``In(block_bits)``
        The block to write.
    entry_r_en : ``In(1)``
        Read it.
    entry_block : ``Out(block_bits)``
        The block read, in the next cycle.
    owner_en : ``In(1)``
        A block changes hands.
    owner_block : ``In(block_bits)``
        Which block.
    owner_tenant : ``In(8)``
        Its new owner.
    ports : ``In(TranslatePort(config)).array(ports)``
        Clients with look-ups.

    Raises
    ------
    ValueError
        If ``ports`` is below 1, or a table has more than 65535 entries.
    """

    latency = 3

    def __init__(self, config: AcceleratorConfig, ports: int = 1):
        if ports < 1:
            raise ValueError(f"Number of ports must be at least 1, not {ports!r}")
        self.config = config
        self.count = ports
        sequence, entry, block = sequence_bits(config), entry_bits(config), block_bits(config)
        super().__init__(
            {
                "clear": In(1),
                "w_en": In(1),
                "w_seq": In(sequence),
                "w_open": In(1),
                "w_state": In(SequenceState(config)),
                "r_en": In(1),
                "r_seq": In(sequence),
                "r_open": Out(1),
                "r_state": Out(SequenceState(config)),
                "entry_seq": In(sequence),
                "entry_index": In(entry),
                "entry_w_en": In(1),
                "entry_w_block": In(block),
                "entry_r_en": In(1),
                "entry_block": Out(block),
                "owner_en": In(1),
                "owner_block": In(block),
                "owner_tenant": In(TENANT_BITS),
                "ports": In(TranslatePort(config)).array(ports),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        depth = 1 << sequence_bits(config)
        layout = SequenceState(config)
        m.submodules.states = states = OnChipMemory(layout, depth, transparent=False)
        m.submodules.lookup_states = lookup_states = OnChipMemory(layout, depth, transparent=False)
        m.submodules.table = table = OnChipMemory(
            block_bits(config), depth << entry_bits(config), transparent=False
        )
        opened = Signal(depth)
        for memory in (states, lookup_states):
            m.d.comb += [
                memory.w_en.eq(self.w_en),
                memory.w_addr.eq(self.w_seq),
                memory.w_data.eq(self.w_state),
            ]
        m.d.comb += [
            states.r_en.eq(self.r_en),
            states.r_addr.eq(self.r_seq),
            self.r_state.eq(Mux(self.r_open, Value.cast(states.r_data), 0)),
            table.w_en.eq(self.entry_w_en),
            table.w_addr.eq(Cat(self.entry_index, self.entry_seq)),
            table.w_data.eq(self.entry_w_block),
            self.entry_block.eq(table.r_data),
        ]
        with m.If(self.r_en):
            m.d.sync += self.r_open.eq(opened.bit_select(self.r_seq, 1))
        with m.If(self.w_en):
            m.d.sync += opened.bit_select(self.w_seq, 1).eq(self.w_open)
        with m.If(self.clear):
            m.d.sync += opened.eq(0)
        self._look_up(m, table, lookup_states, opened)
        return m

    def _look_up(self, m: Module, table: OnChipMemory, states: OnChipMemory, opened: Signal) -> None:
        config = self.config
        block = block_bits(config)
        m.submodules.owners = owners = OnChipMemory(TENANT_BITS, 1 << block, transparent=False)
        step = data.StructLayout(
            {
                "chosen": self.count,
                "index": entry_bits(config),
                "open": 1,
                "block": block,
                "tenant": TENANT_BITS,
                "tokens": SLOT_BITS + 1,
            }
        )
        asked, found = Signal(step), Signal(step)
        status = Signal(Status)

        # Cycle 0: a request is taken.
        taken: Any = Const(0)
        m.d.comb += table.r_addr.eq(Cat(self.entry_index, self.entry_seq))
        m.d.sync += asked.chosen.eq(0)
        for index, port in enumerate(self.ports):
            request = port.request
            m.d.comb += request.ready.eq(~self.entry_r_en & ~taken)
            with m.If(request.valid & request.ready):
                m.d.comb += [
                    table.r_addr.eq(Cat(request.payload.index, request.payload.seq)),
                    states.r_addr.eq(request.payload.seq),
                ]
                m.d.sync += [
                    asked.chosen.eq(1 << index),
                    asked.index.eq(request.payload.index),
                    asked.open.eq(opened.bit_select(request.payload.seq, 1)),
                ]
            taken = taken | request.valid
        m.d.comb += [
            table.r_en.eq(self.entry_r_en | taken),
            states.r_en.eq(taken),
            owners.w_en.eq(self.owner_en),
            owners.w_addr.eq(self.owner_block),
            owners.w_data.eq(self.owner_tenant),
            owners.r_en.eq(1),
            owners.r_addr.eq(table.r_data),
        ]
        # Cycle 1: block and sequence are known.
        inside = asked.index < states.r_data.entries
        full, partial = states.r_data.length >> SLOT_BITS, states.r_data.length[:SLOT_BITS]
        m.d.sync += [
            found.eq(asked),
            found.block.eq(table.r_data),
            found.tenant.eq(states.r_data.tenant),
            found.tokens.eq(Mux(asked.index < full, BLOCK_SIZE, Mux(asked.index == full, partial, 0))),
        ]
        with m.If(~asked.open):
            m.d.sync += status.eq(Status.BAD_SEQ)
        with m.Elif(~inside):
            m.d.sync += status.eq(Status.OUT_OF_RANGE)
        with m.Elif((asked.index < states.r_data.first) | (table.r_data == 0)):
            m.d.sync += status.eq(Status.NOT_MAPPED)
        with m.Else():
            m.d.sync += status.eq(Status.OK)
        # Cycle 2: the block's owner is known.
        foreign = (status == Status.OK) & (owners.r_data != found.tenant)
        for index, port in enumerate(self.ports):
            m.d.sync += [
                port.response.valid.eq(found.chosen[index]),
                port.response.block.eq(found.block),
                port.response.tokens.eq(found.tokens),
                port.response.status.eq(Mux(foreign, Status.TENANT, status)),
            ]
