# SPDX-License-Identifier: Apache-2.0
"""Accumulators at the bottom edge of the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, Half, RowTag, accumulator_depth
from serrano.primitives.memory import OnChipMemory
from serrano.vector.arithmetic import round_shift

from .array import SystolicArray, sum_bits

__all__ = ["AccumulatorColumn", "ColumnTag", "results_depth"]


def results_depth(config: AcceleratorConfig) -> int:
    """Results that a column keeps: more than are on their way when every row emits at full rate."""
    on_their_way = SystolicArray.latency_of(config) + config.n + AccumulatorColumn.latency + 2
    return max(64, 1 << ceil_log2(on_their_way))


class ColumnTag(data.StructLayout):
    """The tag of a row that is at the bottom edge of a column."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"valid": 1, "tag": RowTag(config)})


class AccumulatorColumn(wiring.Component):
    """The accumulators of one column, and its results.

    ``new = (0 if first else rhu(old, shift)) + sum``, where a LOW row's sum includes 256 times that of the
    HIGH row before it. A sum that comes with ``emit`` also puts ``new`` into the results, which are read
    by address. The tag goes on to the next column one cycle later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    tag_i, tag_o : ``In(ColumnTag(config))``, ``Out(ColumnTag(config))``
        What to do with the sum.
    sum : ``In(signed(16 + log2(n)))``
        Sum.
    written : ``Out(1)``
        A result is being written, ``latency`` (2) cycles after its sum.
    fetch : ``In(1)``
        Read the result at ``fetch_address``.
    fetch_address : ``In(range(results_depth(config)))``
        See ``fetch``.
    result : ``Out(signed(40))``
        The result fetched last.
    """

    latency = 2

    interval = 3
    """Cycles from one use of an accumulator to the next."""

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "tag_i": In(ColumnTag(config)),
                "tag_o": Out(ColumnTag(config)),
                "sum": In(signed(sum_bits(config))),
                "written": Out(1),
                "fetch": In(1),
                "fetch_address": In(range(results_depth(config))),
                "result": Out(signed(ACCUMULATOR_BITS)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word = signed(ACCUMULATOR_BITS)
        m.submodules.accumulators = accumulators = OnChipMemory(
            word, accumulator_depth(self.config), transparent=False
        )
        m.submodules.results = results = OnChipMemory(word, results_depth(self.config), transparent=False)
        tag = self.tag_i.tag
        high = Signal(signed(len(self.sum) + 8), reset_less=True)
        is_high = tag.half == Half.HIGH
        accumulates = self.tag_i.valid & ~is_high

        # Cycle 0: read.
        m.d.comb += [accumulators.r_en.eq(accumulates), accumulators.r_addr.eq(tag.address)]
        with m.If(self.tag_i.valid & is_high):
            m.d.sync += high.eq(self.sum << 8)
        addend = Signal(signed(len(high) + 1), reset_less=True)
        stages = [Signal(ColumnTag(self.config), name=f"stage_{k}") for k in (1, 2)]
        m.d.sync += [
            self.tag_o.eq(self.tag_i),
            addend.eq(Mux(tag.half == Half.LOW, self.sum + high, self.sum)),
            stages[0].tag.eq(tag),
            stages[0].valid.eq(accumulates),
            stages[1].eq(stages[0]),
        ]
        # Cycle 1: shift. Cycle 2: add and write.
        shifted = Signal(word, reset_less=True)
        addend_2 = Signal.like(addend, reset_less=True)
        m.d.sync += [
            shifted.eq(Mux(stages[0].tag.first, 0, round_shift(accumulators.r_data, stages[0].tag.shift))),
            addend_2.eq(addend),
        ]
        total = Signal(word)
        tail = Signal.like(self.fetch_address)
        m.d.comb += [
            total.eq(shifted + addend_2),
            accumulators.w_en.eq(stages[1].valid),
            accumulators.w_addr.eq(stages[1].tag.address),
            accumulators.w_data.eq(total),
            self.written.eq(stages[1].valid & stages[1].tag.emit),
            results.w_en.eq(self.written),
            results.w_addr.eq(tail),
            results.w_data.eq(total),
            results.r_en.eq(self.fetch),
            results.r_addr.eq(self.fetch_address),
            self.result.eq(results.r_data),
        ]
        m.d.sync += tail.eq(tail + self.written)
        return m
