# SPDX-License-Identifier: Apache-2.0
"""Rows of queries and weights for the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul.payloads import RowBeat
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import sliced

from .payloads import AttendCommand, Operation, chunk_count, item_row_bits, item_row_count, told_ahead
from .queries import QueryReadPort
from .weights import WeightReadPort

__all__ = ["AttentionRows"]


class AttentionRows(wiring.Component):
    """Feeds q through the tiles of K and the weights through the tiles of V.

    For each chunk, token tile, row: with K one row, the chunk's codes of q; with V two, the high and the low
    bytes of the weights. Accumulators: outputs at ``row * chunks + chunk``, scores behind all outputs at
    ``row * group_tiles + tile``. Scores are emitted with the last chunk, outputs with the last tile of the
    last item of a head; an item's first tile rescales the outputs.

    One row per cycle, ``latency`` (1, with ``config.registered`` 4). V waits until the weights of its item
    are complete.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant while operations are on their way, and with ``config.registered`` a cycle before
        them; so are the counts.
    item_rows : ``In(range)``
        Rows of an item (count).
    chunks : ``In(range)``
        Chunks of a head (count).
    operations : ``In(stream.Signature(Operation(config)))``
        The operations; taken with their last row, or with ``config.registered`` before that.
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
        self.latency = 1 + 3 * int(config.registered)
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
        config, late = self.config, int(self.config.registered)
        step = stream.Signature(_RowRead(self)).create(path=("found",))
        self._build_order(m, step)
        step = sliced(m, "found", step, registered=config.registered)
        # A slice is one of the cycles; the others are in front of the memories, in them and behind them.
        m.submodules.control = control = PipelineControl(self.latency - late, registered=config.registered)
        read, waits, taken = step.payload, Signal(), Signal()
        m.d.comb += [
            waits.eq(read.values & ~self.available),
            control.i_valid.eq(step.valid & ~waits),
            step.ready.eq(control.i_ready & ~waits),
            self.wait_weights.eq(step.valid & waits),
            taken.eq(control.i_valid & control.i_ready),
            self.release.eq(taken & read.release),
            self.queries.en.eq(taken & ~read.values),
            self.queries.advance.eq(control.advance),
            self.queries.row.eq(read.query),
            self.queries.head.eq(read.head),
            self.queries.chunk.eq(read.chunk),
            self.weights.en.eq(taken & read.values),
            self.weights.advance.eq(control.advance),
            self.weights.row.eq(read.row),
            self.weights.tile.eq(read.tile),
        ]
        beat = self.rows.payload
        place = delayed(m, read, self.latency - late, enable=control.advance, name="place")
        queries = delayed(m, self.queries.data, late, enable=control.advance, name="queries")
        weights = delayed(m, self.weights.data, late, enable=control.advance, name="weights")
        m.d.comb += [
            beat.last.eq(place.last),
            beat.tag.eq(place.tag),
            self.rows.valid.eq(control.o_valid),
            control.o_ready.eq(self.rows.ready),
        ]
        with m.If(place.values):
            m.d.comb += beat.tag.shift.eq(Mux(place.tile == 0, weights.shift, 0))
        for index in range(config.n):
            p = weights.p[index]
            byte = Mux(place.tag.half == Half.LOW, p[:8], p[8:])
            m.d.comb += beat.operand[index].eq(Mux(place.values, byte, queries[index]))
        return m

    def _build_order(self, m: Module, step: Any) -> None:
        """The rows of the operations, one after the other."""
        config, read = self.config, step.payload
        values, item = self.operations.payload.values, self.operations.payload.item
        chunk = Signal.like(self.chunks)
        tile = Signal(max(1, ceil_log2(config.group_tiles)))
        row = Signal(item_row_bits(config))
        member, token = Signal.like(self.command.group), Signal.like(self.queries.row)
        output = Signal(range(config.attention_rows_max * config.head_chunks_max))
        low = Signal()
        taken, last_half, last_tile, end = (
            Signal(name=name) for name in ("taken", "last_half", "last_tile", "end")
        )
        scores = config.attention_rows_max * config.head_chunks_max
        late = {"cycles": int(config.registered), "enable": Const(1)}
        ahead = {"rests": ~self.operations.valid, "registered": config.registered}
        ends_row = taken & last_half
        last_row = told_ahead(m, row, self.item_rows, step=ends_row, name="last_row", **ahead)
        ends_chunk = ends_row & last_row & last_tile
        last_chunk = told_ahead(m, chunk, self.chunks, step=ends_chunk, name="last_chunk", **ahead)
        final_member = delayed(m, (self.command.group - 1)[: len(member)], name="final_member", **late)
        first = delayed(m, (self.command.row + self.command.skip)[: len(token)], name="first", **late)
        m.d.comb += [
            step.valid.eq(self.operations.valid),
            taken.eq(step.valid & step.ready),
            last_half.eq(low | ~values),
            last_tile.eq(tile == config.group_tiles - 1),
            end.eq(last_half & last_row & last_tile & last_chunk),
            self.operations.ready.eq(taken & end),
            read.values.eq(values),
            read.query.eq(first + token),
            read.head.eq(item.query + member),
            read.chunk.eq(chunk),
            read.row.eq(row),
            read.tile.eq(tile),
            read.last.eq(last_half & last_row),
            read.release.eq(end & values),
            read.tag.address.eq(Mux(values, output, scores + row * config.group_tiles + tile)),
            read.tag.first.eq(Mux(values, item.first & (tile == 0), chunk == 0)),
            read.tag.emit.eq(Mux(values, item.last & last_tile & low, last_chunk)),
            read.tag.half.eq(Mux(values, Mux(low, Half.LOW, Half.HIGH), Half.WHOLE)),
        ]
        with m.If(taken):
            m.d.sync += low.eq(~last_half)
        with m.If(taken & last_half):
            m.d.sync += [row.eq(row + 1), member.eq(member + 1), output.eq(output + self.chunks)]
            with m.If(member == final_member):
                m.d.sync += [member.eq(0), token.eq(token + 1)]
            with m.If(last_row):
                m.d.sync += [row.eq(0), member.eq(0), token.eq(0), tile.eq(tile + 1), output.eq(chunk)]
                with m.If(last_tile):
                    m.d.sync += [tile.eq(0), chunk.eq(chunk + 1), output.eq(chunk + 1)]
                    with m.If(last_chunk):
                        m.d.sync += [chunk.eq(0), output.eq(0)]


class _RowRead(data.StructLayout):
    """A row to be read; ``last`` of a tile's, and with ``release`` the last one of an item's V."""

    def __init__(self, feeder: AttentionRows):
        queries, weights = feeder.queries, feeder.weights
        super().__init__(
            {
                "values": 1,
                "query": queries.row.shape(),
                "head": queries.head.shape(),
                "chunk": queries.chunk.shape(),
                "row": weights.row.shape(),
                "tile": weights.tile.shape(),
                "tag": RowBeat(feeder.config)["tag"].shape,
                "last": 1,
                "release": 1,
            }
        )
