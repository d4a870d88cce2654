# SPDX-License-Identifier: Apache-2.0
"""From the array's results to linear outputs in Q16: section 3 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, EpilogueBeat, PackedScale, Scale
from serrano.stream.delay import waited
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import later
from serrano.tape.packets import BlockScales

from .arithmetic import ScaleProduct, Scaler, unpack_scale
from .payloads import DequantizeCommand

__all__ = ["Dequantizer"]


class Dequantizer(wiring.Component):
    """Multiplies results by the scales of their row and of their channel.

    ``y = dequantize(acc, mul(s_x[row], s_w[channel]))``, rounded once, Q16. A result of ``n`` channels leaves
    as ``n / lanes`` beats, one per cycle without stalls, the first ``latency`` (5, with
    ``config.registered`` 14) cycles after the result came. Only the low 32 bits of a result count.

    The scales of a block stay at the input until its last result has been taken. With ``config.registered``
    they and each result stay for a cycle more, which is free. ``row_scales`` must not change while a command
    runs.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(DequantizeCommand(config)))``
        How many results follow; taken when the results of the command before have been taken.
    results : ``In(stream.Signature(ArrayLayout(signed(40), n)))``
        For each block, each row: the sums of ``n`` channels.
    scales : ``In(stream.Signature(BlockScales(config)))``
        One for each block; the k means go along with the beats.
    row_scales : ``In(ArrayLayout(Scale, rows_max))``
        Scales of the rows.
    beats : ``Out(stream.Signature(EpilogueBeat(config)))``
        For each block, row, slice of ``lanes`` channels.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Registers behind the choice of a slice, and of its row's scale, if there are to be some.
        self.choosing = 2 * int(config.registered)
        self.latency = (
            self.choosing + ScaleProduct.latency_of(config.registered) + Scaler.latency_of(config.registered)
        )
        super().__init__(
            {
                "command": In(stream.Signature(DequantizeCommand(config))),
                "results": In(stream.Signature(data.ArrayLayout(signed(ACCUMULATOR_BITS), config.n))),
                "scales": In(stream.Signature(BlockScales(config))),
                "row_scales": In(data.ArrayLayout(Scale, config.rows_max)),
                "beats": Out(stream.Signature(EpilogueBeat(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        slices = config.n // config.lanes
        m.submodules.control = control = PipelineControl(self.latency, registered=config.registered)
        todo = Signal(DequantizeCommand(config))
        busy = Signal()
        row = Signal.like(self.beats.payload.row)
        block = Signal.like(todo.blocks)
        part = Signal(ceil_log2(slices))
        final_row, final_block = Signal.like(row), Signal.like(block)
        taken, last_row, last_block, last_part = Signal(), Signal(), Signal(), Signal()
        chosen = Signal(self._chosen())
        handled, passed = (
            later(m, value, registered=config.registered, name=name)
            for name, value in (("handled", taken & last_part), ("passed", taken & last_part & last_row))
        )
        going = Signal()
        present = going & self.scales.valid
        m.d.comb += [
            control.i_valid.eq(present & self.results.valid),
            control.o_ready.eq(self.beats.ready),
            taken.eq(control.i_valid & control.i_ready),
            self.command.ready.eq(~busy),
            self.results.ready.eq(handled if config.registered else control.i_ready & present & last_part),
            self.scales.ready.eq(passed),
            self.beats.valid.eq(control.o_valid),
        ]
        # The scale of the row that comes last is at its own place. With registers nothing is taken in the
        # cycle behind a result, in which what follows from its place gets there.
        scale_row = Signal.like(row)
        domain = m.d.sync if config.registered else m.d.comb
        domain += [
            going.eq(busy & ~(taken & last_part) & ~(passed & last_block) if config.registered else busy),
            last_row.eq(row == final_row),
            scale_row.eq(Mux(row == final_row, todo.last, row)),
        ]
        # A block has passed with its last result, with registers in the cycle behind it.
        if config.registered:
            with m.If(self.command.ready):
                m.d.sync += last_block.eq(self.command.payload.blocks == 1)
            with m.Elif(passed):
                m.d.sync += last_block.eq(block + 1 == final_block)
        else:
            m.d.comb += last_block.eq(block == final_block)
        if config.registered and slices > 1:
            with m.If(taken):
                m.d.sync += last_part.eq(part == slices - 2)
        else:
            m.d.comb += last_part.eq(part == slices - 1)
        with m.If(self.command.ready):
            m.d.sync += [
                todo.eq(self.command.payload),
                final_row.eq(self.command.payload.rows - 1),
                final_block.eq(self.command.payload.blocks - 1),
                busy.eq(self.command.valid),
                block.eq(0),
            ]
        with m.If(taken):
            m.d.sync += part.eq(part + 1)
            with m.If(last_part):
                m.d.sync += row.eq(Mux(last_row, 0, row + 1))
        with m.If(passed):
            m.d.sync += [block.eq(block + 1), busy.eq(~last_block)]

        column = Cat(Const(0, ceil_log2(config.lanes)), part, block)
        m.d.comb += [
            chosen.row.eq(row),
            chosen.column.eq(column),
            chosen.last.eq(last_part & last_row & last_block),
            chosen.scale_row.eq(scale_row),
        ]
        for lane in range(config.lanes):
            channels = range(lane, config.n, config.lanes)
            m.d.comb += [
                chosen.sums[lane].eq(_selected((self.results.payload[c][:32] for c in channels), part)),
                Value.cast(chosen.scales[lane]).eq(
                    _selected((Value.cast(self.scales.payload.scales[c]) for c in channels), part)
                ),
                chosen.kmeans[lane].eq(_selected((self.scales.payload.kmeans[c] for c in channels), part)),
            ]
        # With registers the slice goes into one, which advances as those behind it.
        chosen = delayed(m, chosen, int(config.registered), enable=control.advance, name="chosen")
        self._build_lanes(m, control, chosen)
        return m

    def _chosen(self) -> data.StructLayout:
        """A slice of a result with its place and its scales."""
        beat, lanes = EpilogueBeat(self.config), self.config.lanes
        return data.StructLayout(
            {
                "row": beat["row"].shape,
                "column": beat["column"].shape,
                "last": 1,
                "scale_row": beat["row"].shape,
                "sums": data.ArrayLayout(signed(32), lanes),
                "scales": data.ArrayLayout(PackedScale, lanes),
                "kmeans": beat["kmeans"].shape,
            }
        )

    def _build_lanes(self, m: Module, control: PipelineControl, chosen: Any) -> None:
        lanes, registered = self.config.lanes, self.config.registered
        enable, beat = control.advance, self.beats.payload

        def moved(value: Any, name: str, cycles: int) -> Any:
            return delayed(m, value, cycles, enable=enable, name=name)

        wait, after = waited if registered else delayed, int(registered)
        place, wanted = (
            Cat(one.row, one.column, one.last, *(one.kmeans[lane] for lane in range(lanes)))
            for one in (chosen, beat)
        )
        m.d.comb += wanted.eq(wait(m, place, self.latency - after, enable=enable, name="place"))
        # With registers the row's scale is chosen a cycle after its place.
        row_scale = Signal(Scale)
        m.d.comb += row_scale.eq(self.row_scales[chosen.scale_row])
        row_scale = moved(row_scale, "row_scale", after)
        for lane in range(lanes):
            product, scaler = (
                ScaleProduct(registered=registered),
                Scaler(32, offset=-1, registered=registered),
            )
            m.submodules[f"product_{lane}"] = product
            m.submodules[f"scaler_{lane}"] = scaler
            m.d.comb += [
                product.enable.eq(enable),
                product.a.eq(row_scale),
                product.b.eq(unpack_scale(moved(chosen.scales[lane], f"scale_{lane}", after))),
                scaler.enable.eq(enable),
                scaler.scale.eq(product.product),
                scaler.value.eq(moved(chosen.sums[lane], f"sum_{lane}", after + product.latency)),
                beat.values[lane].eq(scaler.result),
            ]


def _selected(values: Any, index: Value) -> Value:
    """That of the values, as many as the index can name; its bits choose without being decoded."""
    values = list(values)
    for bit in index:
        values = [Mux(bit, odd, even) for even, odd in zip(values[::2], values[1::2], strict=True)]
    return values[0]
