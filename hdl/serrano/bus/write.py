# SPDX-License-Identifier: Apache-2.0
"""Sharing the write channels of the memory port."""

from collections.abc import Sequence
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from serrano.bus.axi import INCR, AXI4Write
from serrano.config import AcceleratorConfig
from serrano.stream import StreamFIFO

__all__ = ["WriteArbiter", "WritePort", "WriteRequest"]

OUTSTANDING = 16
"""Writes in flight at a time."""


class WriteRequest(data.StructLayout):
    """One beat to write: ``address`` is a multiple of the port width, ``strobe`` selects its bytes."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": config.address_bits,
                "bytes": data.ArrayLayout(unsigned(8), config.port_bytes),
                "strobe": config.port_bytes,
            }
        )


class WritePort(wiring.Signature):
    """A client's port: it requests writes; ``pending`` tells that one is not yet acknowledged."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"request": Out(stream.Signature(WriteRequest(config))), "pending": In(1)})


class WriteArbiter(wiring.Component):
    """Gives one AXI4 write port to several clients, the first one listed having priority.

    Every write is a burst of one beat. Up to 16 are in flight, under one id, answered in order. A client's
    ``pending`` is set from the cycle after its request is taken until the response has arrived. A write that
    was taken is always completed; while ``stop`` is set none is taken.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    clients : sequence of :class:`str`
        Names of the clients, in descending priority.

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
    fault : ``Out({"valid", "client", "address", "decode"})``
        Valid for one cycle per write that failed: client, address, DECERR rather than SLVERR.
    beats : ``Out(1)``
        A beat crosses the port in this cycle.
    """

    def __init__(self, config: AcceleratorConfig, clients: Sequence[str]):
        self.config = config
        self.clients = tuple(clients)
        self.client_bits = max(1, ceil_log2(len(self.clients)))
        fault = data.StructLayout(
            {"valid": 1, "client": self.client_bits, "address": config.address_bits, "decode": 1}
        )
        super().__init__(
            {
                "axi": Out(AXI4Write(config.address_bits, config.port_bytes)),
                "ports": In(WritePort(config)).array(len(self.clients)),
                "stop": In(1),
                "idle": Out(1),
                "fault": Out(fault),
                "beats": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi = self.axi
        order = data.StructLayout({"client": self.client_bits, "address": self.config.address_bits})
        m.submodules.order = order_fifo = StreamFIFO(order, OUTSTANDING)
        answered, free = Signal(), Signal()
        oldest = order_fifo.o.payload
        m.d.comb += [
            axi.bready.eq(order_fifo.o.valid),
            answered.eq(axi.bvalid & axi.bready),
            order_fifo.o.ready.eq(answered),
            self.fault.valid.eq(answered & axi.bresp[1]),
            self.fault.client.eq(oldest.client),
            self.fault.address.eq(oldest.address),
            self.fault.decode.eq(axi.bresp[0]),
            self.beats.eq(axi.wvalid & axi.wready),
            self.idle.eq(~axi.awvalid & ~axi.wvalid & (order_fifo.level == 0)),
            free.eq(
                (~axi.awvalid | axi.awready) & (~axi.wvalid | axi.wready) & order_fifo.i.ready & ~self.stop
            ),
            axi.awsize.eq(exact_log2(self.config.port_bytes)),
            axi.awburst.eq(INCR),
            axi.awcache.eq(0b0011),
            axi.wlast.eq(1),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        chosen = Const(0)
        for index, port in enumerate(self.ports):
            request, take = port.request, Signal()
            m.d.comb += [take.eq(request.valid & free & ~chosen), request.ready.eq(free & ~chosen)]
            chosen = chosen | request.valid
            with m.If(take):
                m.d.comb += [
                    order_fifo.i.valid.eq(1),
                    order_fifo.i.payload.client.eq(index),
                    order_fifo.i.payload.address.eq(request.payload.address),
                ]
                m.d.sync += [
                    axi.awvalid.eq(1),
                    axi.awaddr.eq(request.payload.address),
                    axi.wvalid.eq(1),
                    axi.wdata.eq(request.payload.bytes),
                    axi.wstrb.eq(request.payload.strobe),
                ]
            in_flight = Signal(range(OUTSTANDING + 1), name=f"{self.clients[index]}_in_flight")
            m.d.sync += in_flight.eq(in_flight + take - (answered & (oldest.client == index)))
            m.d.comb += port.pending.eq(in_flight != 0)
        return m
