# SPDX-License-Identifier: Apache-2.0
"""Rows of queries and weights for the array."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul.payloads import RowBeat
from serrano.stream.pipeline import PipelineControl, delayed

from .payloads import AttendCommand, Operation, chunk_count, item_row_bits, item_row_count
from .queries import QueryReadPort
from .weights import WeightReadPort

__all__ = ["AttentionRows"]


class AttentionRows(wiring.Component):
    """Feeds q through the tiles of K and the weights through the tiles of V.

    For each chunk, token tile, row: with K one row, the chunk's codes of q; with V two, the high and the low
    bytes of the weights. Accumulators: outputs at ``row * chunks + chunk``, scores behind all outputs at
    ``row * group_tiles + tile``. Scores are emitted with the last chunk, outputs with the last tile of the
    last item of a head; an item's first tile rescales the outputs.

    One row per cycle, ``latency`` (1). V waits until the weights of its item are complete.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant while operations are on their way.
    item_rows : ``In(range)``
        Rows of an item (count).
    chunks : ``In(range)``
        Chunks of a head (count).
    operations : ``In(stream.Signature(Operation(config)))``
        The operations; taken with their last row.
    queries : ``Out(QueryReadPort(config))``
        Reads q.
    available : ``In(1)``
        The weights of the next V are complete.
    weights : ``Out(WeightReadPort(config))``
        Reads them.
    release : ``Out(1)``
        They are not needed any more.
    rows : ``Out(stream.Signature(RowBeat(config)))``
        The rows.
    wait_weights : ``Out(1)``
        A V waits for its weights.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "item_rows": In(item_row_count(config)),
                "chunks": In(chunk_count(config)),
                "operations": In(stream.Signature(Operation(config))),
                "queries": Out(QueryReadPort(config)),
                "available": In(1),
                "weights": Out(WeightReadPort(config)),
                "release": Out(1),
                "rows": Out(stream.Signature(RowBeat(config))),
                "wait_weights": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.control = control = PipelineControl(self.latency)
        values, item = self.operations.payload.values, self.operations.payload.item
        chunk = Signal.like(self.chunks)
        tile = Signal(max(1, ceil_log2(config.group_tiles)))
        row = Signal(item_row_bits(config))
        member, token = Signal.like(self.command.group), Signal.like(self.queries.row)
        output = Signal(range(config.attention_rows_max * config.head_chunks_max))
        low = Signal()
        taken, last_half, last_row, last_tile, last_chunk, end = (
            Signal(name=name) for name in ("taken", "last_half", "last_row", "last_tile", "last_chunk", "end")
        )
        m.d.comb += [
            control.i_valid.eq(self.operations.valid & (~values | self.available)),
            self.wait_weights.eq(self.operations.valid & values & ~self.available),
            taken.eq(control.i_valid & control.i_ready),
            last_half.eq(low | ~values),
            last_row.eq(row == self.item_rows - 1),
            last_tile.eq(tile == config.group_tiles - 1),
            last_chunk.eq(chunk == self.chunks - 1),
            end.eq(taken & last_half & last_row & last_tile & last_chunk),
            self.operations.ready.eq(end),
            self.release.eq(end & values),
            self.queries.en.eq(taken & ~values),
            self.queries.row.eq(self.command.row + self.command.skip + token),
            self.queries.head.eq(item.query + member),
            self.queries.chunk.eq(chunk),
            self.weights.en.eq(taken & values),
            self.weights.row.eq(row),
            self.weights.tile.eq(tile),
        ]
        with m.If(taken):
            m.d.sync += low.eq(~last_half)
        with m.If(taken & last_half):
            m.d.sync += [row.eq(row + 1), member.eq(member + 1), output.eq(output + self.chunks)]
            with m.If(member == self.command.group - 1):
                m.d.sync += [member.eq(0), token.eq(token + 1)]
            with m.If(last_row):
                m.d.sync += [row.eq(0), member.eq(0), token.eq(0), tile.eq(tile + 1), output.eq(chunk)]
                with m.If(last_tile):
                    m.d.sync += [tile.eq(0), chunk.eq(chunk + 1), output.eq(chunk + 1)]
                    with m.If(last_chunk):
                        m.d.sync += [chunk.eq(0), output.eq(0)]
        scores = config.attention_rows_max * config.head_chunks_max
        beat = self.rows.payload
        tag = Signal(RowBeat(config)["tag"].shape)
        m.d.comb += [
            tag.address.eq(Mux(values, output, scores + row * config.group_tiles + tile)),
            tag.first.eq(Mux(values, item.first & (tile == 0), chunk == 0)),
            tag.emit.eq(Mux(values, item.last & last_tile & low, last_chunk)),
            tag.half.eq(Mux(values, Mux(low, Half.LOW, Half.HIGH), Half.WHOLE)),
        ]
        place = delayed(
            m, Cat(tag, last_half & last_row, values, tile == 0), self.latency, enable=control.advance
        )
        late_tag = Signal.like(tag)
        late_values, rescale = Signal(), Signal()
        weights = self.weights.data
        m.d.comb += [
            Cat(late_tag, beat.last, late_values, rescale).eq(place),
            beat.tag.eq(late_tag),
            self.rows.valid.eq(control.o_valid),
            control.o_ready.eq(self.rows.ready),
        ]
        with m.If(late_values):
            m.d.comb += beat.tag.shift.eq(Mux(rescale, weights.shift, 0))
        for index in range(config.n):
            p = weights.p[index]
            byte = Mux(late_tag.half == Half.LOW, p[:8], p[8:])
            m.d.comb += beat.operand[index].eq(Mux(late_values, byte, self.queries.data[index]))
        return m
