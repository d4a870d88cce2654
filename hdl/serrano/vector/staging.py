# SPDX-License-Identifier: Apache-2.0
"""Rows that wait for their maximum: section 8 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed

from .maximum import LaneMaximum, RowMaxima
from .payloads import StagedBeat, WordReadPort

__all__ = ["Staging"]


class Staging(wiring.Component):
    """Keeps ``[rows_max, input_max]`` h16 codes, and the largest of each row without its sign.

    Codes without sign order like the magnitudes that they stand for. Always ready; one beat per cycle.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    start : ``In(1)``
        Sets all maxima to zero; only when ``idle``.
    writes : ``In(stream.Signature(StagedBeat(config)))``
        Codes; a half beat replaces half a word.
    maxima : ``Out(ArrayLayout(15, rows_max))``
        Largest code written to each row since ``start``. Right when ``idle``.
    read : ``In(WordReadPort(config, unsigned(16), input_max))``
        Read port.
    idle : ``Out(1)``
        Nothing is on its way into memory or maxima.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "writes": In(stream.Signature(StagedBeat(config))),
                "maxima": Out(data.ArrayLayout(15, config.rows_max)),
                "read": In(WordReadPort(config, unsigned(16), config.input_max)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        half, word_bits = max(1, config.lanes // 2), ceil_log2(config.input_max // config.lanes)
        m.submodules.memory = memory = OnChipMemory(
            data.ArrayLayout(16, config.lanes),
            # A row begins where its number is the upper part of the address: there is nothing to add.
            1 << (ceil_log2(config.rows_max) + word_bits),
            transparent=False,
            collides=False,
            granularity=half,
        )
        # With registers there is one in front of everything.
        before = int(config.registered)
        beat = Signal(StagedBeat(config))
        valid = Signal()
        domain = m.d.sync if config.registered else m.d.comb
        domain += valid.eq(self.writes.valid)

        def late(value: Value, name: str) -> Value:
            return delayed(m, value, before, enable=1, name=name)

        writes = self.writes.payload
        upper = writes.half & writes.column[ceil_log2(half)] if config.lanes > 1 else Const(0)
        w_en = Mux(self.writes.valid, Cat(~upper, upper | ~writes.half), 0)
        upper = late(upper, "upper")
        word = beat.column[ceil_log2(config.lanes) :][:word_bits]
        m.d.comb += [
            self.writes.ready.eq(1),
            beat.eq(late(writes, "beat")),
            memory.w_en.eq(late(w_en, "w_en")),
            memory.w_addr.eq(Cat(word, beat.row)),
            memory.r_en.eq(self.read.en),
            memory.r_addr.eq(Cat(self.read.word[:word_bits], self.read.row)),
            self.read.data.eq(memory.r_data),
        ]
        for lane in range(config.lanes):
            m.d.comb += memory.w_data[lane].eq(Mux(upper, beat.codes[lane % half], beat.codes[lane]))
        self._build_maxima(m, beat, valid)
        return m

    def _build_maxima(self, m: Module, beat: Any, valid: Signal) -> None:
        config = self.config
        m.submodules.lane_maximum = maximum = LaneMaximum(config.lanes, 15)
        m.submodules.row_maxima = maxima = RowMaxima(config.rows_max, 15, registered=config.registered)
        stages = Signal(maximum.latency)
        for lane in range(config.lanes):
            code = beat.codes[lane][:15]
            kept = code if lane < config.lanes // 2 else Mux(beat.half, 0, code)
            m.d.comb += maximum.values[lane].eq(kept)
        m.d.sync += stages.eq(Cat(valid, stages))
        m.d.comb += [
            maximum.enable.eq(1),
            maxima.start.eq(self.start),
            maxima.valid.eq(stages[-1]),
            maxima.row.eq(delayed(m, beat.row, maximum.latency, enable=1, name="row")),
            maxima.value.eq(maximum.maximum),
            self.maxima.eq(maxima.maxima),
            self.idle.eq(~(self.writes.valid | valid | stages.any() | maxima.busy)),
        ]
