# SPDX-License-Identifier: Apache-2.0
"""Results of the array on their way to softmax or to the normalizer."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from serrano.config import AcceleratorConfig
from serrano.stream import HalfRegister
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later, sliced

from .payloads import (
    AttendCommand,
    Operation,
    ScoreBeat,
    chunk_count,
    item_row_count,
    results_layout,
)
from .queries import ScaleReadPort

__all__ = ["ResultRouter"]


class ResultRouter(wiring.Component):
    """Follows the operations and hands their results on: scores, with the row's scale, and outputs.

    K gives the scores of its item, token tile by token tile; V gives the outputs of a head, chunk by chunk,
    in the head's last item, and nothing in the others. One result per cycle; a result passes in the same
    cycle. With ``config.registered`` a cycle later, and one in every other cycle: neither softmax nor the
    normalizer takes them more often.

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
        The operations; taken with their last result, with ``config.registered`` a cycle later.
    results : ``In(stream.Signature(ArrayLayout(signed(40), n)))``
        Results of the array.
    read_scale : ``Out(ScaleReadPort(config))``
        Reads scales of q.
    scores : ``Out(stream.Signature(ScoreBeat(config)))``
        For each item, token tile, row.
    outputs : ``Out(stream.Signature(ArrayLayout(signed(40), n)))``
        For each head, chunk, row.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "item_rows": In(item_row_count(config)),
                "chunks": In(chunk_count(config)),
                "operations": In(stream.Signature(Operation(config))),
                "results": In(stream.Signature(results_layout(config))),
                "read_scale": Out(ScaleReadPort(config)),
                "scores": Out(stream.Signature(ScoreBeat(config))),
                "outputs": Out(stream.Signature(results_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        values, item = self.operations.payload.values, self.operations.payload.item
        row = Signal.like(self.item_rows)
        member, token = Signal.like(self.command.group), Signal.like(self.read_scale.row)
        turns = Signal(range(max(config.group_tiles, config.head_chunks_max) + 1))
        turn = Signal.like(turns)
        known, gives, moved, last_row, last, end = (Signal() for _ in range(6))
        to_scores, stays = Signal(), Signal()
        results = sliced(
            m, "register", flipped(self.results), registered=config.registered, kind=HalfRegister
        )
        is_scores = Signal()
        late = {"cycles": int(config.registered), "enable": Const(1)}
        final_row = delayed(m, (self.item_rows - 1)[: len(row)], name="final_row", **late)
        final_member = delayed(m, (self.command.group - 1)[: len(member)], name="final_member", **late)
        final_token = delayed(m, (self.command.rows - 1)[: len(token)], name="final_token", **late)
        first = delayed(m, (self.command.row + self.command.skip)[: len(token)], name="first", **late)
        m.d.comb += [
            is_scores.eq(self.operations.valid & ~values),
            turns.eq(Mux(values, self.chunks, config.group_tiles)),
            self.scores.valid.eq(results.valid & to_scores),
            self.scores.payload.sums.eq(results.payload),
            self.scores.payload.scale.eq(self.read_scale.data),
            self.outputs.valid.eq(results.valid & gives),
            self.outputs.payload.eq(results.payload),
            results.ready.eq((gives & self.outputs.ready) | (to_scores & self.scores.ready)),
            # With registers a cycle later: there is one between two results.
            moved.eq(later(m, results.valid & results.ready, registered=config.registered, name="was_moved")),
            last_row.eq(row == final_row),
            last.eq(last_row & (turn + 1 == turns)),
            # With registers, an operation is known, and there is time for this.
            end.eq(moved & delayed(m, last, name="end", **late)),
            self.operations.ready.eq(end | (values & ~item.last)),
            # The scale is read ahead: that of the first row, then with each result that of the next one.
            self.read_scale.en.eq(is_scores & (~known | moved)),
            self.read_scale.row.eq(first + token),
            self.read_scale.head.eq(item.query + member),
        ]
        # The operation stays; so its scale, which is read in its first cycle, is there.
        m.d.comb += stays.eq(self.operations.valid & ~self.operations.ready)
        m.d.sync += known.eq(stays)
        if config.registered:
            # Whose its results are, is a register too.
            m.d.sync += [to_scores.eq(stays & ~values), gives.eq(stays & values & item.last)]
        else:
            m.d.comb += [
                to_scores.eq(is_scores & known),
                gives.eq(self.operations.valid & values & item.last),
            ]
        with m.If(moved):
            m.d.sync += row.eq(row + 1)
            with m.If(last_row):
                m.d.sync += [row.eq(0), turn.eq(turn + 1)]
        with m.If(self.read_scale.en):
            m.d.sync += member.eq(member + 1)
            with m.If(member == final_member):
                m.d.sync += [member.eq(0), token.eq(token + 1)]
                with m.If(token == final_token):
                    m.d.sync += token.eq(0)
        with m.If(end):
            m.d.sync += [turn.eq(0), member.eq(0), token.eq(0)]
        return m
