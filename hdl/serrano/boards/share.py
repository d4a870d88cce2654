# SPDX-License-Identifier: Apache-2.0
"""Two managers at one AXI4 subordinate."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus.axi import AXI4Read, AXI4Write
from serrano.bus.slice import AXISlice
from serrano.stream import StreamRegister

__all__ = ["AXIShare"]

MANAGERS = 2


class AXIShare(wiring.Component):
    """Lets two managers use a subordinate in turn.

    A burst's ID is the manager's number: what the managers give as ID is not passed on, and they get 0. So
    each of them is answered in the order of its requests, if the subordinate keeps the order of an ID. A
    manager that does not take its answers holds up the other one where the subordinate answers in order.
    Register slices keep the managers' logic and the subordinate's apart.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of addresses.
    data_bytes : :class:`int`
        Bytes per beat.

    Members
    -------
    reads : ``In(AXI4Read(address_bits, data_bytes)).array(2)``
        Read channels of the managers.
    writes : ``In(AXI4Write(address_bits, data_bytes)).array(2)``
        Write channels of the managers.
    read : ``Out(AXI4Read(address_bits, data_bytes))``
        Read channels of the subordinate.
    write : ``Out(AXI4Write(address_bits, data_bytes))``
        Write channels of the subordinate.
    """

    def __init__(self, address_bits: int, data_bytes: int):
        read, write = AXI4Read(address_bits, data_bytes), AXI4Write(address_bits, data_bytes)
        super().__init__(
            {
                "reads": In(read).array(MANAGERS),
                "writes": In(write).array(MANAGERS),
                "read": Out(read),
                "write": Out(write),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._managers = {}
        for name, ports in (("read", self.reads), ("write", self.writes)):
            self._managers[name] = [self._sliced(m, f"{name}_{i}", port) for i, port in enumerate(ports)]
        self._build_reads(m)
        self._build_writes(m)
        return m

    def _sliced(self, m: Module, name: str, port: Any) -> Any:
        """A manager's port, behind a register slice."""
        m.submodules[name] = register = AXISlice(port.signature.flip())
        wiring.connect(m, wiring.flipped(port), register.i)
        return register.o

    def _build_reads(self, m: Module) -> None:
        read, managers = self.read, self._managers["read"]
        last = Signal()
        free = ~read.arvalid | read.arready
        chosen = Mux(last, ~managers[0].arvalid, managers[1].arvalid)
        with m.If(read.arready):
            m.d.sync += read.arvalid.eq(0)
        for number, manager in enumerate(managers):
            mine = chosen == number
            m.d.comb += [
                manager.arready.eq(free & mine),
                manager.rvalid.eq(read.rvalid & (read.rid == number)),
                manager.rdata.eq(read.rdata),
                manager.rresp.eq(read.rresp),
                manager.rlast.eq(read.rlast),
            ]
            with m.If(manager.arvalid & manager.arready):
                m.d.sync += [read.arvalid.eq(1), read.arid.eq(number), last.eq(number)]
                m.d.sync += [
                    getattr(read, name).eq(getattr(manager, name))
                    for name in ("araddr", "arlen", "arsize", "arburst", "arlock", "arcache", "arprot")
                ]
        m.d.comb += read.rready.eq(Mux(read.rid[0], managers[1].rready, managers[0].rready))

    def _build_writes(self, m: Module) -> None:
        write, managers = self.write, self._managers["write"]
        last, owner, busy = Signal(), Signal(), Signal()
        free = ~busy & (~write.awvalid | write.awready)
        word = data.StructLayout({"data": write.wdata.shape(), "strobe": write.wstrb.shape(), "last": 1})
        m.submodules.words = words = StreamRegister(word)
        chosen = Mux(last, ~managers[0].awvalid, managers[1].awvalid)
        with m.If(write.awready):
            m.d.sync += write.awvalid.eq(0)
        for number, manager in enumerate(managers):
            m.d.comb += [
                manager.awready.eq(free & (chosen == number)),
                manager.bvalid.eq(write.bvalid & (write.bid == number)),
                manager.bresp.eq(write.bresp),
            ]
            with m.If(manager.awvalid & manager.awready):
                m.d.sync += [write.awvalid.eq(1), write.awid.eq(number)]
                m.d.sync += [last.eq(number), owner.eq(number), busy.eq(1)]
                m.d.sync += [
                    getattr(write, name).eq(getattr(manager, name))
                    for name in ("awaddr", "awlen", "awsize", "awburst", "awlock", "awcache", "awprot")
                ]
            # Data of a burst goes on until its last beat; then the next burst may come.
            with m.If(busy & (owner == number)):
                m.d.comb += [
                    words.i.payload.data.eq(manager.wdata),
                    words.i.payload.strobe.eq(manager.wstrb),
                    words.i.payload.last.eq(manager.wlast),
                    words.i.valid.eq(manager.wvalid),
                    manager.wready.eq(words.i.ready),
                ]
        with m.If(words.i.valid & words.i.ready & words.i.payload.last):
            m.d.sync += busy.eq(0)
        m.d.comb += [
            write.wdata.eq(words.o.payload.data),
            write.wstrb.eq(words.o.payload.strobe),
            write.wlast.eq(words.o.payload.last),
            write.wvalid.eq(words.o.valid),
            words.o.ready.eq(write.wready),
        ]
        m.d.comb += write.bready.eq(Mux(write.bid[0], managers[1].bready, managers[0].bready))
