# SPDX-License-Identifier: Apache-2.0
"""Online softmax over groups of 16 tokens."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.register import StreamRegister

from .exponentials import Exponentials
from .finisher import Finisher
from .payloads import (
    Final,
    GroupMaxima,
    RowTotal,
    ScoreBeat,
    SoftmaxItem,
    TokenWeight,
    WeightBeat,
    item_row_bits,
    item_row_count,
)
from .rescaler import Rescaler

__all__ = ["OnlineSoftmax"]


class OnlineSoftmax(wiring.Component):
    """Scores in, weights out, group by group: section 7 of ``docs/numerics.md``.

    Two stretches, each ``lanes`` tokens per cycle, work on neighbouring items at the same time:
    :class:`~serrano.attention.exponentials.Exponentials` needs no maximum and fills a buffer of two items;
    :class:`~serrano.attention.rescaler.Rescaler` empties it, with all maxima of a row known. Between the last
    score of an item and its first weight lie about 20 cycles.

    The state of a row starts empty with an item that is first. Items of ``rows`` rows, of which row ``r`` has
    the first ``count + r // group`` tokens, limited to 0 .. 16.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    rows, group : ``In(range)``
        Rows of an item and query heads per token (counts); constant while items are on their way.
    items : ``In(stream.Signature(SoftmaxItem))``
        Scales and flags of an item; taken with its last scores.
    scores : ``In(stream.Signature(ScoreBeat(config)))``
        For each item, token tile, row.
    weights : ``Out(stream.Signature(WeightBeat(config)))``
        For each item, row, token tile.
    finals : ``Out(stream.Signature(Final))``
        For each item that is last, row.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "rows": In(item_row_count(config)),
                "group": In(item_row_count(config)),
                "items": In(stream.Signature(SoftmaxItem)),
                "scores": In(stream.Signature(ScoreBeat(config))),
                "weights": Out(stream.Signature(WeightBeat(config))),
                "finals": Out(stream.Signature(Final)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        rows = 1 << item_row_bits(config)
        m.submodules.exponentials = front = Exponentials(config)
        m.submodules.rescaler = back = Rescaler(config)
        m.submodules.register = register = StreamRegister(RowTotal)
        m.submodules.finisher = finisher = Finisher(registered=config.registered)
        m.submodules.tokens = tokens = OnChipMemory(
            data.ArrayLayout(TokenWeight, config.lanes),
            2 * rows * GROUP_TOKENS // config.lanes,
            transparent=False,
            collides=False,
        )
        m.submodules.maxima = maxima = OnChipMemory(
            data.ArrayLayout(GroupMaxima, config.group_tiles),
            2 * rows,
            granularity=1,
            transparent=False,
            collides=False,
        )
        for source, sink in (
            (flipped(self.items), front.items),
            (flipped(self.scores), front.scores),
            (back.totals, register.i),
            (register.o, finisher.totals),
            (back.weights, flipped(self.weights)),
            (finisher.finals, flipped(self.finals)),
        ):
            connect(m, source, sink)
        claimed, filled = Signal(range(3)), Signal(range(3))
        slot = Signal()
        flags = Array(Signal(2, name=f"flags_{index}", reset_less=True) for index in range(2))
        m.d.comb += [
            front.rows.eq(self.rows),
            front.group.eq(self.group),
            front.room.eq(claimed != 2),
            back.rows.eq(self.rows),
            back.full.eq(filled != 0),
            Cat(back.first, back.last).eq(flags[slot]),
            tokens.w_en.eq(front.tokens.en),
            tokens.w_addr.eq(Cat(front.tokens.word, front.tokens.row, front.tokens.slot)),
            tokens.w_data.eq(front.tokens.data),
            tokens.r_en.eq(back.read.en),
            tokens.r_addr.eq(Cat(back.read.word, back.read.row, slot)),
            back.read.tokens.eq(tokens.r_data),
            maxima.w_en.eq(front.maxima.en << front.maxima.tile),
            maxima.w_addr.eq(Cat(front.maxima.row, front.maxima.slot)),
            maxima.w_data.eq(Cat([front.maxima.data] * config.group_tiles)),
            maxima.r_en.eq(back.read.en),
            maxima.r_addr.eq(Cat(back.read.row, slot)),
            back.read.maxima.eq(maxima.r_data),
        ]
        m.d.sync += [
            claimed.eq(claimed + front.claim - back.done),
            filled.eq(filled + front.full - back.done),
            slot.eq(slot ^ back.done),
        ]
        with m.If(front.full):
            m.d.sync += flags[front.maxima.slot].eq(Cat(front.first, front.last))
        return m
