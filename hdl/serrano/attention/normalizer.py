# SPDX-License-Identifier: Apache-2.0
"""From outputs and denominators to staged codes."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS
from serrano.primitives.memory import OnChipMemory
from serrano.stream import StreamFIFO
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import later
from serrano.vector.arithmetic import ShiftedProduct
from serrano.vector.h16 import H16Encoder
from serrano.vector.payloads import StagedBeat

from .parts import ResultParts
from .payloads import Final, NormalizeCommand, item_row_bits, results_layout

__all__ = ["Normalizer"]


class Normalizer(wiring.Component):
    """Divides outputs by their denominators: ``y = sat32(rhu(o * g, n))``, staged as h16.

    The ``lanes`` outputs of a slice per cycle, ``latency`` (7, with ``config.registered`` more) cycles from a
    result to its codes. Of the last
    chunk of a head only the channels below ``head_pad`` are written.

    Finals wait in a ring for as many rows as ``lookahead + 2`` items have, until the last result of their
    command: that is more than can come before that result, so that they never block.

    With ``config.registered`` the pipeline never stops: the first part of a result is taken only when there
    is room for all of its codes.

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
        For each command, row. With ``config.registered`` always ready: no more than the ring holds may come.
    staged : ``Out(stream.Signature(StagedBeat(config)))``
        For each chunk, row, slice: codes, to the row of the query token and the columns of the query head.
    idle : ``Out(1)``
        There is neither a command nor anything on its way to ``staged``.
    """

    latency = 1 + ShiftedProduct.latency + H16Encoder.latency

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = self.latency_of(config)
        super().__init__(
            {
                "command": In(stream.Signature(NormalizeCommand(config))),
                "results": In(stream.Signature(results_layout(config))),
                "finals": In(stream.Signature(Final)),
                "staged": Out(stream.Signature(StagedBeat(config))),
                "idle": Out(1),
            }
        )

    @classmethod
    def latency_of(cls, config: AcceleratorConfig) -> int:
        """Latency for a configuration; with registers a result is kept first."""
        return int(config.registered) + cls._depth(config)

    @staticmethod
    def _depth(config: AcceleratorConfig) -> int:
        """Stages behind a part; registers are also in front of the finals' memory and behind it."""
        registered = config.registered
        product = ShiftedProduct.latency_of(registered, ACCUMULATOR_BITS, len(Signal(Final).reciprocal))
        return 1 + 2 * int(registered) + product + H16Encoder.latency_of(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.control = control = PipelineControl(self._depth(config))
        todo = Signal(NormalizeCommand(config))
        busy = Signal()
        m.submodules.parts = parts = ResultParts(
            config.n, config.lanes, ACCUMULATOR_BITS, 1, registered=config.registered
        )
        part = parts.part
        row = Signal(item_row_bits(config))
        member, token = Signal.like(todo.group), Signal.like(todo.row)
        left = Signal.like(todo.head_pad)
        start, column = Signal.like(todo.column), Signal.like(todo.column)
        taken, step, end = Signal(), Signal(), Signal()
        # Of the present row and chunk: registers beside them.
        last_row, last_chunk, half = Signal(), Signal(), Signal()
        single, before_final, final_member = Signal(), Signal.like(row), Signal.like(member)
        out = stream.Signature(StagedBeat(config)).create(path=("out",))
        room, empty = self._build_room(m, out, taken, control)
        final = self._build_finals(m, control, row, todo, end)
        known = self._build_known(m, parts, busy, last_row, last_chunk)
        m.d.comb += [
            parts.i.valid.eq(self.results.valid),
            parts.i.payload.channels.eq(self.results.payload),
            self.results.ready.eq(parts.i.ready),
            parts.half.eq(half),
            parts.go.eq(known & room & control.i_ready),
            taken.eq(parts.taken),
            control.i_valid.eq(taken),
            step.eq(taken & parts.last),
            end.eq(step & last_row & last_chunk),
            self.command.ready.eq(~busy),
            self.idle.eq(~busy & empty),
        ]

        def following(value: Value, name: str) -> Value:
            """What comes with the next step; of two there is a cycle between with registers."""
            return delayed(m, value, int(config.registered), enable=Const(1), name=name)

        before_last = following(row == before_final, "before_last")
        last_member = following(member == final_member, "last_member")
        halves, ends = following(left < 2 * config.n, "halves"), following(left <= 2 * config.n, "ends")
        next_chunk = following((start + config.n)[: len(start)], "next_chunk")
        next_column = following((column + todo.head_pad)[: len(column)], "next_column")
        with m.If(~busy):
            command = self.command.payload
            m.d.sync += [
                todo.eq(command),
                busy.eq(self.command.valid),
                left.eq(command.head_pad),
                half.eq(command.head_pad < config.n),
                last_chunk.eq(command.head_pad <= config.n),
                start.eq(command.column),
                column.eq(command.column),
                token.eq(command.row),
                single.eq(command.rows == 1),
                last_row.eq(command.rows == 1),
                before_final.eq(command.rows - 2),
                final_member.eq(command.group - 1),
            ]
        with m.If(step):
            m.d.sync += [row.eq(row + 1), member.eq(member + 1), column.eq(next_column)]
            m.d.sync += last_row.eq(before_last)
            with m.If(last_member):
                m.d.sync += [member.eq(0), token.eq(token + 1), column.eq(start)]
            with m.If(last_row):
                m.d.sync += [row.eq(0), member.eq(0), token.eq(todo.row), last_row.eq(single)]
                m.d.sync += [left.eq(left - config.n), half.eq(halves), last_chunk.eq(ends)]
                m.d.sync += [start.eq(next_chunk), column.eq(next_chunk), busy.eq(~last_chunk)]

        place = Cat(token, (column + (part << ceil_log2(config.lanes)))[: len(column)], end & todo.last)
        self._build_lanes(m, control, parts.values, final, place, out)
        return m

    def _build_known(
        self, m: Module, parts: ResultParts, busy: Value, last_row: Value, last_chunk: Value
    ) -> Value:
        """Whether the final of the next result is there: one that waits, or behind the first chunk any."""
        finals = (self.config.lookahead + 2) * self.config.attention_rows_max
        waiting = Signal(range(finals + 1))
        later_chunk, more = Signal(), Signal()
        began = parts.i.ready
        m.d.sync += waiting.eq(waiting + (self.finals.valid & self.finals.ready) - (began & ~later_chunk))
        # Of a command, results are yet to begin.
        with m.If(began & last_row):
            m.d.sync += [later_chunk.eq(1), more.eq(~last_chunk)]
        with m.Elif(~busy):
            m.d.sync += [later_chunk.eq(0), more.eq(self.command.valid)]
        known = more & (later_chunk | (waiting != 0))
        if not self.config.registered:
            return known
        # None can begin in the cycle in which one has begun; what that changes is known in the next one.
        found = Signal()
        m.d.sync += found.eq(known & ~began)
        return found

    def _build_room(self, m: Module, out: Any, taken: Value, control: Any) -> tuple[Value, Value]:
        """The way out: whether there is room for what is about to be taken, and whether nothing is left."""
        if not self.config.registered:
            connect(m, out, flipped(self.staged))
            return Const(1), control.stages == 0
        # As many as are under way without a pause, those taken until the count is known, and a whole result.
        parts = self.config.n // self.config.lanes
        depth = self._depth(self.config) + StreamFIFO.latency + 4 + parts
        m.submodules.fifo = fifo = StreamFIFO(StagedBeat(self.config), depth)
        room, inside = Signal(init=1), Signal(range(depth + 1))
        connect(m, fifo.o, flipped(self.staged))
        m.d.comb += [
            fifo.i.valid.eq(out.valid),
            fifo.i.payload.eq(out.payload),
            # There is always room, so that the pipeline never stops.
            out.ready.eq(1),
        ]
        m.d.sync += [
            inside.eq(inside + taken - (self.staged.valid & self.staged.ready)),
            # Two more may have been taken until a result begins.
            room.eq(inside < depth - parts - 1),
        ]
        return room, inside == 0

    def _build_finals(self, m: Module, control: Any, row: Value, todo: Any, end: Value) -> Any:
        """The ring of finals: that of the row, with the value to be multiplied."""
        depth = (self.config.lookahead + 2) * self.config.attention_rows_max
        m.submodules.finals_memory = memory = OnChipMemory(Final, depth, transparent=False)
        base, tail = Signal(range(depth)), Signal(range(depth))
        write, ready = Signal(), Signal()
        late = {"cycles": int(self.config.registered), "enable": control.advance}

        def wrapped(index: Value) -> Value:
            return Mux(index >= depth, index - depth, index)[: len(base)]

        # Both sums that the row's place may be, side by side; the base stays for longer than a cycle.
        folded = delayed(m, base - depth, late["cycles"], enable=Const(1), name="folded") + row
        place = Mux(folded < 0, base + row, folded)[: len(base)]
        m.d.comb += [
            self.finals.ready.eq(ready),
            write.eq(self.finals.valid & self.finals.ready),
            memory.w_en.eq(write),
            memory.w_addr.eq(tail),
            memory.w_data.eq(self.finals.payload),
            memory.r_en.eq(control.advance),
            memory.r_addr.eq(delayed(m, place, name="r_addr", **late)),
        ]
        # No result is taken in the two cycles behind an end: it is in time for the next command.
        over = later(m, end, registered=self.config.registered, name="over")
        if self.config.registered:
            # Softmax has no use for a stop that never comes.
            m.d.comb += ready.eq(1)
        else:
            level = Signal(range(depth + 1))
            m.d.sync += level.eq(level + write - Mux(over, todo.rows, 0))
            m.d.comb += ready.eq(level != depth)
        with m.If(write):
            m.d.sync += tail.eq(wrapped(tail + 1))
        with m.If(over):
            m.d.sync += base.eq(wrapped(base + todo.rows))
        return delayed(m, memory.r_data, name="final", **late)

    def _build_lanes(self, m: Module, control: Any, values: Any, final: Any, place: Value, out: Any) -> None:
        config, enable, beat = self.config, control.advance, out.payload
        for lane in range(config.lanes):
            value = Signal(signed(ACCUMULATOR_BITS), name=f"value_{lane}", reset_less=True)
            m.submodules[f"product_{lane}"] = product = ShiftedProduct(
                ACCUMULATOR_BITS, len(final.reciprocal), len(final.shift), registered=config.registered
            )
            m.submodules[f"encoder_{lane}"] = encoder = H16Encoder(registered=config.registered)
            with m.If(enable):
                m.d.sync += value.eq(values[lane])
            m.d.comb += [
                product.enable.eq(enable),
                product.value.eq(
                    delayed(m, value, 2 * int(config.registered), enable=enable, name=f"value_{lane}")
                ),
                product.factor.eq(final.reciprocal),
                product.shift.eq(final.shift),
                encoder.enable.eq(enable),
                encoder.value.eq(product.result),
                beat.codes[lane].eq(encoder.code),
            ]
        placed = delayed(m, place, self._depth(config), enable=enable, name="place")
        m.d.comb += [
            out.valid.eq(control.o_valid),
            control.o_ready.eq(out.ready),
            Cat(beat.row, beat.column, beat.last).eq(placed),
        ]
