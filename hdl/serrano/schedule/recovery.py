# SPDX-License-Identifier: Apache-2.0
"""What happens when something goes wrong in a step."""

from collections.abc import Collection
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import BusFault
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.layouts import tag_bits
from serrano.stream.slices import later

__all__ = ["FaultRecord", "PacketFault", "Recovery"]

FLUSH_CYCLES = 8
"""Longer than any look-up on its way between a block that is reset and one that is not; twice that with
registers."""

WRITE = 0x80
"""Bit of a fault's detail that says that the client is one of the write port."""


class PacketFault(data.Struct):
    """Something wrong with a packet, or found while it was executed."""

    valid: unsigned(1)
    code: FaultCode
    index: unsigned(32)
    detail: unsigned(8)


class FaultRecord(data.StructLayout):
    """The first fault since the last clear, and the number of faults.

    ``packet`` and ``sequence`` are 0 if a client apart from steps had it. ``detail`` of an error of the
    memory is the client's number, plus 128 if it was a write.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "code": FaultCode,
                "packet": 32,
                "sequence": 16,
                "detail": 8,
                "address": config.address_bits,
                "count": 32,
            }
        )


class Recovery(wiring.Component):
    """Ends a step that went wrong: stops the bus, waits until it is silent, resets the data path.

    A fault while ``running`` sets ``stop`` until the memory port is idle, then ``flush`` for one cycle,
    which is to reset everything that holds data of the step, and with it ``failed``. The step may be tried
    again if the fault concerns the tape. One of the KV cache is the ``own`` fault of the sequence that the
    request was tagged with. A fault while no step runs is only recorded, and so is, at any time,
    an error of the memory that a client ``apart`` from steps got: the bus neither stops nor flushes such a
    client, so that what it is doing and what happens to steps do not touch each other. The watchdog is a
    fault of its own: ``watchdog`` cycles, if not 0, in which ``progress`` was not set.

    With ``config.registered`` all of this begins a cycle after the fault has come, ``stop`` and ``flush``
    come and go another cycle later, as does the record, and the memory port counts as idle when it has been
    so for as many cycles as ``flush`` takes.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    tape_clients : collection of :class:`int`
        Clients of the read port that read the tape.
    kv_reader, kv_writer : :class:`int`
        Clients of the read port and of the write port whose requests are tagged with a sequence.

    Members
    -------
    running : ``In(1)``
        A step is being executed.
    progress : ``In(1)``
        Something moved.
    watchdog : ``In(32)``
        Patience in cycles.
    packet, sequence : ``In(32)``, ``In(16)``
        What is being executed.
    read, write : ``In(BusFault(config))``
        Errors of the memory.
    tape, execution, refused : ``In(PacketFault)``
        Errors found in the tape, during execution, and by the scheduler outside steps; ``valid`` may stay
        set.
    idle : ``In(1)``
        The memory port is silent, clients apart aside.
    stop, flush : ``Out(1)``
        See above.
    failed, retry, code : ``Out(1)``, ``Out(1)``, ``Out(FaultCode)``
        The step has been given up, whether it may be tried again, and why.
    own, own_sequence : ``Out(1)``, ``Out(range)``
        With ``failed``: it concerns one sequence alone, and which.
    clear : ``In(1)``
        Forget the record.
    record : ``Out(FaultRecord(config))``
        First fault and count.
    recorded : ``Out({"valid", "code"})``
        A fault is counted: valid for one cycle.
    """

    def __init__(
        self, config: AcceleratorConfig, tape_clients: Collection[int], kv_reader: int, kv_writer: int
    ):
        self.config = config
        self.tape_clients = tuple(tape_clients)
        self.kv_reader, self.kv_writer = kv_reader, kv_writer
        super().__init__(
            {
                "running": In(1),
                "progress": In(1),
                "watchdog": In(32),
                "packet": In(32),
                "sequence": In(16),
                "read": In(BusFault(config)),
                "write": In(BusFault(config)),
                "tape": In(PacketFault),
                "execution": In(PacketFault),
                "refused": In(PacketFault),
                "idle": In(1),
                "stop": Out(1),
                "flush": Out(1),
                "failed": Out(1),
                "retry": Out(1),
                "code": Out(FaultCode),
                "own": Out(1),
                "own_sequence": Out(tag_bits(config)),
                "clear": In(1),
                "record": Out(FaultRecord(config)),
                "recorded": Out(data.StructLayout({"valid": 1, "code": FaultCode})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        registered = self.config.registered
        cycles = FLUSH_CYCLES * (1 + registered)
        cycle, final = Signal(range(cycles)), Signal()
        # The scheduler has a cycle for the news.
        ends = self._taken(m, final)
        watching, fault, stop, flush = (Signal() for _ in range(4))
        bus, packet = self._build_bus_fault(m, watching), self._build_packet_fault(m)
        found = self._build_first(m, bus, packet, watching, fault)
        idle = self._taken(m, self.idle)
        m.d.comb += [
            self.stop.eq(self._taken(m, stop)),
            self.flush.eq(self._taken(m, flush)),
            # It is not set outside of FLUSH.
            self.failed.eq(final),
        ]
        with m.FSM():
            with m.State("WATCH"):
                m.d.comb += watching.eq(1)
                with m.If(fault & self.running):
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += stop.eq(1)
                if registered:
                    m.d.sync += cycle.eq(Mux(idle, cycle + 1, 0))
                with m.If(idle & (cycle == (cycles - 1) * registered)):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += [stop.eq(1), flush.eq(1)]
                m.d.sync += [cycle.eq(cycle + 1), final.eq(cycle == cycles - 2 - registered)]
                with m.If(ends):
                    m.d.sync += cycle.eq(0)
                    m.next = "WATCH"
        with m.If(found.fault):
            m.d.sync += [
                self.code.eq(found.first.code),
                self.retry.eq(found.of_tape),
                self.own.eq(found.of_sequence),
                self.own_sequence.eq(found.first.sequence),
            ]
        self._build_record(m, found.first, found.fault, found.failures)
        return m

    def _build_record(self, m: Module, first: Any, fault: Signal, failures: Signal) -> None:
        m.d.comb += [
            self.recorded.valid.eq(fault | (failures != 0)),
            self.recorded.code.eq(first.code),
        ]
        counted = Mux(self.clear, 0, self.record.count)
        # Nothing is recorded.
        empty = Signal(init=1)
        m.d.sync += empty.eq((empty | self.clear) & ~self.recorded.valid)
        with m.If(self.clear):
            m.d.sync += self.record.eq(0)
        with m.If(self.recorded.valid):
            with m.If(empty | self.clear):
                m.d.sync += self.record.eq(first)
            m.d.sync += self.record.count.eq(counted + fault + failures)

    def _build_first(self, m: Module, bus: Any, packet: Any, watching: Signal, fault: Signal) -> Any:
        """What is wrong: with the step or between steps if that is a ``fault``, otherwise with a client
        apart. Also whether it concerns the tape, or the KV cache of a sequence, and how many errors clients
        apart had. With registers as of the cycle before."""
        layout = {"fault": 1, "first": FaultRecord(self.config), "of_tape": 1, "of_sequence": 1}
        found = Signal(data.StructLayout({**layout, "failures": 2}))
        first, of_tape, of_sequence = found.first, found.of_tape, found.of_sequence
        expired, by_bus = self._build_watchdog(m), Signal()
        m.d.comb += [
            fault.eq(watching & (bus.step | packet.valid | expired)),
            by_bus.eq(bus.step | ~fault),
        ]
        fault, by_bus = self._taken(m, fault), self._taken(m, by_bus)
        bus, packet = self._taken(m, bus), self._taken(m, packet)
        m.d.comb += [
            found.fault.eq(fault),
            found.failures.eq(bus.failures),
            first.packet.eq(Mux(fault, self.packet, 0)),
            first.sequence.eq(Mux(fault, self.sequence, 0)),
        ]
        with m.If(by_bus):
            m.d.comb += [
                first.code.eq(bus.code),
                first.detail.eq(bus.detail),
                first.address.eq(bus.address),
                of_tape.eq(bus.of_tape),
                of_sequence.eq(bus.of_sequence),
            ]
            with m.If(bus.of_sequence):
                m.d.comb += first.sequence.eq(bus.tag)
        with m.Elif(packet.valid):
            m.d.comb += [
                first.code.eq(packet.code),
                first.packet.eq(packet.index),
                first.detail.eq(packet.detail),
                of_tape.eq(packet.of_tape),
            ]
        with m.Else():
            m.d.comb += first.code.eq(FaultCode.WATCHDOG)
        return found

    def _build_bus_fault(self, m: Module, watching: Signal) -> Any:
        """An error of the memory, that of a step before that of a client apart; how many are of those."""
        layout = {"step": 1, "of_tape": 1, "of_sequence": 1, "failures": 2, "code": FaultCode, "detail": 8}
        layout |= {"address": self.config.address_bits, "tag": tag_bits(self.config)}
        found = Signal(data.StructLayout(layout))
        ports = ((self.read, 0, self.kv_reader, self.tape_clients), (self.write, WRITE, self.kv_writer, ()))
        apart = [port.valid & port.apart for port, *_ in ports]
        watching = self._taken(m, self._taken(m, watching))
        m.d.comb += [found.failures.eq(sum(apart)), found.step.eq(0)]
        # The last one wins.
        for (port, number, *_), theirs in reversed(tuple(zip(ports, apart, strict=True))):
            with m.If(theirs):
                self._take_bus_fault(m, found, port, number)
        for port, number, kv_client, tape_clients in reversed(ports):
            with m.If(port.valid & ~port.apart & watching):
                self._take_bus_fault(m, found, port, number)
                m.d.comb += [
                    found.step.eq(1),
                    found.of_tape.eq(Cat(port.client == client for client in tape_clients).any()),
                    found.of_sequence.eq(port.client == kv_client),
                ]
        return self._taken(m, found)

    def _build_packet_fault(self, m: Module) -> Any:
        """What was found in the tape, during execution, or by the scheduler."""
        layout = {"valid": 1, "of_tape": 1, "code": FaultCode, "index": 32, "detail": 8}
        found = Signal(data.StructLayout(layout))
        m.d.comb += [
            found.valid.eq(self.tape.valid | self.execution.valid | self.refused.valid),
            found.of_tape.eq(self.tape.valid),
        ]
        chosen = Mux(self.execution.valid, Value.cast(self.execution), Value.cast(self.refused))
        fault = Signal(PacketFault)
        m.d.comb += [
            fault.eq(Mux(self.tape.valid, Value.cast(self.tape), chosen)),
            found.code.eq(fault.code),
            found.index.eq(fault.index),
            found.detail.eq(fault.detail),
        ]
        return self._taken(m, found)

    def _build_watchdog(self, m: Module) -> Signal:
        waited, expired, moved = Signal(32), Signal(), Signal()
        expiring = self._taken(m, (self.watchdog != 0) & (waited >= self.watchdog))
        m.d.comb += [moved.eq(self._taken(m, self.progress)), expired.eq(expiring & self.running)]
        with m.If(moved | ~self.running | self.stop):
            m.d.sync += waited.eq(0)
        with m.Else():
            m.d.sync += waited.eq(waited + 1)
        return expired

    def _taken(self, m: Module, value: Any) -> Any:
        """The value, with registers that of the cycle before."""
        return later(m, value, registered=self.config.registered, name="late")

    def _take_bus_fault(self, m: Module, found: Any, fault: Any, port: int) -> None:
        m.d.comb += [
            found.code.eq(Mux(fault.decode, FaultCode.BUS_DECERR.value, FaultCode.BUS_SLVERR.value)),
            found.detail.eq(port | fault.client),
            found.address.eq(fault.address),
            found.tag.eq(fault.tag),
        ]
