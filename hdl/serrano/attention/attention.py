# SPDX-License-Identifier: Apache-2.0
"""Streaming attention of a step."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from serrano.config import AcceleratorConfig
from serrano.kvcache.payloads import RecordBeat
from serrano.matmul.payloads import RowBeat, TileUnit
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later
from serrano.vector.payloads import HeadCodes, HeadScale, StagedBeat

from .forward import ForwardBuffer
from .normalizer import Normalizer
from .order import ItemOrder
from .payloads import (
    AttendCommand,
    chunk_count,
    item_row_count,
    record_slots,
    results_layout,
    two_step_product,
)
from .queries import QueryBuffer
from .records import RecordBuffer
from .router import ResultRouter
from .rows import AttentionRows
from .scales import ItemScales
from .softmax import OnlineSoftmax
from .tiles import TileFeeder
from .weights import WeightBuffer

__all__ = ["Attention"]


class Attention(wiring.Component):
    """Attention of the step's tokens over their sequence: section 7 of ``docs/numerics.md``.

    Keeps q, k and v of the step as they come from the heads. A command then streams K and V of all items,
    head after head, group after group, through the array: K runs ``lookahead`` items ahead of V, which covers
    the latency of softmax. Committed tokens come from records, each read once; the step's own from the
    forward buffer. It knows nothing of addresses, and there is no drain between items or heads.

    Rows of an item: row ``r`` is query token ``r // group`` and query head ``r % group`` of the KV head.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    head_pad : ``In(range)``
        Padded head dimension of the heads that come as codes; constant from the first codes to ``idle``, with
        ``config.registered`` from the cycle before them on.
    codes : ``In(stream.Signature(HeadCodes(config)))``
        Codes of k, v and q of the step. Always ready; not to come while a command is executed.
    scales : ``In(stream.Signature(HeadScale(config)))``
        Their scales. Always ready.
    command : ``In(stream.Signature(AttendCommand(config)))``
        Attend, when all codes and scales of the step have come. Taken when idle.
    records : ``In(stream.Signature(RecordBeat(config)))``
        For each KV head, the records that hold committed tokens, in order; also before the command.
    free_records : ``Out(range)``
        Slots for records into which nothing has been written; see ``RecordBuffer``.
    tiles : ``Out(stream.Signature(TileUnit(config)))``
        Tiles of K and V.
    rows : ``Out(stream.Signature(RowBeat(config)))``
        Rows of q and of the weights.
    results : ``In(stream.Signature(ArrayLayout(signed(40), n)))``
        The array's results.
    staged : ``Out(stream.Signature(StagedBeat(config)))``
        The outputs; ``last`` marks the last beat of a command.
    loaded : ``Out(1)``
        The last unit of a final command's last tile is being taken.
    idle : ``Out(1)``
        No command is being executed.
    wait_record : ``Out(1)``
        A tile waits for its record.
    wait_weights : ``Out(1)``
        The rows of a V tile wait for softmax.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "head_pad": In(range(config.head_dim_max + 1)),
                "codes": In(stream.Signature(HeadCodes(config))),
                "scales": In(stream.Signature(HeadScale(config))),
                "command": In(stream.Signature(AttendCommand(config))),
                "records": In(stream.Signature(RecordBeat(config))),
                "free_records": Out(range(record_slots(config) + 1)),
                "tiles": Out(stream.Signature(TileUnit(config))),
                "rows": Out(stream.Signature(RowBeat(config))),
                "results": In(stream.Signature(results_layout(config))),
                "staged": Out(stream.Signature(StagedBeat(config))),
                "loaded": Out(1),
                "idle": Out(1),
                "wait_record": Out(1),
                "wait_weights": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.queries = queries = QueryBuffer(config)
        m.submodules.forward = forward = ForwardBuffer(config)
        m.submodules.record_buffer = records = RecordBuffer(config)
        m.submodules.item_scales = item_scales = ItemScales(config)
        m.submodules.tile_feeder = tiles = TileFeeder(config)
        m.submodules.weight_buffer = weights = WeightBuffer(config)
        m.submodules.row_feeder = rows = AttentionRows(config)
        m.submodules.router = router = ResultRouter(config)
        m.submodules.softmax = softmax = OnlineSoftmax(config)
        m.submodules.normalizer = normalizer = Normalizer(config)
        command, item_rows, start = self._build_command(m, normalizer)
        chunks = Signal(chunk_count(config))
        following = (self.head_pad + config.n - 1) >> exact_log2(config.n)
        m.d.comb += chunks.eq(delayed(m, following, int(config.registered), enable=Const(1), name="chunks"))
        for name, follower in (("tiles", tiles), ("rows", rows), ("router", router)):
            m.submodules[f"{name}_order"] = order = ItemOrder(config)
            connect(m, order.operations, follower.operations)
            m.d.comb += [order.command.eq(command), order.start.eq(start)]
            m.d.comb += [follower.command.eq(command), follower.chunks.eq(chunks)]
        for follower in (rows, router):
            m.d.comb += follower.item_rows.eq(item_rows)
        for buffer in (queries, forward):
            m.d.comb += [
                buffer.chunks.eq(chunks),
                buffer.codes.valid.eq(self.codes.valid),
                buffer.codes.payload.eq(self.codes.payload),
                buffer.scales.valid.eq(self.scales.valid),
                buffer.scales.payload.eq(self.scales.payload),
            ]
        for source, sink in (
            (flipped(self.records), records.records),
            (tiles.records, records.read),
            (item_scales.records, records.read_scales),
            (tiles.forward, forward.read),
            (item_scales.forward, forward.read_scales),
            (rows.queries, queries.read),
            (router.read_scale, queries.read_scale),
            (rows.weights, weights.read),
            (tiles.tiles, flipped(self.tiles)),
            (rows.rows, flipped(self.rows)),
            (flipped(self.results), router.results),
            (item_scales.items, softmax.items),
            (router.scores, softmax.scores),
            (softmax.weights, weights.weights),
            (softmax.finals, normalizer.finals),
            (router.outputs, normalizer.results),
            (normalizer.staged, flipped(self.staged)),
        ):
            connect(m, source, sink)
        m.d.comb += [
            self.codes.ready.eq(1),
            self.scales.ready.eq(1),
            self.free_records.eq(records.free_records),
            records.free.eq(tiles.free),
            item_scales.command.eq(command),
            item_scales.start.eq(start),
            weights.rows.eq(item_rows),
            weights.release.eq(rows.release),
            rows.available.eq(weights.available),
            softmax.rows.eq(item_rows),
            softmax.group.eq(command.group),
            self.loaded.eq(tiles.loaded & command.final),
            self.wait_record.eq(tiles.wait_record),
            self.wait_weights.eq(rows.wait_weights),
        ]
        return m

    def _build_command(self, m: Module, normalizer: Normalizer) -> tuple[Any, Value, Value]:
        """Keeps the command, starts those who follow it, and gives the normalizer a command for each head."""
        config = self.config
        todo = Signal(AttendCommand(config))
        item_rows = Signal(item_row_count(config))
        accepted, start, busy = Signal(), Signal(), Signal()
        registered = config.registered
        products = []
        for name, one, other in (("rows", todo.rows, todo.group), ("width", todo.head_pad, todo.group)):
            products.append(two_step_product(m, one, other, name=name) if registered else one * other)
        starting = later(m, accepted, registered=registered, name="starting")
        left = Signal.like(todo.kv_heads)
        head_command = normalizer.command.payload
        column, width = Signal.like(head_command.column), Signal.like(head_command.column)
        m.d.comb += [
            self.command.ready.eq(~busy),
            self.idle.eq(~busy),
            normalizer.command.valid.eq(left != 0),
            head_command.row.eq(todo.row + todo.skip),
            head_command.rows.eq(item_rows),
            head_command.group.eq(todo.group),
            head_command.head_pad.eq(todo.head_pad),
            head_command.column.eq(column),
            head_command.last.eq(left == 1),
        ]
        m.d.sync += [accepted.eq(self.command.valid & self.command.ready), start.eq(starting)]
        with m.If(~busy):
            m.d.sync += [todo.eq(self.command.payload), busy.eq(self.command.valid)]
        with m.If(starting):
            m.d.sync += [
                item_rows.eq(products[0]),
                width.eq(products[1]),
                left.eq(todo.kv_heads),
                column.eq(0),
            ]
        with m.Elif(normalizer.command.valid & normalizer.command.ready):
            m.d.sync += [left.eq(left - 1), column.eq(column + width)]
        with m.If(busy & ~accepted & ~starting & ~start & (left == 0) & normalizer.idle):
            m.d.sync += busy.eq(0)
        return todo, item_rows, start
