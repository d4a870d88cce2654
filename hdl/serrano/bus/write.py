# SPDX-License-Identifier: Apache-2.0
"""Sharing the write channels of the memory port."""

from collections.abc import Collection, Sequence
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus.axi import INCR, AXI4Write
from serrano.bus.faults import BusFault, client_bits
from serrano.config import AcceleratorConfig
from serrano.layouts import tag_bits
from serrano.stream import StreamFIFO, StreamRegister
from serrano.stream.slices import later

__all__ = ["WriteArbiter", "WritePort", "WriteRequest"]

OUTSTANDING = 64
"""Writes in flight at a time: one per cycle up to a latency of about 60 cycles."""

WAITING = 4
"""Writes of a client that are taken, but not in flight yet, or answered and not yet counted so."""


class WriteRequest(data.StructLayout):
    """One beat to write: ``address`` is a multiple of the port width, ``strobe`` selects its bytes.

    ``tag`` comes back with a fault: the sequence whose data it is, 0 where it is nobody's.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": config.address_bits,
                "bytes": data.ArrayLayout(unsigned(8), config.port_bytes),
                "strobe": config.port_bytes,
                "tag": tag_bits(config),
            }
        )


class WritePort(wiring.Signature):
    """A client's port: it requests writes; ``pending`` tells that one is not yet acknowledged.

    ``error`` is set for one cycle per write that failed, ``pending`` still being set.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(WriteRequest(config))),
                "pending": In(1),
                "error": In(1),
            }
        )


class WriteArbiter(wiring.Component):
    """Gives one AXI4 write port to several clients, the first one listed having priority.

    Every write is a burst of one beat. Up to 64 are in flight, under one id, answered in order. A client's
    ``pending`` is set from the cycle after its request is taken until the response has arrived. A write that
    was taken is always completed. While ``stop`` is set none is taken of clients that are not ``apart``, and
    ``idle`` tells that none of theirs is in flight; those apart go on as if nothing happened.

    With ``config.registered`` there is a register slice behind each client, ``stop`` works and errors are
    told a cycle later, and ``pending`` falls two cycles later. As before, one write may be taken per cycle.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    clients : sequence of :class:`str`
        Names of the clients, in descending priority; at most 16.
    apart : collection of :class:`str`
        Those that are not part of a step.

    Members
    -------
    axi : ``Out(AXI4Write)``
        Memory port.
    ports : ``In(WritePort(config)).array(len(clients))``
        Port of each client, in the order of ``clients``.
    stop : ``In(1)``
        Take no requests.
    idle : ``Out(1)``
        Nothing is in flight.
    fault : ``Out(BusFault(config))``
        Valid for one cycle per write that failed.
    beats : ``Out(1)``
        A beat crosses the port in this cycle.

    Raises
    ------
    ValueError
        If there are no clients, more than 16, or two of the same name, or if one apart is not among them.
    """

    def __init__(self, config: AcceleratorConfig, clients: Sequence[str], apart: Collection[str] = ()):
        self.config = config
        self.clients = tuple(clients)
        self.apart = frozenset(apart)
        self.client_bits = client_bits(self.clients)
        if unknown := self.apart - set(self.clients):
            raise ValueError(f"Clients apart must be clients, not {sorted(unknown)!r}")
        super().__init__(
            {
                "axi": Out(AXI4Write(config.address_bits, config.port_bytes)),
                "ports": In(WritePort(config)).array(len(self.clients)),
                "stop": In(1),
                "idle": Out(1),
                "fault": Out(BusFault(config)),
                "beats": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi = self.axi
        order = data.StructLayout(
            {
                "client": self.client_bits,
                "apart": 1,
                "address": self.config.address_bits,
                "tag": tag_bits(self.config),
            }
        )
        m.submodules.order = order_fifo = StreamFIFO(order, OUTSTANDING)
        free, ordered = Signal(), Signal()
        issued = Signal(data.StructLayout({"valid": 1, "order": order}))
        domain = m.d.sync if self.config.registered else m.d.comb
        m.d.comb += [order_fifo.i.valid.eq(issued.valid), order_fifo.i.payload.eq(issued.order)]
        busy = Signal(len(self.clients))
        answer = self._build_answers(m, order_fifo)
        stopped = later(m, self.stop, registered=self.config.registered, name="stopped")
        m.d.comb += [
            self.beats.eq(axi.wvalid & axi.wready),
            self.idle.eq(~busy.any()),
            free.eq((~axi.awvalid | axi.awready) & (~axi.wvalid | axi.wready) & ordered),
            axi.awsize.eq(exact_log2(self.config.port_bytes)),
            axi.awburst.eq(INCR),
            axi.awcache.eq(0b0011),
            axi.wlast.eq(1),
        ]
        if self.config.registered:
            # Two more may have been issued since.
            m.d.sync += ordered.eq(order_fifo.level < OUTSTANDING - 2)
        else:
            m.d.comb += ordered.eq(order_fifo.i.ready)
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        chosen = Const(0)
        picked = Signal(
            data.StructLayout({"order": order, "bytes": len(axi.wdata), "strobe": len(axi.wstrb)})
        )
        for index, (name, port) in enumerate(zip(self.clients, self.ports, strict=True)):
            apart = name in self.apart
            go = Const(1) if apart else ~stopped
            request, entered = self._build_entrance(m, name, port.request, go)
            mine, ended = Signal(), Signal()
            m.d.comb += request.ready.eq(free & ~chosen)
            with m.If(request.valid & ~chosen):
                m.d.comb += [
                    picked.order.client.eq(index),
                    picked.order.apart.eq(int(apart)),
                    picked.order.address.eq(request.payload.address),
                    picked.order.tag.eq(request.payload.tag),
                    picked.bytes.eq(request.payload.bytes),
                    picked.strobe.eq(request.payload.strobe),
                ]
            chosen = chosen | request.valid
            in_flight = Signal(range(OUTSTANDING + WAITING + 1), name=f"{name}_in_flight")
            m.d.sync += in_flight.eq(in_flight + entered - ended)
            # Nobody is to think that all is well before its fault has been looked at.
            domain += ended.eq(mine)
            m.d.comb += [
                mine.eq(answer.valid & (answer.client == index)),
                port.pending.eq(in_flight != 0),
                port.error.eq(mine & answer.failed),
                busy[index].eq((in_flight != 0) & int(not apart)),
            ]
        domain += [issued.valid.eq(free & chosen), issued.order.eq(picked.order)]
        # Without a request what is taken means nothing.
        with m.If(free):
            m.d.sync += [
                axi.awvalid.eq(chosen),
                axi.awaddr.eq(picked.order.address),
                axi.wvalid.eq(chosen),
                axi.wdata.eq(picked.bytes),
                axi.wstrb.eq(picked.strobe),
            ]
        return m

    def _build_answers(self, m: Module, order_fifo: StreamFIFO) -> Any:
        """The answer of this cycle, with registers that of the last one, and its fault."""
        axi, oldest = self.axi, order_fifo.o.payload
        answered = Signal()
        answer = Signal(data.StructLayout({"valid": 1, "client": self.client_bits, "failed": 1}))
        m.d.comb += [
            axi.bready.eq(order_fifo.o.valid),
            answered.eq(axi.bvalid & axi.bready),
            order_fifo.o.ready.eq(answered),
        ]
        domain = m.d.sync if self.config.registered else m.d.comb
        domain += [
            answer.valid.eq(answered),
            answer.client.eq(oldest.client),
            answer.failed.eq(axi.bresp[1]),
            self.fault.valid.eq(answered & axi.bresp[1]),
            self.fault.client.eq(oldest.client),
            self.fault.address.eq(oldest.address),
            self.fault.decode.eq(axi.bresp[0]),
            self.fault.apart.eq(oldest.apart),
            self.fault.tag.eq(oldest.tag),
        ]
        return answer

    def _build_entrance(self, m: Module, name: str, request: Any, go: Value) -> tuple[Any, Value]:
        """A client's requests while it may go, and whether one is taken in this cycle."""
        if self.config.registered:
            m.submodules[f"{name}_slice"] = register = StreamRegister(request.payload.shape())
            entrance, inner = register.i, register.o
        else:
            entrance = inner = stream.Signature(request.payload.shape()).create(path=(name,))
        m.d.comb += [
            entrance.valid.eq(request.valid & go),
            entrance.payload.eq(request.payload),
            request.ready.eq(entrance.ready & go),
        ]
        return inner, request.valid & request.ready
