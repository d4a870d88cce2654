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
"""Longer than any look-up on its way between a block that is reset and one that is not."""

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

    With ``config.registered`` all of this begins a cycle after the fault has come.

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
        found, of_tape, of_sequence, outside, failures = (
            self._taken(m, value) for value in (*self._build_found(m), *self._build_outside(m))
        )
        fault = Signal()
        flushed, final = Signal(range(FLUSH_CYCLES)), Signal()
        with m.FSM():
            with m.State("WATCH"):
                m.d.comb += fault.eq(found.code != FaultCode.NONE)
                with m.If(fault):
                    m.d.sync += [
                        self.code.eq(found.code),
                        self.retry.eq(of_tape),
                        self.own.eq(of_sequence),
                        self.own_sequence.eq(found.sequence),
                    ]
                    with m.If(self.running):
                        m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += self.stop.eq(1)
                with m.If(self.idle):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += [self.stop.eq(1), self.flush.eq(1)]
                m.d.sync += [flushed.eq(flushed + 1), final.eq(flushed == FLUSH_CYCLES - 2)]
                with m.If(final):
                    m.d.sync += flushed.eq(0)
                    m.d.comb += self.failed.eq(1)
                    m.next = "WATCH"

        first = Signal(FaultRecord(self.config))
        m.d.comb += [
            first.eq(Mux(fault, Value.cast(found), Value.cast(outside))),
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
        return m

    def _build_found(self, m: Module) -> tuple[Any, Signal, Signal]:
        """What went wrong with the step, or between steps, and whether it concerns the tape, or the KV cache
        of a sequence."""
        found = Signal(FaultRecord(self.config))
        expired = self._build_watchdog(m)
        of_tape, of_sequence = Signal(), Signal()
        read_tape = Cat(self.read.client == client for client in self.tape_clients).any()
        m.d.comb += [found.packet.eq(self.packet), found.sequence.eq(self.sequence)]
        with m.If(self.read.valid & ~self.read.apart):
            self._take_bus_fault(m, found, self.read)
            m.d.comb += [of_tape.eq(read_tape), of_sequence.eq(self.read.client == self.kv_reader)]
            with m.If(of_sequence):
                m.d.comb += found.sequence.eq(self.read.tag)
        with m.Elif(self.write.valid & ~self.write.apart):
            self._take_bus_fault(m, found, self.write, WRITE)
            m.d.comb += of_sequence.eq(self.write.client == self.kv_writer)
            with m.If(of_sequence):
                m.d.comb += found.sequence.eq(self.write.tag)
        with m.Elif(self.tape.valid):
            self._take_packet_fault(m, found, self.tape)
            m.d.comb += of_tape.eq(1)
        with m.Elif(self.execution.valid):
            self._take_packet_fault(m, found, self.execution)
        with m.Elif(self.refused.valid):
            self._take_packet_fault(m, found, self.refused)
        with m.Elif(expired):
            m.d.comb += found.code.eq(FaultCode.WATCHDOG)
        return found, of_tape, of_sequence

    def _build_outside(self, m: Module) -> tuple[Any, Signal]:
        """The error that a client apart from steps got, if any, and how many got one."""
        outside = Signal(FaultRecord(self.config))
        read, write = self.read.valid & self.read.apart, self.write.valid & self.write.apart
        failures = Signal(2)
        m.d.comb += failures.eq(read + write)
        with m.If(read):
            self._take_bus_fault(m, outside, self.read)
        with m.Elif(write):
            self._take_bus_fault(m, outside, self.write, WRITE)
        return outside, failures

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

    def _take_bus_fault(self, m: Module, found: Any, fault: Any, port: int = 0) -> None:
        m.d.comb += [
            found.code.eq(Mux(fault.decode, FaultCode.BUS_DECERR.value, FaultCode.BUS_SLVERR.value)),
            found.detail.eq(port | fault.client),
            found.address.eq(fault.address),
        ]

    def _take_packet_fault(self, m: Module, found: Any, fault: Any) -> None:
        m.d.comb += [
            found.code.eq(fault.code),
            found.packet.eq(fault.index),
            found.detail.eq(fault.detail),
        ]
