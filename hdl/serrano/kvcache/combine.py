# SPDX-License-Identifier: Apache-2.0
"""From pieces of a few bytes to writes of whole words."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus import WritePort, WriteRequest
from serrano.config import AcceleratorConfig
from serrano.layouts import tag_bits
from serrano.stream import ForwardRegister
from serrano.stream.slices import later, sliced

__all__ = ["Piece", "WriteCombiner", "piece_bytes"]


def piece_bytes(config: AcceleratorConfig) -> int:
    """Bytes of the largest piece: the codes of all lanes, or a scale."""
    return max(2, config.lanes)


class Piece(data.StructLayout):
    """``2 ** size`` bytes for ``address``, which is a multiple of that.

    Pieces of two streams may be mixed, ``scale`` telling which is which. Those of one word have the same
    ``tag``.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": config.address_bits,
                "size": range(exact_log2(piece_bytes(config)) + 1),
                "bytes": data.ArrayLayout(unsigned(8), piece_bytes(config)),
                "scale": 1,
                "tag": tag_bits(config),
            }
        )


class _Word(data.StructLayout):
    """What a piece has of a word; ``follows`` if so had the piece before of the same stream."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"request": WriteRequest(config), "scale": 1, "follows": 1})


class WriteCombiner(wiring.Component):
    """Turns pieces into strobed writes, joining pieces of the same word that follow each other.

    A piece longer than a word takes several cycles. Each of the two streams has a word that waits for more;
    it leaves when a piece for another word comes, or with ``flush``. With ``config.registered`` two cycles
    find the word of a piece, another one joins it, and one takes it to the port.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    pieces : ``In(stream.Signature(Piece(config)))``
        What to write.
    flush : ``In(1)``
        No more pieces come for now: let waiting words go.
    memory : ``Out(WritePort(config))``
        Port to memory.
    pending : ``Out(1)``
        Something that was taken is not yet written and acknowledged.
    waiting : ``Out(1)``
        Something that was taken has not left for memory.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "pieces": In(stream.Signature(Piece(config))),
                "flush": In(1),
                "memory": Out(WritePort(config)),
                "pending": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        request = stream.Signature(WriteRequest(self.config)).create(path=("joined",))
        leaving = sliced(m, "leaving", request, registered=self.config.registered)
        wiring.connect(m, leaving, wiring.flipped(self.memory.request))
        words = stream.Signature(_Word(self.config)).create(path=("found",))
        held = [Signal(WriteRequest(self.config), name=f"held_{index}") for index in range(2)]
        registered = self.config.registered
        pieces = sliced(m, "pieces", wiring.flipped(self.pieces), registered=registered, kind=ForwardRegister)
        flush = later(m, self.flush, registered=registered, name="late_flush")
        self._build_words(m, pieces, words, held)
        words = sliced(m, "words", words, registered=self.config.registered)
        word, take = words.payload.request, Signal()
        full, open_, leave = Signal(2), Signal(2), Signal(2)
        free = ~request.valid | request.ready
        mine = Cat(~words.payload.scale, words.payload.scale) & words.valid.replicate(2)
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        for index, waiting in enumerate(held):
            same = full[index] & words.payload.follows
            first = ~leave[0] if index else Const(1)
            m.d.comb += [
                # A piece can join, or the word before it can go: the other one only goes when none comes.
                open_[index].eq(~full[index] | same | free),
                leave[index].eq(full[index] & free & first & Mux(mine[index], ~same, flush & ~mine.any())),
            ]
            with m.If(leave[index]):
                m.d.sync += [request.valid.eq(1), request.payload.eq(waiting), full[index].eq(0)]
            with m.If(mine[index] & take):
                m.d.sync += [
                    full[index].eq(1),
                    waiting.address.eq(word.address),
                    waiting.tag.eq(word.tag),
                    waiting.strobe.eq(word.strobe | Mux(same, waiting.strobe, 0)),
                ]
                for byte in range(self.config.port_bytes):
                    with m.If(word.strobe[byte]):
                        m.d.sync += waiting.bytes[byte].eq(word.bytes[byte])
        m.d.comb += [
            take.eq((mine & open_).any()),
            words.ready.eq(take),
            self.waiting.eq(
                full.any()
                | request.valid
                | leaving.valid
                | ((words.valid | pieces.valid) & self.config.registered)
            ),
            self.pending.eq(self.waiting | self.memory.pending),
        ]
        return m

    def _build_words(self, m: Module, pieces: Any, words: Any, held: list[Any]) -> None:
        """The piece's next word: its bytes in their place."""
        width, longest = self.config.port_bytes, piece_bytes(self.config)
        piece, word = pieces.payload, words.payload.request
        width_bits = exact_log2(width)
        step = Signal(range(max(2, longest // width)))
        steps = Signal.like(step)
        last = Signal()
        sizes = range(min(1, exact_log2(self.config.lanes)), min(width_bits, exact_log2(longest)) + 1)
        offset = piece.address[:width_bits]
        # The address that each word kept will have, when those under way have come.
        latest = [waiting.address for waiting in held]
        if self.config.registered:
            latest = [Signal.like(address, name=f"latest_{k}") for k, address in enumerate(latest)]
            with m.If(words.valid & words.ready):
                for is_scale, address in enumerate(latest):
                    with m.If(piece.scale == is_scale):
                        m.d.sync += address.eq(word.address)
        m.d.comb += [
            word.address.eq(Cat(Const(0, width_bits), (piece.address >> width_bits) + step)),
            word.tag.eq(piece.tag),
            # Of pieces no longer than a word there is one word.
            steps.eq(((1 << piece.size) - 1) >> width_bits if longest > width else 0),
            last.eq(step == steps),
            words.valid.eq(pieces.valid),
            words.payload.scale.eq(piece.scale),
            words.payload.follows.eq(Mux(piece.scale, latest[1], latest[0]) == word.address),
            pieces.ready.eq(words.ready & last),
        ]
        if longest > width:
            with m.If(words.valid & words.ready):
                m.d.sync += step.eq(Mux(last, 0, step + 1))
        source = Signal(data.ArrayLayout(unsigned(8), max(longest, width)))
        m.d.comb += Value.cast(source).eq(Value.cast(piece.bytes) >> (step << (3 + width_bits)))
        for place in range(width):
            for size in sizes:
                # The largest size also stands for longer pieces.
                with m.If((piece.size >= size) if size == sizes[-1] else (piece.size == size)):
                    m.d.comb += [
                        word.bytes[place].eq(source[place % (1 << size)]),
                        word.strobe[place].eq(offset >> size == place >> size),
                    ]
