# SPDX-License-Identifier: Apache-2.0
"""Accumulators at the bottom edge of the array."""

import itertools
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, Half, RowTag, accumulator_depth
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.vector.arithmetic import FINE_BITS

from .array import SystolicArray, sum_bits

__all__ = ["AccumulatorColumn", "ColumnTag", "results_depth"]


def results_depth(config: AcceleratorConfig) -> int:
    """Results that a column keeps: more than are on their way when every row emits at full rate."""
    on_their_way = SystolicArray.latency_of(config) + config.n + AccumulatorColumn.latency_of(config) + 2
    if config.registered:
        # The register before, one less behind, and two places that are not used.
        on_their_way += 4
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
        A result is being written, ``latency`` (2, with ``config.registered`` 5) cycles after its sum.
    fetch : ``In(1)``
        Read the result at ``fetch_address``.
    fetch_address : ``In(range(results_depth(config)))``
        See ``fetch``.
    result : ``Out(signed(40))``
        The result fetched last.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = self.latency_of(config)
        self.interval = self.interval_of(config)
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

    @staticmethod
    def latency_of(config: AcceleratorConfig) -> int:
        """Read, shift; with more registers there is one behind the memory, one within the shift, and one
        in front of both memories."""
        return 5 if config.registered else 2

    @classmethod
    def interval_of(cls, config: AcceleratorConfig) -> int:
        """Cycles from one use of an accumulator to the next."""
        return cls.latency_of(config) + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word = signed(ACCUMULATOR_BITS)
        m.submodules.accumulators = accumulators = OnChipMemory(
            word, accumulator_depth(self.config), transparent=False, collides=False
        )
        m.submodules.results = results = OnChipMemory(
            word, results_depth(self.config), transparent=False, collides=False
        )
        tag = self.tag_i.tag
        high = Signal(signed(len(self.sum) + 8), reset_less=True)
        is_high = tag.half == Half.HIGH
        accumulates = self.tag_i.valid & ~is_high

        # Cycle 0: read. What nobody asked for does no harm where everything moves on in every cycle.
        between = int(self.config.registered)
        m.d.comb += [accumulators.r_en.eq(accumulates | between), accumulators.r_addr.eq(tag.address)]
        with m.If(self.tag_i.valid & is_high):
            m.d.sync += high.eq(self.sum << 8)
        addend = Signal(signed(len(high) + 1), reset_less=True)
        stages = [Signal(ColumnTag(self.config), name=f"stage_{k + 1}") for k in range(self.latency)]
        m.d.sync += [
            self.tag_o.eq(self.tag_i),
            addend.eq(Mux(tag.half == Half.LOW, self.sum + high, self.sum)),
            stages[0].tag.eq(tag),
            stages[0].valid.eq(accumulates),
            *(after.eq(before) for before, after in itertools.pairwise(stages)),
        ]
        # Cycle 1: shift, one bit kept for rounding. Cycle 2: add, round and write; with registers, in two.

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, between, enable=1, name=name)

        shifting, final = stages[between].tag, stages[-1]
        coarse = Signal(signed(ACCUMULATOR_BITS + 1))
        shifted = Signal(signed(ACCUMULATOR_BITS + 1), reset_less=True)
        m.d.comb += coarse.eq(
            later(accumulators.r_data, "old").shift_left(1)
            >> Cat(Const(0, FINE_BITS), shifting.shift[FINE_BITS:])
        )
        moving = stages[2 * between].tag
        m.d.sync += shifted.eq(Mux(moving.first, 0, later(coarse, "coarse") >> moving.shift[:FINE_BITS]))
        total = Signal(word)
        written, tail = Signal(), Signal.like(self.fetch_address)
        # The bit for rounding, added to itself, carries into the sum.
        summed = (
            shifted
            + Cat(shifted[0], delayed(m, addend, 1 + 2 * between, enable=1, name="addend")).as_signed()
        )
        m.d.comb += [
            total.eq(later((summed >> 1)[:ACCUMULATOR_BITS].as_signed(), "total")),
            accumulators.w_en.eq(final.valid),
            accumulators.w_addr.eq(final.tag.address),
            accumulators.w_data.eq(total),
            self.written.eq(written),
            results.w_en.eq(written),
            results.w_addr.eq(tail),
            results.w_data.eq(total),
            results.r_en.eq(self.fetch),
            results.r_addr.eq(self.fetch_address),
            self.result.eq(results.r_data),
        ]
        m.d.sync += [written.eq(stages[-2].valid & stages[-2].tag.emit), tail.eq(tail + written)]
        return m
