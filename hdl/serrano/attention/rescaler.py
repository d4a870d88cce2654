# SPDX-License-Identifier: Apache-2.0
"""The part of softmax that knows the maxima: weights under the running exponent, and denominators."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.vector.arithmetic import round_shift

from .payloads import (
    BIAS,
    MAXIMUM_BITS,
    GroupMaxima,
    RowTotal,
    TokenWeight,
    WeightBeat,
    item_row_bits,
    item_row_count,
)

__all__ = ["ItemReadPort", "Rescaler"]

FINE = 3
"""Bits of a shift's amount in front of its register."""


class ItemReadPort(wiring.Signature):
    """Reads ``lanes`` weights and all maxima of a row, as the reader sees it.

    In a cycle with ``en`` it asks; ``tokens`` and ``maxima`` have the answer from the next cycle on, until
    the next read.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(item_row_bits(config)),
                "word": Out(ceil_log2(GROUP_TOKENS // config.lanes)),
                "tokens": In(data.ArrayLayout(TokenWeight, config.lanes)),
                "maxima": In(data.ArrayLayout(GroupMaxima, config.group_tiles)),
            }
        )


class Rescaler(wiring.Component):
    """The running state of rows, and the weights of an item under its new maxima.

    For each row of an item: ``m' = max(m, ceil(z))``, ``X' = max(X, x)`` over the valid tokens,
    ``l = rhu(l, m' - m) + sum rhu(256 * M, m' - i)`` and ``P = min(65535, rhu(U, X' - y))``; ``X' - X`` goes
    along as the shift of the outputs. A row without valid tokens keeps its state. The state lies in memories,
    ``m`` and ``X`` apart from ``l``, and is not cleared: the item that is first does not look at it.

    ``lanes`` tokens per cycle; ``latency`` (6, with ``config.registered`` 10) cycles from a word of tokens to
    its weights. An item takes at least ``16 / lanes + 3`` cycles, with ``config.registered`` two more: then a
    row's state is back in memory before the next item needs it.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    rows : ``In(range)``
        Rows of an item (count); constant while items are on their way.
    full : ``In(1)``
        An item lies behind the read port.
    first, last : ``In(1)``
        It is the first or last of its KV head.
    read : ``Out(ItemReadPort(config))``
        Reads it.
    done : ``Out(1)``
        The item's last word is being read.
    weights : ``Out(stream.Signature(WeightBeat(config)))``
        For each row, token tile.
    totals : ``Out(stream.Signature(RowTotal))``
        For each row of a last item; comes with the row's last weights.
    """

    latency = 6

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Levels of the tree that finds an item's own maxima; with registers a cycle each.
        self._levels = ceil_log2(config.group_tiles)
        self.latency = 6 + (3 + max(1, self._levels)) * int(config.registered)
        super().__init__(
            {
                "rows": In(item_row_count(config)),
                "full": In(1),
                "first": In(1),
                "last": In(1),
                "read": Out(ItemReadPort(config)),
                "done": Out(1),
                "weights": Out(stream.Signature(WeightBeat(config))),
                "totals": Out(stream.Signature(RowTotal)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        words = GROUP_TOKENS // self.config.lanes
        m.submodules.control = control = PipelineControl(self.latency)
        layout = data.StructLayout(
            {"row": item_row_bits(self.config), "word": ceil_log2(words), "first": 1, "last": 1}
        )
        place = [
            Signal(layout, name=f"place_{level}", reset_less=level > 0) for level in range(self.latency + 1)
        ]
        row, word = place[0].row, place[0].word
        # Where in the pipeline the new maxima are known, and how much longer sums then take.
        self._known = 2 + (1 + max(1, self._levels)) * int(self.config.registered)
        pauses = words + self._known
        pause = Signal(range(pauses + 1))
        taken, begin, last_word = Signal(), Signal(init=1), Signal()
        # Whether there is a pause.
        rests = Signal()
        late = {"cycles": int(self.config.registered), "enable": Const(1)}
        final_row = delayed(m, (self.rows - 1)[: len(row)], name="final_row", **late)
        # A row of several words has been there for longer than a cycle with its last one.
        last_row = row == final_row
        if words > 1:
            last_row = delayed(m, last_row, name="last_row", **late)
        m.d.comb += [
            control.i_valid.eq(self.full & (~begin | ~rests)),
            taken.eq(control.i_valid & control.i_ready),
            last_word.eq(word == words - 1),
            self.done.eq(taken & last_word & last_row),
            # With registers something is read in every cycle: the valid bits say what is wanted.
            self.read.en.eq(control.advance if self.config.registered else taken),
            self.read.row.eq(row),
            self.read.word.eq(word),
        ]
        with m.If(taken):
            m.d.sync += [begin.eq(self.done), word.eq(word + 1), row.eq(Mux(self.done, 0, row + last_word))]
        with m.If(taken & begin):
            m.d.sync += [pause.eq(pauses), rests.eq(1)]
        with m.Elif(control.advance & (pause != 0)):
            m.d.sync += [pause.eq(pause - 1), rests.eq(pause != 1)]
        with m.If(control.advance):
            m.d.sync += [
                Cat(place[1].row, place[1].word, place[1].first, place[1].last).eq(
                    Cat(row, word, self.first, self.last)
                ),
                *(place[level + 1].eq(place[level]) for level in range(1, self.latency)),
            ]
        old, new = self._build_maxima(m, control, place)
        tokens = delayed(m, self.read.tokens, self._known - 1, enable=control.advance, name="tokens")
        weights, terms = self._build_tokens(m, control, tokens, new)
        total = self._build_denominator(m, control, place, terms, old, new)
        self._build_outputs(m, control, place, weights, total, old, new)
        return m

    def _build_maxima(self, m: Module, control: Any, place: list[Any]) -> tuple[Any, Any]:
        """Cycles 1 and 2: the maxima before and after the item, as they are after cycle 2.

        With ``config.registered`` two more or three: one behind the memories, and one for each level of the
        tree that finds the item's own maxima.
        """
        config, enable, known = self.config, control.advance, self._known
        late = {"cycles": int(config.registered), "enable": enable}
        last = GROUP_TOKENS // config.lanes - 1
        m.submodules.state = state = OnChipMemory(
            GroupMaxima, max(2, config.attention_rows_max), transparent=False
        )
        before = Signal(GroupMaxima)
        item = delayed(m, self.read.maxima, name="maxima", **late)
        stored = delayed(m, state.r_data, known - 2, enable=enable, name="stored")
        old, new = (Signal(GroupMaxima, name=name, reset_less=True) for name in ("old", "new"))
        m.d.comb += [
            state.r_en.eq(enable),
            state.r_addr.eq(place[0].row),
            Value.cast(before).eq(Mux(place[known - 1].first, 0, Value.cast(stored))),
            # What is written again and again while the pipeline stands is the same.
            state.w_en.eq(control.stages[known - 1] & (place[known].word == last)),
            state.w_addr.eq(place[known].row),
            state.w_data.eq(new),
        ]
        with m.If(enable):
            m.d.sync += old.eq(before)
        for field in ("m", "x"):
            tiles = [item[tile][field] for tile in range(config.group_tiles)]
            for level in range(max(1, self._levels)):
                larger = []
                for index, a in enumerate(tiles[::2]):
                    # A tile alone is the largest already.
                    b = tiles[min(2 * index + 1, len(tiles) - 1)]
                    value = Signal(MAXIMUM_BITS, name=f"largest_{field}_{level}_{index}")
                    m.d.comb += value.eq(Mux(a > b, a, b))
                    larger.append(delayed(m, value, name=value.name, **late))
                tiles = larger
            largest = tiles[0]
            with m.If(enable):
                m.d.sync += new[field].eq(Mux(largest > before[field], largest, before[field]))
        return old, new

    def _build_tokens(
        self, m: Module, control: Any, tokens: Any, new: Any
    ) -> tuple[list[Value], list[Value]]:
        """Cycles 3 and 4: each lane's P and term of the denominator; 0 for tokens that are not valid.

        With ``config.registered`` two more: for the differences, and between shift and rounding.
        """
        weights, terms = [], []
        more = {"cycles": int(self.config.registered), "enable": control.advance}
        for lane in range(self.config.lanes):
            token = tokens[lane]
            late = delayed(m, token, 1 + more["cycles"], enable=control.advance, name=f"token_{lane}")
            below_m, below_x, weight_shift, term_shift = (
                Signal(width, name=f"{name}_{lane}", reset_less=True)
                for name, width in (
                    ("below_m", signed(MAXIMUM_BITS + 2)),
                    ("below_x", signed(MAXIMUM_BITS + 2)),
                    ("weight_shift", 5),
                    ("term_shift", 5),
                )
            )
            rounded = Signal(18, name=f"rounded_{lane}")
            weight = Signal(16, name=f"weight_{lane}", reset_less=True)
            term = Signal(26, name=f"term_{lane}", reset_less=True)
            valid = delayed(m, late.valid, name=f"valid_{lane}", **more)
            m.d.comb += [
                below_m.eq(new.m - BIAS - token.exponent),
                below_x.eq(new.x - BIAS - token.exponent - token.offset),
                rounded.eq(_shifted(m, late.weight.shift_left(1), weight_shift, f"shifted_{lane}", more)),
            ]
            scaled = _shifted(m, late.mantissa << 9, term_shift, f"scaled_{lane}", more)
            with m.If(control.advance):
                m.d.sync += [
                    # From a shift of 26 on, nothing is left of either.
                    term_shift.eq(_limited(delayed(m, below_m, name=f"below_m_{lane}", **more), 5)),
                    weight_shift.eq(_limited(delayed(m, below_x, name=f"below_x_{lane}", **more), 5)),
                    term.eq(Mux(valid, scaled, 0)),
                    weight.eq(Mux(valid, Mux(rounded[16:] != 0, 0xFFFF, rounded[:16]), 0)),
                ]
            weights.append(weight)
            terms.append(term)
        return weights, terms

    def _build_denominator(
        self, m: Module, control: Any, place: list[Any], terms: list[Value], old: Any, new: Any
    ) -> Value:
        """Cycles 3 to 6: the row's l so far; with ``config.registered`` aligned with the terms."""
        enable, known = control.advance, self._known
        more = {"cycles": int(self.config.registered), "enable": enable}
        # Where the sums over lanes are.
        there = self.latency - 1
        last = GROUP_TOKENS // self.config.lanes - 1
        m.submodules.totals_memory = memory = OnChipMemory(
            unsigned(40), max(2, self.config.attention_rows_max), transparent=False
        )
        growth = Signal(MAXIMUM_BITS)
        before = Signal(40)
        shift = Signal(6, reset_less=True)
        kept = Signal(40, reset_less=True)
        part = Signal(26 + ceil_log2(len(terms)), reset_less=True)
        following, total = Signal(40), Signal(40, reset_less=True)
        # The first word of a row, told a cycle before.
        begins = delayed(m, place[there - 1].word == 0, 1, enable=enable, name="begins")
        late = delayed(m, kept, 1, enable=enable, name="kept")
        stored = delayed(m, memory.r_data, name="stored", **more)
        m.d.comb += [
            growth.eq(new.m - old.m),
            memory.r_en.eq(enable),
            memory.r_addr.eq(place[known].row),
            before.eq(Mux(place[known + 1 + more["cycles"]].first, 0, stored)),
            following.eq(Mux(begins, late, total) + part),
            memory.w_en.eq(control.stages[there - 1] & (place[there].word == last)),
            memory.w_addr.eq(place[there].row),
            memory.w_data.eq(following),
        ]
        with m.If(enable):
            m.d.sync += [
                # Cycle 3: shift amount; the old value is being read.
                shift.eq(_limited(delayed(m, growth, name="growth_m", **more), 6)),
                # Cycle 4: rescale. Cycle 5: sum over the lanes.
                kept.eq(_shifted(m, before.shift_left(1), shift, "shifted", more)),
                part.eq(sum(terms)),
            ]
        with m.If(enable & control.stages[there - 1]):
            m.d.sync += total.eq(following)
        return total

    def _build_outputs(
        self,
        m: Module,
        control: Any,
        place: list[Any],
        weights: list[Value],
        total: Value,
        old: Any,
        new: Any,
    ) -> None:
        config, enable, end = self.config, control.advance, place[self.latency]
        more = {"cycles": int(config.registered), "enable": enable}
        part_bits = ceil_log2(config.tile_tokens // config.lanes)
        growth = Signal(MAXIMUM_BITS)
        shift = Signal(6, reset_less=True)
        lanes = delayed(m, Cat(weights), 1, enable=enable, name="weights")
        gathered = Signal(16 * config.tile_tokens, reset_less=True)
        whole, final, weights_done, total_done = Signal(), Signal(), Signal(), Signal()
        weights_given, total_given = Signal(), Signal()
        beat = self.weights.payload
        m.d.comb += growth.eq(new.x - old.x)
        with m.If(enable):
            m.d.sync += shift.eq(_limited(delayed(m, growth, name="growth_x", **more), 6))
        with m.If(enable & control.stages[self.latency - 2]):
            m.d.sync += gathered.eq(Cat(gathered, lanes)[len(lanes) :])
        m.d.comb += [
            whole.eq(end.word[:part_bits] == (1 << part_bits) - 1),
            final.eq(end.last & (end.word == GROUP_TOKENS // config.lanes - 1)),
            # Each output takes its part when it can; the pipeline moves on when both have.
            self.weights.valid.eq(control.o_valid & whole & ~weights_given),
            self.totals.valid.eq(control.o_valid & final & ~total_given),
            weights_done.eq(weights_given | self.weights.ready),
            total_done.eq(~final | total_given | self.totals.ready),
            control.o_ready.eq(~whole | (weights_done & total_done)),
            Value.cast(beat.p).eq(gathered),
            beat.tile.eq(end.word[part_bits:]),
            beat.row.eq(end.row),
            beat.first.eq(end.first),
            beat.last.eq(end.last),
            beat.shift.eq(delayed(m, shift, 3 + more["cycles"], enable=enable, name="shift")),
            self.totals.payload.total.eq(total),
            self.totals.payload.difference.eq(
                delayed(m, new.m - new.x, self.latency - self._known, enable=enable, name="difference")
            ),
        ]
        waiting = control.o_valid & whole
        m.d.sync += [
            weights_given.eq(waiting & weights_done & ~total_done),
            total_given.eq(waiting & final & total_done & ~weights_done),
        ]


def _shifted(m: Module, value: Value, amount: Value, name: str, more: dict[str, Any]) -> Value:
    """``value >> amount``, whose lowest bit is for rounding, rounded.

    It shifts by the lower bits of the amount in front of the registers that ``more`` asks for, by the others
    behind them.
    """
    fine, coarse = amount[:FINE], amount[FINE:]
    by_fine = delayed(m, (value >> fine)[: len(value)], name=name, **more)
    by_coarse = delayed(m, coarse, name=f"{name}_coarse", **more)
    return round_shift(by_fine >> (by_coarse << FINE), 1)


def _limited(value: Value, bits: int) -> Value:
    """The lower ``bits`` bits of a shift amount, or all ones if it is larger than these can say."""
    return Mux(value[bits:] != 0, (1 << bits) - 1, value[:bits])
