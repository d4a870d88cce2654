# SPDX-License-Identifier: Apache-2.0
"""Writing a step's k and v into the blocks of their sequences."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus import WritePort
from serrano.config import AcceleratorConfig
from serrano.primitives.multiplier import Multiplier
from serrano.stream import StreamFIFO
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later, sliced
from serrano.vector.arithmetic import limit
from serrano.vector.payloads import HeadCodes, HeadKind, HeadScale

from .combine import Piece, WriteCombiner, piece_bytes
from .commands import Status
from .payloads import (
    BLOCK_SIZE,
    RECORD_BITS,
    SLOT_BITS,
    AppendCommand,
    KVGeometry,
    Place,
    TranslatePort,
    last_shift,
    record_bytes,
    record_length_bits,
)
from .places import Places

__all__ = ["Appender"]

DEPTH = 32
"""Pieces between the heads and the memory port."""


class Appender(wiring.Component):
    """Writes the codes and scales of k and v heads to the slots of their rows' tokens.

    Before a step, ``places`` tells which token each row is. A command covers the codes and scales of one
    packet, up to and including those with ``last``; those of q heads are dropped, and so is what belongs to
    padding, or to a row whose block is not there. Within its block, row's record ``record + head``:

    * scales at ``32 * kind + 2 * slot``;
    * the code of dimension ``d`` at ``64 + 16 * head_dim * kind + 16 * n * (d // n) + slot * w + d % n``,
      with ``w`` the width of the chunk that ``d`` is in: ``n``, or less in the last one.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    geometry : ``In(KVGeometry(config))``
        Addresses and sizes.
    places : ``In(stream.Signature(Place(config)))``
        Which token a row is; not while a command is executed.
    command : ``In(stream.Signature(AppendCommand(config)))``
        The next packet; taken when all writes of the one before have left for memory, and look-ups are done.
    codes : ``In(stream.Signature(HeadCodes(config)))``
        Codes of all heads.
    scales : ``In(stream.Signature(HeadScale(config)))``
        Scales of all heads.
    translate : ``Out(TranslatePort(config))``
        To the controller.
    memory : ``Out(WritePort(config))``
        Port to memory.
    pending : ``Out(1)``
        A look-up or a command is under way, or a write is not yet acknowledged.
    fault : ``Out({"valid", "status"})``
        Valid for one cycle per row whose block is not there.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "geometry": In(KVGeometry(config)),
                "places": In(stream.Signature(Place(config))),
                "command": In(stream.Signature(AppendCommand(config))),
                "codes": In(stream.Signature(HeadCodes(config))),
                "scales": In(stream.Signature(HeadScale(config))),
                "translate": Out(TranslatePort(config)),
                "memory": Out(WritePort(config)),
                "pending": Out(1),
                "fault": Out(data.StructLayout({"valid": 1, "status": Status})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.places = places = Places(config)
        m.submodules.pieces = pieces = StreamFIFO(Piece(config), DEPTH)
        m.submodules.combiner = combiner = WriteCombiner(config)
        for name in ("places", "translate"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(places, name))
        wiring.connect(m, wiring.flipped(self.memory), combiner.memory)
        wiring.connect(m, pieces.o, combiner.pieces)

        record = Signal(RECORD_BITS)
        active, codes_wait, scales_wait = Signal(), Signal(), Signal()
        # Pieces taken and not yet on their way to memory.
        inside = Signal(range(DEPTH + 1))
        of_codes, of_scale, selected = (Signal(_Selected(config), name=f"selected_{i}") for i in range(3))
        taken, dropped = Signal(), Signal()
        # With registers, what is taken and what leaves counts a cycle later.
        entered, left = (
            later(m, value, registered=config.registered, name=name)
            for name, value in (("entered", taken), ("left", pieces.o.valid & pieces.o.ready))
        )
        drained = (inside == 0) & ~entered & ~combiner.waiting
        codes = sliced(m, "codes", wiring.flipped(self.codes), registered=config.registered)
        scales = sliced(m, "scales", wiring.flipped(self.scales), registered=config.registered)
        self._taken = codes.payload, scales.payload
        room = Signal(init=1)
        if config.registered:
            # Two more may have been taken by now.
            m.d.sync += room.eq(inside < DEPTH - 2)
        else:
            m.d.comb += room.eq(inside != DEPTH)
        m.d.comb += [
            places.geometry.eq(self.geometry),
            self.fault.eq(places.fault),
            # Scales are few: they come first.
            scales.ready.eq(scales_wait & room),
            codes.ready.eq(codes_wait & room & ~(scales.valid & scales_wait)),
            selected.eq(Mux(scales.valid & scales_wait, Value.cast(of_scale), Value.cast(of_codes))),
            taken.eq(((scales.valid & scales.ready) | (codes.valid & codes.ready)) & selected.wanted),
            combiner.flush.eq(
                later(m, ~codes_wait & ~scales_wait, registered=config.registered, name="flush")
            ),
            self.pending.eq(active | combiner.pending | places.busy | self.places.valid),
        ]
        if config.registered:
            # Rows get their places long before the first packet.
            free = ~self.command.valid | ~self.command.ready
            m.d.sync += self.command.ready.eq(~active & ~places.busy & free)
        else:
            m.d.comb += self.command.ready.eq(~active & ~places.busy)
        m.d.sync += inside.eq(inside + entered - dropped - left)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [
                record.eq(self.command.payload.record),
                Cat(active, codes_wait, scales_wait).eq(0b111),
            ]
        with m.If(codes.valid & codes.ready & codes.payload.last):
            m.d.sync += codes_wait.eq(0)
        with m.If(scales.valid & scales.ready & scales.payload.last):
            m.d.sync += scales_wait.eq(0)
        with m.If(active & ~codes_wait & ~scales_wait & drained):
            m.d.sync += active.eq(0)
        self._build_selection(m, of_codes, of_scale, record)
        self._build_address(m, places, pieces, selected, taken, dropped)
        return m

    def _build_selection(self, m: Module, of_codes: Any, of_scale: Any, record: Signal) -> None:
        """Where in its record a beat goes, its token apart."""
        config = self.config
        n_bits, lane_bits = exact_log2(config.n), exact_log2(config.lanes)
        codes, scales = self._taken
        # The geometry stays.
        late = {"cycles": int(config.registered), "enable": Const(1)}
        head_dim = delayed(m, self.geometry.head_dim, name="head_dim", **late)
        final_chunk = delayed(m, (head_dim - 1)[: len(codes.column)] >> n_bits, name="final_chunk", **late)
        narrow = Signal(range(n_bits + 1))
        m.d.comb += narrow.eq(last_shift(config, head_dim))
        narrow = delayed(m, narrow, name="narrow", **late)
        packed = Cat(scales.scale.mantissa[5:15], (scales.scale.exponent + 40)[:6])
        m.d.comb += [
            of_scale.wanted.eq(scales.kind != HeadKind.Q),
            of_scale.row.eq(scales.row),
            of_scale.index.eq(record + scales.head),
            of_scale.part.eq(Mux(scales.kind == HeadKind.V, 2 * BLOCK_SIZE, 0)),
            of_scale.token_shift.eq(1),
            of_scale.size.eq(1),
            Value.cast(of_scale.bytes).eq(packed),
            of_scale.scale.eq(1),
        ]
        chunk, within = codes.column >> n_bits, codes.column[:n_bits]
        width = Mux(chunk == final_chunk, narrow, n_bits)
        run = Mux(codes.kind == HeadKind.V, head_dim << SLOT_BITS, 0)
        m.d.comb += [
            of_codes.wanted.eq((codes.kind != HeadKind.Q) & (codes.column < head_dim)),
            of_codes.row.eq(codes.row),
            of_codes.index.eq(record + codes.head),
            of_codes.part.eq(4 * BLOCK_SIZE + run + (chunk << (n_bits + SLOT_BITS)) + within),
            of_codes.token_shift.eq(width),
            of_codes.size.eq(limit(width, 0, lane_bits)),
            Value.cast(of_codes.bytes).eq(Value.cast(codes.codes)),
        ]

    def _build_address(
        self,
        m: Module,
        places: Places,
        pieces: StreamFIFO,
        selected: Any,
        taken: Signal,
        dropped: Signal,
    ) -> None:
        """Addresses: the product, two sums, their sum. Nothing waits, as there is room."""
        config, geometry = self.config, self.geometry
        latency = config.multiplier_latency
        m.submodules.product = product = Multiplier(
            RECORD_BITS + 1, record_length_bits(config) + 1, latency=latency
        )
        index = Signal(RECORD_BITS)
        valid = Signal(latency + 2)
        always = Const(1)
        m.d.comb += [
            places.r_en.eq(1),
            places.r_row.eq(selected.row),
            product.a.eq(index),
            product.b.eq(
                delayed(
                    m,
                    record_bytes(geometry.head_dim),
                    int(config.registered),
                    enable=Const(1),
                    name="length",
                )
            ),
        ]
        m.d.sync += [index.eq(selected.index), valid.eq(Cat(taken, valid))]
        # Cycle 1: the row's place is known. Cycle 1 + latency: so is the product.
        piece = delayed(m, selected, 1 + latency, enable=always, name="piece")
        place = delayed(m, places.r_entry, latency, enable=always, name="place")
        block, within = Signal(config.address_bits), Signal(record_length_bits(config))
        mapped, seq = Signal(), Signal.like(place.seq)
        m.d.sync += [
            block.eq(place.address + product.p),
            within.eq(piece.part + (place.slot << piece.token_shift)),
            mapped.eq(place.mapped),
            seq.eq(place.seq),
        ]
        piece = delayed(m, piece, 1, enable=always, name="summed")
        m.d.comb += [
            pieces.i.valid.eq(valid[-1] & mapped),
            pieces.i.payload.address.eq(block + within),
            pieces.i.payload.size.eq(piece.size),
            pieces.i.payload.bytes.eq(piece.bytes),
            pieces.i.payload.scale.eq(piece.scale),
            pieces.i.payload.tag.eq(seq),
            dropped.eq(valid[-1] & ~mapped),
        ]


class _Selected(data.StructLayout):
    """A beat of codes or a scale, ``index`` being its record, and ``part`` its place in it for token 0."""

    def __init__(self, config: AcceleratorConfig):
        codes = HeadCodes(config)
        super().__init__(
            {
                "wanted": 1,
                "row": codes["row"].shape,
                "index": RECORD_BITS,
                "part": record_length_bits(config),
                "token_shift": range(exact_log2(config.n) + 1),
                "size": range(exact_log2(piece_bytes(config)) + 1),
                "bytes": data.ArrayLayout(unsigned(8), piece_bytes(config)),
                "scale": 1,
            }
        )
