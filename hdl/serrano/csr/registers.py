# SPDX-License-Identifier: Apache-2.0
"""The registers behind an AXI4-Lite port."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus import AXI4Lite
from serrano.config import AcceleratorConfig
from serrano.csr.counters import CounterReadPort
from serrano.csr.table import COUNTER_BASE, COUNTERS, IDENTITY, REGISTERS, VERSION, Access, Register
from serrano.primitives.memory import OnChipMemory
from serrano.stream.slices import later

__all__ = ["ControlRegisters", "constants"]

ADDRESS_BITS = 12

GROUP = 16
"""Registers of which one is chosen at a time."""


def constants(config: AcceleratorConfig) -> dict[str, int]:
    """Return the values of the constant registers of an accelerator by name."""
    values = {
        "ID": IDENTITY,
        "VERSION": VERSION,
        "GEOMETRY": config.n | config.port_bytes << 8 | config.load_bytes << 16 | config.lanes << 24,
        "TAPE_ALIGN": config.tape_align,
    }
    for entry in REGISTERS:
        if entry.access is Access.CONSTANT and entry.name not in values:
            values[entry.name] = getattr(config, entry.attribute)
    return values


class ControlRegisters(wiring.Component):
    """Registers of :data:`~serrano.csr.table.REGISTERS` behind an AXI4-Lite subordinate port.

    Every register but the counters is a port named as in the table, in lower case. Reads of addresses without
    a register
    give 0, writes to them are ignored, both with the response OKAY; strobes select bytes. One access at a
    time. An answer comes a cycle after its address, with ``config.registered`` two (writes) or four (reads).

    With ``config.registered`` what the host has written is read from a copy in a memory, so that only what
    the accelerator itself tells needs wires to this place.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    bus : ``In(AXI4Lite(12))``
        Port of the host.
    counters : ``Out(CounterReadPort())``
        Reads counters. While it is busy, all reads wait.
    <read only> : ``In(32)``
        Present value.
    <read/write> : ``Out(32)``
        Value written by the host, 0 after reset.
    <command> : ``Out(32)``, with ``<command>_write`` : ``Out(1)``
        Value of the last write; set for one cycle, the first in which that value is seen. Bytes that are not
        written stay as they are; a write of no byte at all is none.
    <clear> : ``Out(32)``, with ``<clear>_set`` : ``In(32)``
        Pending bits; bits to be set. Setting wins over clearing.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        ports: dict[str, Any] = {"bus": In(AXI4Lite(ADDRESS_BITS)), "counters": Out(CounterReadPort())}
        for entry in REGISTERS:
            name = entry.attribute
            if entry.offset >= COUNTER_BASE:
                continue
            match entry.access:
                case Access.READ_ONLY:
                    ports[name] = In(32)
                case Access.READ_WRITE:
                    ports[name] = Out(32)
                case Access.COMMAND:
                    ports |= {name: Out(32), f"{name}_write": Out(1)}
                case Access.CLEAR:
                    ports |= {name: Out(32), f"{name}_set": In(32)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._write = Signal()
        chosen = self._build_write_channel(m)
        word, mask = self.bus.wdata, Cat(bit.replicate(8) for bit in self.bus.wstrb)
        for entry in REGISTERS:
            if entry.access in (Access.CONSTANT, Access.READ_ONLY):
                continue
            value, mine = getattr(self, entry.attribute), chosen[entry]
            if entry.access is Access.CLEAR:
                bits = max(low + width for _, low, width, _ in entry.fields)
                cleared = Mux(mine, word & mask, 0)
                kept = value & ~cleared | getattr(self, f"{entry.attribute}_set")
                m.d.sync += value[:bits].eq(kept)
                continue
            with m.If(mine):
                m.d.sync += value.eq(value & ~mask | word & mask)
            if entry.access is Access.COMMAND:
                # A write without a byte is none.
                m.d.sync += getattr(self, f"{entry.attribute}_write").eq(mine & self.bus.wstrb.any())
        self._build_read_channel(m, chosen)
        return m

    def _build_write_channel(self, m: Module) -> dict[Register, Signal]:
        """Whether a register is written in this cycle. Address and data are taken together, when both are
        there; with registers two cycles later."""
        bus, registered = self.bus, self.config.registered
        domain = m.d.sync if registered else m.d.comb
        begin, chosen = Signal(), {}
        # With registers, cycle 1: the place in a group, and which group it is. Cycle 2: which register.
        begun = later(m, begin, registered=registered, name="begun")
        free = ~bus.bvalid & ~self._write & ~begun if registered else ~bus.bvalid | bus.bready
        m.d.comb += [
            begin.eq(bus.awvalid & bus.wvalid & free),
            bus.awready.eq(self._write),
            bus.wready.eq(self._write),
        ]
        domain += self._write.eq(begun)
        low = exact_log2(GROUP)
        places, groups = {}, {}
        for entry in REGISTERS:
            if entry.access not in (Access.CONSTANT, Access.READ_ONLY):
                number, place = divmod(entry.offset >> 2, GROUP)
                if number not in groups:
                    mine = bus.awaddr[2 + low :] == number
                    groups[number] = later(m, mine, registered=registered, name=f"in_group_{number}")
                if place not in places:
                    mine = bus.awaddr[2 : 2 + low] == place
                    places[place] = later(m, mine, registered=registered, name=f"at_place_{place}")
                mine = chosen[entry] = Signal(name=f"{entry.attribute}_chosen")
                domain += mine.eq(begun & groups[number] & places[place])
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(self._write):
            m.d.sync += bus.bvalid.eq(1)
        return chosen

    def _build_read_channel(self, m: Module, written: dict[Register, Signal]) -> None:
        bus, counters = self.bus, self.counters
        address, taken = Signal(ADDRESS_BITS - 2), Signal()
        value, counter, upper = Signal(32), Signal(), Signal()
        counted = counters.value.word_select(upper, 32)
        if not self.config.registered:
            # The answer is chosen with the address.
            m.d.comb += [
                address.eq(bus.araddr[2:]),
                bus.arready.eq((~bus.rvalid | bus.rready) & ~counters.busy),
            ]
            m.d.comb += taken.eq(bus.arready)
            chosen = self._build_choice(m, m.d.comb, address)
            with m.If(taken):
                m.d.sync += [bus.rvalid.eq(bus.arvalid), value.eq(chosen)]
            with m.Elif(bus.rready):
                m.d.sync += bus.rvalid.eq(0)
            m.d.comb += bus.rdata.eq(Mux(counter, counted, value))
        else:
            # Cycle 1: the address. Cycle 2: a register of each group, and what lies in memories. Cycle 3:
            # that of one group, and of one memory. Cycle 4: one of the two.
            cycle = Signal(2)
            chosen = self._build_choice(m, m.d.sync, address)
            copied, copy = self._build_copy(m, written, address)
            from_copy, from_counter = Signal(), Signal()
            written_word, counted_word = Signal(32, reset_less=True), Signal(32, reset_less=True)
            busy = Signal()
            m.d.comb += [
                bus.arready.eq((cycle == 0) & ~bus.rvalid),
                # Not while the copy or the counters change.
                taken.eq((cycle == 1) & ~self._write & ~busy),
            ]
            m.d.sync += [
                cycle.eq(cycle + Mux(cycle == 0, bus.arvalid & bus.arready, (cycle != 1) | taken)),
                value.eq(chosen),
                busy.eq(counters.busy),
                from_copy.eq(copied),
                from_counter.eq(counter),
                written_word.eq(copy),
                counted_word.eq(counted),
            ]
            told = Mux(from_counter, counted_word, Mux(from_copy, written_word, value))
            with m.If(bus.arready):
                m.d.sync += address.eq(bus.araddr[2:])
            with m.If(cycle == 3):
                m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(told)]
            with m.Elif(bus.rready):
                m.d.sync += bus.rvalid.eq(0)
        index_bits = len(counters.index)
        m.d.comb += [counters.en.eq(taken), counters.index.eq(address[1:])]
        with m.If(taken):
            base = COUNTER_BASE >> 3 + index_bits
            among = (address[1 + index_bits :] == base) & (counters.index < len(COUNTERS))
            m.d.sync += [counter.eq(among), upper.eq(address[0])]

    def _build_copy(
        self, m: Module, written: dict[Register, Signal], address: Signal
    ) -> tuple[Signal, Signal]:
        """What the host has written: whether anything to this address, and what, a cycle later."""
        bus, places = self.bus, COUNTER_BASE >> 2
        m.submodules.copy = memory = OnChipMemory(
            unsigned(32), places, granularity=8, transparent=False, collides=False
        )
        known, copied, mine = Signal(places), Signal(), Signal()
        kept = {entry: now for entry, now in written.items() if self._is_copied(entry)}
        place = bus.awaddr[2:][: exact_log2(places)]
        m.d.comb += [
            mine.eq(Cat(kept.values()).any()),
            memory.w_addr.eq(place),
            # What has never been written is 0.
            memory.w_en.eq(Mux(mine, bus.wstrb | (~known.bit_select(place, 1)).replicate(4), 0)),
            memory.w_data.eq(bus.wdata & Cat(bit.replicate(8) for bit in bus.wstrb)),
            memory.r_en.eq(1),
            memory.r_addr.eq(address),
        ]
        for entry, now in kept.items():
            with m.If(now):
                m.d.sync += known[entry.offset >> 2].eq(1)
        inside = address[exact_log2(places) :] == 0
        # Those around the address, with the address.
        around, low = Signal(GROUP), exact_log2(GROUP)
        with m.If(bus.arready):
            m.d.sync += around.eq(known.word_select(bus.araddr[2 + low : 2 + exact_log2(places)], GROUP))
        m.d.sync += copied.eq(inside & around.bit_select(address[:low], 1))
        return copied, memory.r_data

    def _is_copied(self, entry: Register) -> bool:
        """It is read from the copy of what was written."""
        return self.config.registered and entry.access in (Access.READ_WRITE, Access.COMMAND)

    def _build_choice(self, m: Module, domain: Any, address: Value) -> Value:
        """The register at an address: one of each group in ``domain``, and of these one."""
        fixed, groups = constants(self.config), {}
        for entry in REGISTERS:
            if entry.offset >= COUNTER_BASE or self._is_copied(entry):
                continue
            number, place = divmod(entry.offset >> 2, GROUP)
            known = fixed[entry.name] if entry.access is Access.CONSTANT else getattr(self, entry.attribute)
            groups.setdefault(number, {})[place] = known
        read_value, values = Signal(32), {}
        with m.Switch(address[exact_log2(GROUP) :]):
            for number in groups:
                value = values[number] = Signal(32, name=f"group_{number}")
                with m.Case(number):
                    m.d.comb += read_value.eq(value)
        with m.Switch(address[: exact_log2(GROUP)]):
            for place in range(GROUP):
                with m.Case(place):
                    domain += [value.eq(groups[number].get(place, 0)) for number, value in values.items()]
        return read_value
