# SPDX-License-Identifier: Apache-2.0
"""Which head a beat of a QKV packet belongs to."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat

from .payloads import HeadBeat, HeadKind, HeadsCommand

__all__ = ["HeadOrder"]


class HeadOrder(wiring.Component):
    """Gives each beat of a QKV packet its place: kind, head, place within the head.

    Heads come in the order k, v, q. With ``head_pad`` a multiple of ``n``, a head spans ``head_pad / n``
    blocks; with ``head_pad = n / 2`` a block holds two heads, and the second half of the last block may be
    padding, which is dropped. Combinational from input to output.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(HeadsCommand(config)))``
        The next packet; taken when nothing of the one before is left.
    finished : ``In(1)``
        The last output of the packet is being taken.
    score : ``Out(Scale)``
        The command's score constant.
    beats : ``In(stream.Signature(EpilogueBeat(config)))``
        Linear outputs in the order block, row, slice.
    placed : ``Out(stream.Signature(HeadBeat(config)))``
        The same with their places.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        command = HeadsCommand(config)
        super().__init__(
            {
                "command": In(stream.Signature(command)),
                "finished": In(1),
                "score": Out(command["score"].shape),
                "beats": In(stream.Signature(EpilogueBeat(config))),
                "placed": Out(stream.Signature(HeadBeat(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        slices = config.n // config.lanes
        todo = Signal(HeadsCommand(config))
        filling, draining = Signal(), Signal()
        part = Signal(ceil_log2(slices))
        chunk = Signal(range(config.head_chunks_max))
        row = Signal.like(self.beats.payload.row)
        base, head = (Signal(range(3 * config.heads_max + 2), name=name) for name in ("base", "head"))
        halves, taken, last_part, last_row, last_chunk, last_head = (Signal() for _ in range(6))
        i, o = self.beats.payload, self.placed.payload
        m.d.comb += [
            self.score.eq(todo.score),
            self.command.ready.eq(~filling & ~draining),
            halves.eq(todo.head_pad < config.n),
            head.eq(base + (halves & part[-1])),
            last_part.eq(part == slices - 1),
            last_row.eq(row == todo.rows - 1),
            last_chunk.eq(halves | (chunk == (todo.head_pad >> ceil_log2(config.n)) - 1)),
            last_head.eq(head == (todo.kv_heads << 1) + todo.heads - 1),
            # Behind the last head there is padding.
            self.placed.valid.eq(self.beats.valid & filling & (head < (todo.kv_heads << 1) + todo.heads)),
            self.beats.ready.eq(filling & (self.placed.ready | ~self.placed.valid)),
            taken.eq(self.beats.valid & self.beats.ready),
            o.values.eq(i.values),
            o.kmeans.eq(i.kmeans),
            o.tag.row.eq(row),
            o.half.eq(halves & part[-1]),
            o.word.eq(Mux(halves, part[:-1], Cat(part, chunk))),
            o.first.eq(o.word == 0),
            o.complete.eq(last_chunk & Mux(halves, part[:-1] == slices // 2 - 1, last_part)),
            o.release.eq(o.complete & last_row & (~halves | part[-1] | last_head)),
            o.last.eq(o.complete & last_row & last_head),
        ]
        with m.If(head < todo.kv_heads):
            m.d.comb += [o.tag.kind.eq(HeadKind.K), o.tag.head.eq(head)]
        with m.Elif(head < todo.kv_heads << 1):
            m.d.comb += [o.tag.kind.eq(HeadKind.V), o.tag.head.eq(head - todo.kv_heads)]
        with m.Else():
            m.d.comb += [o.tag.kind.eq(HeadKind.Q), o.tag.head.eq(head - (todo.kv_heads << 1))]

        with m.If(self.command.ready & self.command.valid):
            m.d.sync += [todo.eq(self.command.payload), base.eq(0), filling.eq(1), draining.eq(1)]
        with m.If(self.finished):
            m.d.sync += draining.eq(0)
        with m.If(taken):
            m.d.sync += part.eq(part + 1)
            with m.If(last_part):
                m.d.sync += row.eq(Mux(last_row, 0, row + 1))
                with m.If(last_row):
                    m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
                    with m.If(last_chunk):
                        m.d.sync += base.eq(base + Mux(halves, 2, 1))
            with m.If(i.last):
                m.d.sync += filling.eq(0)
        return m
