# SPDX-License-Identifier: Apache-2.0
"""State and block tables of the sequences, and the look-ups in them."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pace import pace, settled

from .commands import Status
from .payloads import (
    BLOCK_SIZE,
    SLOT_BITS,
    TENANT_BITS,
    SequenceState,
    TranslatePort,
    TranslateRequest,
    block_bits,
    entry_bits,
    sequence_bits,
)

__all__ = ["SequenceTables"]


class SequenceTables(wiring.Component):
    """What the controller keeps of sequences, with one look-up per cycle for gather and append.

    A look-up that is taken is answered ``latency`` cycles later, 3 or, if the accelerator is ``registered``,
    6. What is read for the controller is there after ``read_latency`` cycles, 1 or 4. A look-up asks in this
    order whether the sequence is open, whether the table reaches so far, whether the entry is not NULL, and
    whether the block's owner is the sequence's. The controller's own reading of the table goes first; among
    the ports, the first one listed.

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
        Whether it was open, ``read_latency`` cycles later, until the next reading.
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
        The block read, ``read_latency`` cycles later.
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
    """Where the configuration is not ``registered``; else 6, which is what the component itself has."""

    def __init__(self, config: AcceleratorConfig, ports: int = 1):
        if ports < 1:
            raise ValueError(f"Number of ports must be at least 1, not {ports!r}")
        self.config = config
        self.count = ports
        self.read_latency = pace(config)
        if config.registered:
            self.latency = 6
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
        self._inputs: dict[str, Any] = {}
        config = self.config
        depth = 1 << sequence_bits(config)
        layout = SequenceState(config)
        m.submodules.states = states = OnChipMemory(layout, depth, transparent=False)
        m.submodules.lookup_states = lookup_states = OnChipMemory(layout, depth, transparent=False)
        m.submodules.block_table = table = OnChipMemory(
            block_bits(config), depth << entry_bits(config), transparent=False
        )
        opened = Signal(depth)
        is_open = Signal()
        writes, w_seq, w_open = (self._late(m, name) for name in ("w_en", "w_seq", "w_open"))
        for memory in (states, lookup_states):
            m.d.comb += [
                memory.w_en.eq(writes),
                memory.w_addr.eq(w_seq),
                memory.w_data.eq(self._late(m, "w_state")),
            ]
        reads, r_seq = self._late(m, "r_en"), self._late(m, "r_seq")
        known = settled(m, config, Mux(is_open, Value.cast(states.r_data), 0), "known")
        m.d.comb += [
            states.r_en.eq(reads),
            states.r_addr.eq(r_seq),
            self.r_open.eq(settled(m, config, is_open, "known_open")),
            self.r_state.eq(known),
            table.w_en.eq(self._late(m, "entry_w_en")),
            table.w_addr.eq(Cat(self._late(m, "entry_index"), self._late(m, "entry_seq"))),
            table.w_data.eq(self._late(m, "entry_w_block")),
        ]
        with m.If(reads):
            m.d.sync += is_open.eq(opened.bit_select(r_seq, 1))
        with m.If(writes):
            m.d.sync += opened.bit_select(w_seq, 1).eq(w_open)
        clears = self._late(m, "clear")
        with m.If(clears):
            m.d.sync += opened.eq(0)
        self._look_up(m, table, lookup_states, opened)
        return m

    def _late(self, m: Module, name: str) -> Any:
        """An input; with registers, a cycle later. Each has one register."""
        if name not in self._inputs:
            self._inputs[name] = settled(m, self.config, getattr(self, name), f"{name}_late")
        return self._inputs[name]

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
        own = self._late(m, "entry_r_en")
        wish = Signal(TranslateRequest(config))
        chosen = Signal(self.count)
        taken: Any = Const(0)
        for index, port in enumerate(self.ports):
            request = port.request
            m.d.comb += [
                request.ready.eq(~own & ~taken),
                chosen[index].eq(request.valid & request.ready),
            ]
            taken = taken | request.valid
        # The last port's is there for whoever wants nothing: its `valid` comes late.
        *others, last = self.ports
        m.d.comb += wish.eq(last.request.payload)
        for port in reversed(others):
            with m.If(port.request.valid):
                m.d.comb += wish.eq(port.request.payload)
        with m.If(own):
            m.d.comb += [
                wish.seq.eq(self._late(m, "entry_seq")),
                wish.index.eq(self._late(m, "entry_index")),
            ]
        place = settled(m, config, wish, "place")
        reads = settled(m, config, own | taken, "reads")
        m.d.comb += [
            table.r_en.eq(reads),
            table.r_addr.eq(Cat(place.index, place.seq)),
            states.r_en.eq(reads),
            states.r_addr.eq(place.seq),
        ]
        m.d.sync += [
            asked.chosen.eq(settled(m, config, chosen, "chosen")),
            asked.index.eq(place.index),
            asked.open.eq(opened.bit_select(place.seq, 1)),
        ]
        # Cycle 1: block and sequence are known.
        asked = settled(m, config, asked, "asked_read")
        state = settled(m, config, states.r_data, "state_read")
        number = settled(m, config, table.r_data, "number_read")
        inside = asked.index < state.entries
        full, partial = state.length >> SLOT_BITS, state.length[:SLOT_BITS]
        m.d.comb += [
            self.entry_block.eq(number),
            owners.w_en.eq(self._late(m, "owner_en")),
            owners.w_addr.eq(self._late(m, "owner_block")),
            owners.w_data.eq(self._late(m, "owner_tenant")),
            owners.r_en.eq(1),
            owners.r_addr.eq(number),
        ]
        m.d.sync += [
            found.eq(asked),
            found.block.eq(number),
            found.tenant.eq(state.tenant),
            found.tokens.eq(Mux(asked.index < full, BLOCK_SIZE, Mux(asked.index == full, partial, 0))),
        ]
        with m.If(~asked.open):
            m.d.sync += status.eq(Status.BAD_SEQ)
        with m.Elif(~inside):
            m.d.sync += status.eq(Status.OUT_OF_RANGE)
        with m.Elif((asked.index < state.first) | (number == 0)):
            m.d.sync += status.eq(Status.NOT_MAPPED)
        with m.Else():
            m.d.sync += status.eq(Status.OK)
        # Cycle 2: the block's owner is known.
        found, owner = settled(m, config, found, "found_read"), settled(m, config, owners.r_data, "owner")
        status = settled(m, config, status, "status_read")
        foreign = (status == Status.OK) & (owner != found.tenant)
        for index, port in enumerate(self.ports):
            m.d.sync += [
                port.response.valid.eq(found.chosen[index]),
                port.response.block.eq(found.block),
                port.response.tokens.eq(found.tokens),
                port.response.status.eq(Mux(foreign, Status.TENANT, status)),
            ]
