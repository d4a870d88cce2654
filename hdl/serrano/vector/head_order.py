# SPDX-License-Identifier: Apache-2.0
"""Which head a beat of a QKV packet belongs to."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat
from serrano.stream import HalfRegister
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later, sliced

from .payloads import HeadBeat, HeadKind, HeadsCommand, HeadTag

__all__ = ["HeadOrder"]


class HeadOrder(wiring.Component):
    """Gives each beat of a QKV packet its place: kind, head, place within the head.

    Heads come in the order k, v, q. With ``head_pad`` a multiple of ``n``, a head spans ``head_pad / n``
    blocks; with ``head_pad = n / 2`` a block holds two heads, and the second half of the last block may be
    padding, which is dropped. Combinational from input to output, unless with ``config.registered``: then
    ``latency`` is 1, and a cycle passes after each beat, in which the next one's place is found.

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
        self.latency = int(config.registered)
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
        base, keys = (Signal(range(3 * config.heads_max + 2), name=name) for name in ("base", "keys"))
        final_chunk, final_row, final_head = Signal.like(chunk), Signal.like(row), Signal.like(base)
        halves, taken, padding = Signal(), Signal(), Signal()
        # The place has been another one for less than a cycle.
        moved = Signal()
        placed = stream.Signature(HeadBeat(config)).create(path=("place",))
        places = sliced(m, "places", placed, registered=config.registered, kind=HalfRegister)
        connect(m, places, flipped(self.placed))
        i, o = self.beats.payload, placed.payload
        late = {"cycles": int(config.registered), "enable": Const(1)}
        # The head of this number, and the one after it.
        heads = []
        for number, name in ((base, "head"), (base + 1, "other")):
            of_packet = Signal(_Place(config), name=f"{name}_found")
            m.d.comb += of_packet.last.eq(number == final_head)
            with m.If(number < todo.kv_heads):
                m.d.comb += [of_packet.kind.eq(HeadKind.K), of_packet.head.eq(number)]
            with m.Elif(number < keys):
                m.d.comb += [of_packet.kind.eq(HeadKind.V), of_packet.head.eq(number - todo.kv_heads)]
            with m.Else():
                m.d.comb += [of_packet.kind.eq(HeadKind.Q), of_packet.head.eq(number - keys)]
            heads.append(delayed(m, of_packet, name=name, **late))
        head = Signal(_Place(config))
        m.d.comb += head.eq(Mux(halves & part[-1], Value.cast(heads[1]), Value.cast(heads[0])))
        following = delayed(m, base + Mux(halves, 2, 1), name="following", **late)
        if config.registered:
            m.d.sync += moved.eq(self.command.ready | taken)
        last_part, last_row, last_chunk = (
            later(m, value, registered=config.registered, name=name)
            for name, value in (
                ("last_part", part == slices - 1),
                ("last_row", row == final_row),
                ("last_chunk", halves | (chunk == final_chunk)),
            )
        )
        m.d.comb += [
            self.score.eq(todo.score),
            self.command.ready.eq(~filling & ~draining),
            # Behind the last head there is padding.
            padding.eq(halves & part[-1] & heads[0].last),
            placed.valid.eq(self.beats.valid & filling & ~moved & ~padding),
            # Behind a slice, padding may wait for it like the others: `ready` does not depend on what comes.
            self.beats.ready.eq(
                filling & ~moved & placed.ready if config.registered else filling & (placed.ready | padding)
            ),
            taken.eq(self.beats.valid & self.beats.ready),
            o.values.eq(i.values),
            o.kmeans.eq(i.kmeans),
            o.tag.row.eq(row),
            o.tag.kind.eq(head.kind),
            o.tag.head.eq(head.head),
            o.half.eq(halves & part[-1]),
            o.word.eq(Mux(halves, part[:-1], Cat(part, chunk))),
            o.first.eq(o.word == 0),
            o.complete.eq(last_chunk & Mux(halves, part[:-1] == slices // 2 - 1, last_part)),
            o.release.eq(o.complete & last_row & (~halves | part[-1] | head.last)),
            o.last.eq(o.complete & last_row & head.last),
        ]

        with m.If(self.command.ready):
            command, valid = self.command.payload, self.command.valid
            m.d.sync += [todo.eq(command), base.eq(0), filling.eq(valid), draining.eq(valid)]
            # What follows from the command is kept, so that it is on no beat's way.
            m.d.sync += [
                halves.eq(command.head_pad < config.n),
                final_row.eq(command.rows - 1),
                final_chunk.eq((command.head_pad >> ceil_log2(config.n)) - 1),
                keys.eq(command.kv_heads << 1),
                final_head.eq((command.kv_heads << 1) + command.heads - 1),
            ]
        with m.If(self.finished):
            m.d.sync += draining.eq(0)
        with m.If(taken):
            m.d.sync += part.eq(part + 1)
            with m.If(last_part):
                m.d.sync += row.eq(Mux(last_row, 0, row + 1))
                with m.If(last_row):
                    m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
                    with m.If(last_chunk):
                        m.d.sync += base.eq(following)
            with m.If(i.last):
                m.d.sync += filling.eq(0)
        return m


class _Place(data.StructLayout):
    """A head of a packet, and whether it is the last one."""

    def __init__(self, config: AcceleratorConfig):
        tag = HeadTag(config)
        super().__init__({"kind": HeadKind, "head": tag["head"].shape, "last": 1})
