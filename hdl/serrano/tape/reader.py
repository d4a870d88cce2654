# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a tape to headers and payloads, checked."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import ReadBeat
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.stream import ForwardRegister, StreamRegister
from serrano.stream.slices import later
from serrano.tape.crc import crc32_step
from serrano.tape.packets import HEADER_BYTES, WITH_PAYLOAD, Header, Opcode, PayloadUnit

__all__ = ["TapeReader"]

CRC_FIELD = 28
"""Offset of the CRC in a header; what is before it, and the payload, is covered."""

PAYLOAD_FIELD = 12
"""Offset of the payload's length."""

_ALL_ONES = (1 << 32) - 1


class TapeReader(wiring.Component):
    """Splits a run of tape into packet headers and payload units, and checks every packet.

    Takes a unit of the load path in every cycle, with no pause between packets: where that is wider than the
    port, it catches up after a wait. A header is given out when it is complete, its payload while it passes;
    the CRC is compared two cycles after the packet's last unit, with ``config.registered`` four, and then a
    header is found to be wrong two cycles later, and one more unit is taken behind a fault. ``checked``
    counts the packets whose check has passed since ``start``, with ``config.registered`` a cycle later;
    whoever commits a step waits for it. After a fault nothing more is taken until the block is reset.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    start : ``In(1)``
        The next unit is the first one of packet 0; to be set after a reset too. Packets follow in order; only
        END may come early.
    last_index : ``In(32)``
        Index of the END packet, wherever in a run it stands.
    units : ``In(stream.Signature(ReadBeat(config, load_beats)))``
        Bytes of the tape.
    headers : ``Out(stream.Signature(Header))``
        Header of each packet.
    payload : ``Out(stream.Signature(PayloadUnit(config)))``
        Payloads, without headers.
    checked : ``Out(32)``
        Packets found to be right since ``start``.
    fault : ``Out({"valid", "code", "index"})``
        Held from the first fault on: what is wrong, and the index of the packet.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        fault = data.StructLayout({"valid": 1, "code": FaultCode, "index": 32})
        super().__init__(
            {
                "start": In(1),
                "last_index": In(32),
                "units": In(stream.Signature(ReadBeat(config, config.load_beats))),
                "headers": Out(stream.Signature(Header)),
                "payload": Out(stream.Signature(PayloadUnit(config))),
                "checked": Out(32),
                "fault": Out(fault),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.config.load_bytes
        header_units = self.config.tape_align // width
        used_units = max(1, HEADER_BYTES // width)

        # Which unit of a header is next: none within a payload.
        place = Signal(header_units, init=1)
        header = Signal(Header)
        merged = Signal(Header)
        left = Signal(32)
        in_payload, take, packet_end = Signal(), Signal(), Signal()
        header_end = place[-1]
        content = Value.cast(self.units.payload.bytes)
        has_payload, single, final = Signal(), Signal(), Signal()
        size, domain = merged.payload_bytes, m.d.comb
        if self.config.registered and header_units - 1 - PAYLOAD_FIELD // width >= 2:
            # Known in time, if not in the cycle in which it comes.
            size, domain = header.payload_bytes, m.d.sync
        domain += [has_payload.eq(size != 0), single.eq(size == width)]

        m.d.comb += [
            merged.eq(header),
            packet_end.eq(Mux(in_payload, final, header_end & ~has_payload)),
        ]
        for unit in range(used_units):
            with m.If(place[unit]):
                low = 8 * width * unit
                m.d.comb += Value.cast(merged)[low : low + 8 * width].eq(content)
        self._build_flow(m, take, place, packet_end, in_payload, merged)
        # What no unit has brought is overwritten by the one that is awaited.
        m.d.sync += header.eq(merged)
        with m.If(take):
            m.d.sync += place.eq(Cat(packet_end, place)[:header_units])
            with m.If(in_payload):
                m.d.sync += [left.eq(left - width), final.eq(left == 2 * width)]
            with m.Else():
                m.d.sync += [left.eq(merged.payload_bytes), final.eq(single)]
            with m.If(packet_end):
                m.d.sync += in_payload.eq(0)
            with m.Elif(header_end):
                m.d.sync += in_payload.eq(1)

        # Before the first unit there is a start, also after a reset.
        expected, self._checked = Signal(32, reset_less=True), Signal(32, reset_less=True)
        m.d.comb += self.checked.eq(self._checked)
        wrong = self._build_header_check(m, take & header_end, merged, header, expected)
        corrupt = self._build_crc(m, take, in_payload, place, packet_end, merged)
        # It loads what would be told, until something is: that it is wrong shows late in the cycle.
        with m.If(~self.fault.valid):
            m.d.sync += [
                self.fault.valid.eq(corrupt.valid | wrong.valid),
                self.fault.code.eq(Mux(corrupt.valid, FaultCode.PACKET_CRC, wrong.code)),
                self.fault.index.eq(Mux(corrupt.valid, corrupt.index, wrong.index)),
            ]
        with m.If(self.start):
            m.d.sync += [expected.eq(0), self._checked.eq(0)]
        return m

    def _build_flow(
        self,
        m: Module,
        take: Signal,
        place: Signal,
        packet_end: Signal,
        in_payload: Signal,
        merged: Any,
    ) -> None:
        """Units go on while the header register or the payload register can take what they bring.

        With registers, while both can: less has to be known.
        """
        registered, header_end = self.config.registered, place[-1]
        header_free = ~self.headers.valid
        # A header of several units comes some cycles after the one before.
        early = registered and len(place) > 1
        if not early:
            header_free |= self.headers.ready
        payload_free = self._build_output(m, take & in_payload, packet_end)
        going = payload_free | (~in_payload & int(not registered))
        if early:
            # Its last unit waits, or the one before it, for what is known a cycle ago.
            blocked = self.fault.valid | (place[-2:].any() & self.headers.valid)
        else:
            going &= ~header_end | header_free
            blocked = self.fault.valid
        m.d.comb += [
            self.units.ready.eq(going & ~later(m, blocked, registered=registered, name="blocked")),
            take.eq(self.units.valid & self.units.ready),
        ]
        with m.If(self.headers.ready):
            m.d.sync += self.headers.valid.eq(0)
        with m.If(header_free):
            m.d.sync += self.headers.payload.eq(merged)
        with m.If(take & header_end):
            m.d.sync += self.headers.valid.eq(1)

    def _build_output(self, m: Module, given: Value, last: Value) -> Value:
        """The register of the payload, which takes a unit when one is ``given``; whether it can.

        With registers it has two places, so that this is known from the cycle before.
        """
        register = (StreamRegister if self.config.registered else ForwardRegister)(PayloadUnit(self.config))
        m.submodules.output_slice = register
        wiring.connect(m, register.o, wiring.flipped(self.payload))
        m.d.comb += [
            register.i.valid.eq(given),
            register.i.payload.bytes.eq(self.units.payload.bytes),
            register.i.payload.last.eq(last),
        ]
        return register.i.ready

    def _build_header_check(
        self, m: Module, complete: Value, merged: Any, kept: Any, expected: Signal
    ) -> Any:
        """What is wrong with a header that is complete: with registers, first what is known of it is kept."""
        wrong = Signal(data.StructLayout({"valid": 1, "code": FaultCode, "index": 32}))
        judged = Signal(data.StructLayout({"known": 1, "place": 1, "length": 1, "index": 32, "valid": 1}))
        index, final = Signal(32), Signal()
        header, domain = merged, m.d.comb
        if self.config.registered:
            completed = Signal()
            m.d.sync += completed.eq(complete)
            header, domain, complete = kept, m.d.sync, completed
        known, carries, has_payload, aligned = (Signal() for _ in range(4))
        # Long known in a header of several units.
        early = self.config.registered and self.config.tape_align // self.config.load_bytes > 2
        opcodes = m.d.sync if early else m.d.comb
        opcodes += [
            final.eq(header.opcode == Opcode.END.value),
            index.eq(Mux(final, self.last_index, expected)),
            known.eq(Cat(header.opcode == opcode.value for opcode in Opcode).any()),
            carries.eq(Cat(header.opcode == opcode.value for opcode in WITH_PAYLOAD).any()),
            has_payload.eq(header.payload_bytes != 0),
            aligned.eq((header.payload_bytes & (self.config.tape_align - 1)) == 0),
        ]
        domain += [
            judged.valid.eq(complete),
            judged.known.eq(known),
            judged.place.eq(header.index == index),
            judged.length.eq((carries == has_payload) & aligned),
            judged.index.eq(index),
        ]
        m.d.sync += expected.eq(expected + complete)
        m.d.comb += wrong.index.eq(judged.index)
        m.d.comb += [
            wrong.valid.eq(judged.valid & ~(judged.known & judged.place & judged.length)),
            wrong.code.eq(FaultCode.PACKET_LENGTH),
        ]
        with m.If(~judged.known):
            m.d.comb += wrong.code.eq(FaultCode.PACKET_OPCODE)
        with m.Elif(~judged.place):
            m.d.comb += wrong.code.eq(FaultCode.PACKET_INDEX)
        return wrong

    def _build_crc(
        self,
        m: Module,
        take: Value,
        in_payload: Signal,
        place: Signal,
        packet_end: Signal,
        merged: Any,
    ) -> Any:
        width = self.config.load_bytes
        whole_units, rest = divmod(CRC_FIELD, width)
        # Cycle 1: the unit, and how much of it counts. Without a unit it means nothing.
        stage = Signal(
            data.StructLayout({"valid": 1, "whole": 1, "partial": 1, "last": 1, "crc": 32, "index": 32})
        )
        content = Signal(8 * width, reset_less=True)
        m.d.sync += [
            stage.valid.eq(take),
            content.eq(self.units.payload.bytes),
            stage.whole.eq(in_payload | place[:whole_units].any()),
            stage.partial.eq(place[whole_units] & (rest != 0)),
            stage.last.eq(packet_end),
            stage.crc.eq(merged.crc),
            stage.index.eq(merged.index),
        ]
        # With registers, a cycle for what the unit does to the CRC, whatever that is.
        delta = Signal(32)
        domain = m.d.sync if self.config.registered else m.d.comb
        with m.If(stage.whole):
            domain += delta.eq(crc32_step(Const(0, 32), content, width))
        if rest:
            with m.Elif(stage.partial):
                domain += delta.eq(crc32_step(Const(0, 32), content, rest))
        unit = stage
        if self.config.registered:
            unit = Signal.like(stage, name="unit")
            m.d.sync += unit.eq(stage)
        # Cycle 2: the register.
        state, stepped = Signal(32, init=_ALL_ONES), Signal(32)
        done = Signal(data.StructLayout({"valid": 1, "found": 32, "crc": 32, "index": 32}))
        nothing = Const(0, 8 * width)
        m.d.comb += stepped.eq(state)
        with m.If(unit.whole):
            m.d.comb += stepped.eq(crc32_step(state, nothing, width) ^ delta)
        if rest:
            with m.Elif(unit.partial):
                m.d.comb += stepped.eq(crc32_step(state, nothing, rest) ^ delta)
        with m.If(unit.valid):
            m.d.sync += state.eq(Mux(unit.last, _ALL_ONES, stepped))
        m.d.sync += [
            done.valid.eq(unit.valid & unit.last),
            done.found.eq(~stepped),
            done.crc.eq(unit.crc),
            done.index.eq(unit.index),
        ]
        # Cycle 3: the comparison, and with registers a cycle more for what follows from it.
        compared = Signal(data.StructLayout({"right": 1, "wrong": 1, "index": 32}))
        corrupt = Signal(data.StructLayout({"valid": 1, "index": 32}))
        domain += [
            compared.right.eq(done.valid & (done.found == done.crc)),
            compared.wrong.eq(done.valid & (done.found != done.crc)),
            compared.index.eq(done.index),
        ]
        m.d.comb += [
            corrupt.valid.eq(compared.wrong),
            corrupt.index.eq(compared.index),
        ]
        passed = compared.right & ~self.fault.valid
        passed = later(m, passed, registered=self.config.registered, name="passed")
        m.d.sync += self._checked.eq(self._checked + passed)
        return corrupt
