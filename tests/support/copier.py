# SPDX-License-Identifier: Apache-2.0
"""A small AXI4 manager for tests of the memory model: copies bursts, and breaks the protocol on request."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.bus.axi import INCR, AXI4Read, AXI4Write

__all__ = ["Copier", "Copiers"]


class Copier(wiring.Component):
    """Reads bursts and writes each beat in the cycle in which it arrives."""

    def __init__(self, width_bytes):
        super().__init__(
            {
                "read": Out(AXI4Read(32, width_bytes)),
                "write": Out(AXI4Write(32, width_bytes)),
                "start": In(1),
                "source": In(32),
                "target": In(32),
                "bursts": In(16),
                "last_beat": In(8),
                "size": In(3),
                "strobe": In(width_bytes),
                "drop_valid": In(1),  # ARVALID falls after a cycle in which it was not taken
                "wrong_last": In(1),  # WLAST on every beat
                "done": Out(1),
                "errors": Out(16),
                "read_delay": Out(16),  # cycles from the first read address to the first beat
                "write_delay": Out(16),  # cycles from the last beat of data to its response
                "duration": Out(32),  # cycles from the start to the last response
                "beat_valid": Out(1),
                "beat_data": Out(8 * width_bytes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        active = Signal()
        stride = (self.last_beat + 1) << self.size
        ar, aw = self.read, self.write
        read_count, write_count, done_count = Signal(16), Signal(16), Signal(16)
        dropped = Signal()
        m.d.sync += dropped.eq(ar.arvalid & ~ar.arready & self.drop_valid)
        m.d.comb += [
            ar.arvalid.eq(active & (read_count != self.bursts) & ~dropped),
            ar.arlen.eq(self.last_beat),
            ar.arsize.eq(self.size),
            ar.arburst.eq(INCR),
            ar.arid.eq(read_count[:4]),
            aw.awvalid.eq(active & (write_count != self.bursts)),
            aw.awlen.eq(self.last_beat),
            aw.awsize.eq(self.size),
            aw.awburst.eq(INCR),
            aw.awid.eq(write_count[:4]),
            aw.wvalid.eq(ar.rvalid),
            ar.rready.eq(aw.wready),
            aw.wdata.eq(ar.rdata),
            aw.wstrb.eq(self.strobe),
            aw.wlast.eq(ar.rlast | self.wrong_last),
            aw.bready.eq(1),
            self.beat_valid.eq(ar.rvalid & ar.rready),
            self.beat_data.eq(ar.rdata),
        ]
        with m.If(ar.arvalid & ar.arready):
            m.d.sync += [read_count.eq(read_count + 1), ar.araddr.eq(ar.araddr + stride)]
        with m.If(aw.awvalid & aw.awready):
            m.d.sync += [write_count.eq(write_count + 1), aw.awaddr.eq(aw.awaddr + stride)]
        with m.If(aw.bvalid):
            m.d.sync += done_count.eq(done_count + 1)
            with m.If(done_count == self.bursts - 1):
                m.d.sync += [active.eq(0), self.done.eq(1)]
        bad = (self.beat_valid & (ar.rresp != 0)) + (aw.bvalid & (aw.bresp != 0))
        m.d.sync += self.errors.eq(self.errors + bad)
        self._measure(m, active, read_count, done_count)
        with m.If(self.start):
            m.d.sync += [active.eq(1), self.done.eq(0), ar.araddr.eq(self.source), aw.awaddr.eq(self.target)]
            counters = (read_count, write_count, done_count, self.errors, self.duration)
            m.d.sync += [counter.eq(0) for counter in counters]
        return m

    def _measure(self, m, active, read_count, done_count):
        waiting_r, waiting_b = Signal(), Signal()
        with m.If(self.read.arvalid & self.read.arready & (read_count == 0)):
            m.d.sync += [waiting_r.eq(1), self.read_delay.eq(1)]
        with m.If(waiting_r):
            m.d.sync += [
                waiting_r.eq(~self.beat_valid),
                self.read_delay.eq(self.read_delay + ~self.beat_valid),
            ]
        last_count = Signal(16)
        last_beat = self.beat_valid & self.read.rlast
        m.d.sync += last_count.eq(Mux(self.start, 0, last_count + last_beat))
        with m.If(last_beat & (last_count == self.bursts - 1)):
            m.d.sync += [waiting_b.eq(1), self.write_delay.eq(1)]
        with m.If(waiting_b):
            taken = self.write.bvalid & (done_count == self.bursts - 1)
            m.d.sync += [waiting_b.eq(~taken), self.write_delay.eq(self.write_delay + ~taken)]
        with m.If(active):
            m.d.sync += self.duration.eq(self.duration + 1)


class Copiers(wiring.Component):
    """One copier for each width of the data bus, with standard port names."""

    def __init__(self, widths):
        self.widths = widths
        self._copiers = {width: Copier(width) for width in widths}
        super().__init__({f"c{width}": Out(copier.signature) for width, copier in self._copiers.items()})

    @property
    def port_names(self):
        names = {}
        for path, _, _ in self.signature.flatten(self):
            kept = [str(part) for part in path if part not in ("read", "write")]
            names["__".join(map(str, path))] = "_".join(kept)
        return names

    def elaborate(self, platform):
        m = Module()
        for width, copier in self._copiers.items():
            m.submodules[f"copier_{width}"] = copier
            wiring.connect(m, copier, wiring.flipped(getattr(self, f"c{width}")))
        return m
