# SPDX-License-Identifier: Apache-2.0
"""From outputs and denominators to staged codes."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.vector.arithmetic import ShiftedProduct
from serrano.vector.h16 import H16Encoder
from serrano.vector.payloads import StagedBeat

from .payloads import Final, NormalizeCommand, item_row_bits, results_layout

__all__ = ["Normalizer"]


class Normalizer(wiring.Component):
    """Divides outputs by their denominators: ``y = sat32(rhu(o * g, n))``, staged as h16.

    The ``lanes`` outputs of a slice per cycle, ``latency`` (7) cycles from a result to its codes. Of the last
    chunk of a head only the channels below ``head_pad`` are written.

    Finals wait in a ring for as many rows as ``lookahead + 2`` items have, until the last result of their
    command: that is more than can come before that result, so that they never block.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(NormalizeCommand(config)))``
        The next KV head; taken when the results of the one before have been taken.
    results : ``In(stream.Signature(ArrayLayout(signed(40), n)))``
        For each chunk, row: outputs.
    finals : ``In(stream.Signature(Final))``
        For each command, row.
    staged : ``Out(stream.Signature(StagedBeat(config)))``
        For each chunk, row, slice: codes, to the row of the query token and the columns of the query head.
    idle : ``Out(1)``
        There is neither a command nor anything on its way to ``staged``.
    """

    latency = 1 + ShiftedProduct.latency + H16Encoder.latency

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(stream.Signature(NormalizeCommand(config))),
                "results": In(stream.Signature(results_layout(config))),
                "finals": In(stream.Signature(Final)),
                "staged": Out(stream.Signature(StagedBeat(config))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.control = control = PipelineControl(self.latency)
        todo = Signal(NormalizeCommand(config))
        busy = Signal()
        part = Signal(ceil_log2(config.n // config.lanes))
        row = Signal(item_row_bits(config))
        member, token = Signal.like(todo.group), Signal.like(todo.row)
        left = Signal.like(todo.head_pad)
        start, column = Signal.like(todo.column), Signal.like(todo.column)
        taken, last_part, last_row, end = Signal(), Signal(), Signal(), Signal()
        known, final = self._build_finals(m, control, row, todo, end)
        m.d.comb += [
            control.i_valid.eq(busy & self.results.valid & known),
            taken.eq(control.i_valid & control.i_ready),
            last_part.eq(part.all() | ((left < config.n) & (part == config.n // config.lanes // 2 - 1))),
            last_row.eq(row == todo.rows - 1),
            end.eq(taken & last_part & last_row & (left <= config.n)),
            self.results.ready.eq(taken & last_part),
            self.command.ready.eq(~busy),
            self.idle.eq(~busy & (control.stages == 0)),
        ]
        with m.If(~busy):
            command = self.command.payload
            m.d.sync += [
                todo.eq(command),
                busy.eq(self.command.valid),
                left.eq(command.head_pad),
                start.eq(command.column),
                column.eq(command.column),
                token.eq(command.row),
            ]
        with m.If(taken):
            m.d.sync += part.eq(part + 1)
            with m.If(last_part):
                m.d.sync += [part.eq(0), row.eq(row + 1), member.eq(member + 1)]
                m.d.sync += column.eq(column + todo.head_pad)
                with m.If(member == todo.group - 1):
                    m.d.sync += [member.eq(0), token.eq(token + 1), column.eq(start)]
                with m.If(last_row):
                    m.d.sync += [row.eq(0), member.eq(0), token.eq(todo.row), left.eq(left - config.n)]
                    m.d.sync += [start.eq(start + config.n), column.eq(start + config.n), busy.eq(~end)]

        place = Cat(token, (column + (part << ceil_log2(config.lanes)))[: len(column)], end & todo.last)
        self._build_lanes(m, control, part, final, place)
        return m

    def _build_finals(self, m: Module, control: Any, row: Value, todo: Any, end: Value) -> tuple[Value, Any]:
        """The ring of finals; returns whether that of ``row`` is there, and its value one cycle later."""
        depth = (self.config.lookahead + 2) * self.config.attention_rows_max
        m.submodules.finals_memory = memory = OnChipMemory(Final, depth, transparent=False)
        base, tail = Signal(range(depth)), Signal(range(depth))
        level = Signal(range(depth + 1))
        write = Signal()

        def wrapped(index: Value) -> Value:
            return Mux(index >= depth, index - depth, index)[: len(base)]

        m.d.comb += [
            self.finals.ready.eq(level != depth),
            write.eq(self.finals.valid & self.finals.ready),
            memory.w_en.eq(write),
            memory.w_addr.eq(tail),
            memory.w_data.eq(self.finals.payload),
            memory.r_en.eq(control.advance),
            memory.r_addr.eq(wrapped(base + row)),
        ]
        m.d.sync += level.eq(level + write - Mux(end, todo.rows, 0))
        with m.If(write):
            m.d.sync += tail.eq(wrapped(tail + 1))
        with m.If(end):
            m.d.sync += base.eq(wrapped(base + todo.rows))
        return row < level, memory.r_data

    def _build_lanes(self, m: Module, control: Any, part: Value, final: Any, place: Value) -> None:
        config, enable, beat = self.config, control.advance, self.staged.payload
        for lane in range(config.lanes):
            channels = range(lane, config.n, config.lanes)
            value = Signal(signed(ACCUMULATOR_BITS), name=f"value_{lane}", reset_less=True)
            m.submodules[f"product_{lane}"] = product = ShiftedProduct(
                ACCUMULATOR_BITS, len(final.reciprocal), len(final.shift)
            )
            m.submodules[f"encoder_{lane}"] = encoder = H16Encoder()
            with m.If(enable):
                m.d.sync += value.eq(Array(self.results.payload[channel] for channel in channels)[part])
            m.d.comb += [
                product.enable.eq(enable),
                product.value.eq(value),
                product.factor.eq(final.reciprocal),
                product.shift.eq(final.shift),
                encoder.enable.eq(enable),
                encoder.value.eq(product.result),
                beat.codes[lane].eq(encoder.code),
            ]
        placed = delayed(m, place, self.latency, enable=enable, name="place")
        m.d.comb += [
            self.staged.valid.eq(control.o_valid),
            control.o_ready.eq(self.staged.ready),
            Cat(beat.row, beat.column, beat.last).eq(placed),
        ]
