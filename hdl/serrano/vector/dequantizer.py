# SPDX-License-Identifier: Apache-2.0
"""From the array's results to linear outputs in Q16: section 3 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, EpilogueBeat, Scale
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.tape.packets import BlockScales

from .arithmetic import ScaleProduct, Scaler, unpack_scale
from .payloads import DequantizeCommand

__all__ = ["Dequantizer"]


class Dequantizer(wiring.Component):
    """Multiplies results by the scales of their row and of their channel.

    ``y = dequantize(acc, mul(s_x[row], s_w[channel]))``, rounded once, Q16. A result of ``n`` channels leaves
    as ``n / lanes`` beats, one per cycle without stalls, the first ``latency`` (5, with
    ``config.registered`` 12) cycles after the result came. Only the low 32 bits of a result count.

    The scales of a block stay at the input until its last result has been taken; ``row_scales`` must not
    change while a command runs.

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
        m.submodules.control = control = PipelineControl(self.latency)
        todo = Signal(DequantizeCommand(config))
        busy = Signal()
        row = Signal.like(self.beats.payload.row)
        block = Signal.like(todo.blocks)
        part = Signal(ceil_log2(slices))
        final_row, final_block = Signal.like(row), Signal.like(block)
        taken, last_row, last_block, last_part = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            control.i_valid.eq(busy & self.results.valid & self.scales.valid),
            control.o_ready.eq(self.beats.ready),
            taken.eq(control.i_valid & control.i_ready),
            last_part.eq(part == slices - 1),
            last_row.eq(row == final_row),
            last_block.eq(block == final_block),
            self.command.ready.eq(~busy),
            self.results.ready.eq(taken & last_part),
            self.scales.ready.eq(taken & last_part & last_row),
            self.beats.valid.eq(control.o_valid),
        ]
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
                with m.If(last_row):
                    m.d.sync += [block.eq(block + 1), busy.eq(~last_block)]

        column = Cat(Const(0, ceil_log2(config.lanes)), part, block)
        last = last_part & last_row & last_block
        place = delayed(
            m,
            Cat(row, column[: len(self.beats.payload.column)], last),
            self.latency,
            enable=control.advance,
            name="place",
        )
        m.d.comb += Cat(self.beats.payload.row, self.beats.payload.column, self.beats.payload.last).eq(place)
        self._build_lanes(m, control.advance, part, Mux(last_row, todo.last, row))
        return m

    def _build_lanes(self, m: Module, enable: Value, part: Value, row: Value) -> None:
        lanes, registered = self.config.lanes, self.config.registered

        def later(value: Any, name: str, cycles: int) -> Any:
            return delayed(m, value, cycles, enable=enable, name=name)

        # The slice and the row's place are chosen in one cycle, the row's scale in the next.
        slice_cycles = self.choosing // 2
        row_scale = Signal(Scale)
        m.d.comb += row_scale.eq(self.row_scales[later(row, "scale_row", slice_cycles)])
        row_scale = later(row_scale, "row_scale", slice_cycles)
        for lane in range(lanes):
            channels = range(lane, self.config.n, lanes)
            sums = Array(self.results.payload[channel][:32] for channel in channels)
            scales = Array(Value.cast(self.scales.payload.scales[channel]) for channel in channels)
            kmeans = Array(self.scales.payload.kmeans[channel] for channel in channels)
            scale = Signal.like(self.scales.payload.scales[0], name=f"scale_{lane}")
            product, scaler = (
                ScaleProduct(registered=registered),
                Scaler(32, offset=-1, registered=registered),
            )
            m.submodules[f"product_{lane}"] = product
            m.submodules[f"scaler_{lane}"] = scaler
            value = later(sums[part], f"sum_{lane}", self.choosing + product.latency)
            m.d.comb += [
                Value.cast(scale).eq(later(scales[part], f"scale_{lane}", self.choosing)),
                product.enable.eq(enable),
                product.a.eq(row_scale),
                product.b.eq(unpack_scale(scale)),
                scaler.enable.eq(enable),
                scaler.scale.eq(product.product),
                scaler.value.eq(value.as_signed()),
                self.beats.payload.values[lane].eq(scaler.result),
                self.beats.payload.kmeans[lane].eq(later(kmeans[part], f"kmean_{lane}", self.latency)),
            ]
