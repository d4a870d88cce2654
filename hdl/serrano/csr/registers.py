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
from serrano.csr.table import COUNTER_BASE, COUNTERS, IDENTITY, REGISTERS, VERSION, Access

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
    time. An answer comes a cycle after its address, with ``config.registered`` three.

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
        Value of the last write; set for one cycle, the first in which that value is seen.
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
        write, address, word, strobe = self._build_write_channel(m)
        mask = Cat(bit.replicate(8) for bit in strobe)
        for entry in REGISTERS:
            if entry.access in (Access.CONSTANT, Access.READ_ONLY):
                continue
            value, chosen = getattr(self, entry.attribute), Signal(name=f"{entry.attribute}_chosen")
            m.d.comb += chosen.eq(write & (address == entry.offset >> 2))
            if entry.access is Access.CLEAR:
                cleared = Mux(chosen, word & mask, 0)
                m.d.sync += value.eq(value & ~cleared | getattr(self, f"{entry.attribute}_set"))
                continue
            with m.If(chosen):
                m.d.sync += value.eq(value & ~mask | word & mask)
            if entry.access is Access.COMMAND:
                m.d.sync += getattr(self, f"{entry.attribute}_write").eq(chosen)
        self._build_read_channel(m)
        return m

    def _build_write_channel(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        bus = self.bus
        write, address = Signal(), Signal(ADDRESS_BITS - 2)
        word, strobe = Signal(32), Signal(4)
        m.d.comb += [
            # Address and data are taken together, when both are there.
            write.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            bus.awready.eq(write),
            bus.wready.eq(write),
            address.eq(bus.awaddr[2:]),
            word.eq(bus.wdata),
            strobe.eq(bus.wstrb),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += bus.bvalid.eq(1)
        return write, address, word, strobe

    def _build_read_channel(self, m: Module) -> None:
        bus, counters = self.bus, self.counters
        address, taken = Signal(ADDRESS_BITS - 2), Signal()
        value, counter, upper = Signal(32), Signal(), Signal()
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
            m.d.comb += bus.rdata.eq(Mux(counter, counters.value.word_select(upper, 32), value))
        else:
            # Cycle 1: the address. Cycle 2: a register of each group. Cycle 3: that of one group.
            cycle = Signal(2)
            chosen = self._build_choice(m, m.d.sync, address)
            m.d.comb += [bus.arready.eq((cycle == 0) & ~bus.rvalid & ~counters.busy), taken.eq(cycle == 1)]
            m.d.sync += cycle.eq(Mux(cycle == 2, 0, cycle + (cycle.any() | (bus.arvalid & bus.arready))))
            with m.If(bus.arready):
                m.d.sync += address.eq(bus.araddr[2:])
            with m.If(cycle == 2):
                found = Mux(counter, counters.value.word_select(upper, 32), chosen)
                m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(found)]
            with m.Elif(bus.rready):
                m.d.sync += bus.rvalid.eq(0)
        index_bits = len(counters.index)
        m.d.comb += [counters.en.eq(taken), counters.index.eq(address[1:])]
        with m.If(taken):
            base = COUNTER_BASE >> 3 + index_bits
            among = (address[1 + index_bits :] == base) & (counters.index < len(COUNTERS))
            m.d.sync += [counter.eq(among), upper.eq(address[0])]

    def _build_choice(self, m: Module, domain: Any, address: Value) -> Value:
        """The register at an address: one of each group in ``domain``, and of these one."""
        fixed, groups = constants(self.config), {}
        for entry in REGISTERS:
            if entry.offset >= COUNTER_BASE:
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
