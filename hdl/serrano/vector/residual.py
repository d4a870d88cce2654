# SPDX-License-Identifier: Apache-2.0
"""The residual stream of a step: sections 3 and 5 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later

from .arithmetic import magnitude, sat32
from .maximum import LaneMaximum, RowMaxima
from .payloads import WordReadPort, WrittenBeat

__all__ = ["Residual"]


class Residual(wiring.Component):
    """Keeps the residual rows, ``[rows_max, dim_max]`` in Q16, and the largest magnitude of each.

    ``load`` writes: ``x = y``. ``add`` reads, adds and writes: ``x = sat32(x + y)``. Both are always ready,
    except that ``load`` goes first, and take one beat per cycle; what a beat reads must not have been written
    by one of the ``latency`` beats before it, which holds for beats in the order of a packet. A row's padding
    up to the next multiple of ``n`` is to be loaded with zeros.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    start : ``In(1)``
        Sets all maxima to zero, with ``config.registered`` a cycle later; only when ``idle``.
    add : ``In(stream.Signature(EpilogueBeat(config)))``
        Values to be added.
    load : ``In(stream.Signature(EpilogueBeat(config)))``
        Values to be written.
    maxima : ``Out(ArrayLayout(32, rows_max))``
        Largest magnitude written to each row since ``start``; up to 2**31. Right when ``idle``.
    read : ``In(WordReadPort(config, signed(32), dim_max))``
        Read port, for use while nothing is added.
    idle : ``Out(1)``
        Nothing is on its way into memory or maxima.
    written : ``Out(1)``
        ``written_beat`` is being written to memory: ``latency`` (3, with ``config.registered`` 4) cycles
        after its beat came.
    written_beat : ``Out(WrittenBeat(config))``
        Values after the addition.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Read, out of the memory if there is a register for that, add, saturate.
        self.latency = 3 + int(config.registered)
        super().__init__(
            {
                "start": In(1),
                "add": In(stream.Signature(EpilogueBeat(config))),
                "load": In(stream.Signature(EpilogueBeat(config))),
                "maxima": Out(data.ArrayLayout(32, config.rows_max)),
                "read": In(WordReadPort(config, signed(32), config.dim_max)),
                "idle": Out(1),
                "written": Out(1),
                "written_beat": Out(WrittenBeat(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        word_bits = ceil_log2(config.dim_max // config.lanes)
        m.submodules.memory = memory = OnChipMemory(
            data.ArrayLayout(signed(32), config.lanes),
            # A row begins where its number is the upper part of the address: there is nothing to add.
            1 << (ceil_log2(config.rows_max) + word_bits),
            transparent=False,
            collides=False,
        )

        def address(row: Value, word: Value) -> Value:
            return Cat(word[:word_bits], row)

        def word_of(beat: Any) -> Value:
            return beat.column[ceil_log2(config.lanes) :]

        # Cycle 1: read. Cycle 2: add. Cycle 3: saturate. The edge after it writes. With registers there is
        # a cycle between 1 and 2.
        reading = self.latency - 2
        beat, coming = Signal.like(self.add.payload), Signal(reading)
        taken, adds = Signal(), Signal()
        old = delayed(m, memory.r_data, reading - 1, enable=1, name="old")
        summed = Signal(data.ArrayLayout(signed(33), config.lanes), reset_less=True)
        summed_valid = Signal()
        done = Signal(WrittenBeat(config), reset_less=True)
        place = Signal(WrittenBeat(config), reset_less=True)
        m.d.comb += [
            self.load.ready.eq(1),
            self.add.ready.eq(~self.load.valid),
            memory.r_en.eq(self.read.en | (self.add.valid & self.add.ready)),
            memory.r_addr.eq(address(self.read.row, self.read.word)),
            self.read.data.eq(memory.r_data),
        ]
        # Should it not be taken, nothing is read.
        with m.If(self.add.valid):
            m.d.comb += memory.r_addr.eq(address(self.add.payload.row, word_of(self.add.payload)))
        either = Mux(self.load.valid, Value.cast(self.load.payload), Value.cast(self.add.payload))
        m.d.comb += [
            taken.eq(self.load.valid | self.add.valid),
            Cat(beat, adds).eq(delayed(m, Cat(either, ~self.load.valid), reading, enable=1, name="beat")),
        ]
        m.d.sync += [
            coming.eq(Cat(taken, coming)),
            summed_valid.eq(coming[-1]),
            place.row.eq(beat.row),
            place.column.eq(beat.column),
            place.last.eq(beat.last),
            self.written.eq(summed_valid),
            done.row.eq(place.row),
            done.column.eq(place.column),
            done.last.eq(place.last),
        ]
        for lane in range(config.lanes):
            m.d.sync += [
                summed[lane].eq(beat.values[lane] + Mux(adds, old[lane], 0)),
                done.values[lane].eq(sat32(summed[lane])),
            ]
        m.d.comb += [
            self.written_beat.eq(done),
            memory.w_en.eq(self.written),
            memory.w_addr.eq(address(done.row, word_of(done))),
            memory.w_data.eq(done.values),
        ]
        self._build_maxima(m, taken | coming.any() | summed_valid)
        return m

    def _build_maxima(self, m: Module, coming: Value) -> None:
        config = self.config
        m.submodules.lane_maximum = maximum = LaneMaximum(config.lanes, 32)
        m.submodules.row_maxima = maxima = RowMaxima(config.rows_max, 32, registered=config.registered)
        before = int(config.registered)
        start = later(m, self.start, registered=config.registered, name="late_start")
        valid = Signal(before + maximum.latency)
        for lane in range(config.lanes):
            size = magnitude(self.written_beat.values[lane])
            m.d.comb += maximum.values[lane].eq(delayed(m, size, before, enable=1, name=f"size_{lane}"))
        m.d.sync += valid.eq(Cat(self.written, valid))
        m.d.comb += [
            maximum.enable.eq(1),
            maxima.start.eq(start),
            maxima.valid.eq(valid[-1]),
            maxima.row.eq(delayed(m, self.written_beat.row, len(valid), enable=1, name="row")),
            maxima.value.eq(maximum.maximum),
            self.maxima.eq(maxima.maxima),
            self.idle.eq(~(coming | self.written | valid.any() | maxima.busy)),
        ]
