# SPDX-License-Identifier: Apache-2.0
"""Fetching a row's embedding and its RoPE table row."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from serrano.bus import ReadPort
from serrano.config import AcceleratorConfig
from serrano.kvcache.payloads import sequence_bits
from serrano.layouts import EpilogueBeat, PackedScale, Scale
from serrano.primitives.multiplier import Multiplier
from serrano.schedule.descriptor import ModelInfo
from serrano.stream import ByteWord, Gearbox, HalfRegister, StreamFIFO
from serrano.stream.pace import settled
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import slice_before
from serrano.vector.arithmetic import Scaler, unpack_scale
from serrano.vector.payloads import RopeWrite

__all__ = ["EmbedCommand", "Embedder", "EmbeddingDequantizer"]

AHEAD = 4
"""Rows asked for at a time."""


class EmbedCommand(data.StructLayout):
    """A row of the step: its sequence, its token and its position."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "row": ceil_log2(config.rows_max),
                "sequence": sequence_bits(config),
                "token": 32,
                "position": 32,
            }
        )


class EmbeddingDequantizer(wiring.Component):
    """Turns the bytes of an embedding row of the tape into Q16 elements: ``dequantize(code, scale)``.

    The first ``tape_align`` bytes of a row hold its packed scale; codes follow, ``lanes`` per word.
    Elements from ``dim``, rounded up to a multiple of ``n``, on are dropped.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    dim : ``In(16)``
        Model dimension.
    row : ``In(range(rows_max))``
        Row of the step that the words belong to.
    words : ``In(stream.Signature(ByteWord(lanes)))``
        Rows, one after another.
    beats : ``Out(stream.Signature(EpilogueBeat(config)))``
        Elements.
    busy : ``Out(1)``
        Beats are on their way.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = Scaler.latency_of(config.registered, 8)
        super().__init__(
            {
                "dim": In(16),
                "row": In(ceil_log2(config.rows_max)),
                "words": In(stream.Signature(ByteWord(config.lanes))),
                "beats": Out(stream.Signature(EpilogueBeat(config))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, word = self.config, self.words.payload
        header_words = config.tape_align // config.lanes
        index = Signal(range(header_words + 1))
        column = Signal.like(self.beats.payload.column)
        packed, scale = Signal(PackedScale), Signal(Scale)
        is_code, wanted = Signal(), Signal()
        # The model stays: what follows from it is kept. So is whether the column is below the end.
        end, final = Signal(17, reset_less=True), Signal(17, reset_less=True)
        inside = Signal(init=1)
        m.d.sync += [
            end.eq((self.dim + config.n - 1) & ~(config.n - 1)),
            final.eq(end - config.lanes),
        ]
        m.submodules.control = control = PipelineControl(self.latency, registered=config.registered)
        m.d.comb += [
            scale.eq(unpack_scale(packed)),
            is_code.eq(index == header_words),
            wanted.eq(is_code & inside),
            control.i_valid.eq(self.words.valid & wanted),
            self.words.ready.eq(control.i_ready | ~wanted),
            self.beats.valid.eq(control.o_valid),
            control.o_ready.eq(self.beats.ready),
            self.busy.eq(control.stages.any()),
            self.beats.payload.row.eq(delayed(m, self.row, self.latency, enable=control.advance)),
            self.beats.payload.column.eq(delayed(m, column, self.latency, enable=control.advance)),
        ]
        with m.If(self.words.valid & self.words.ready):
            with m.If(is_code):
                m.d.sync += [column.eq(column + config.lanes), inside.eq(column < final)]
            with m.Else():
                m.d.sync += index.eq(index + 1)
                with m.If(index < -(-2 // config.lanes)):
                    m.d.sync += packed.eq(Cat(packed, word.bytes)[-max(16, len(word.bytes)) :])
            with m.If(word.last):
                m.d.sync += [index.eq(0), column.eq(0), inside.eq(1)]
        for lane in range(config.lanes):
            m.submodules[f"lane_{lane}"] = scaler = Scaler(width=8, registered=config.registered)
            m.d.comb += [
                scaler.enable.eq(control.advance),
                scaler.value.eq(word.bytes.word_select(lane, 8).as_signed()),
                scaler.scale.eq(scale),
                self.beats.payload.values[lane].eq(scaler.result),
            ]
        return m


class Embedder(wiring.Component):
    """Reads tokens' embedding rows, dequantizes them, and reads the RoPE rows of their positions.

    Rows are read from the tables whose place the model descriptor gives. Up to ``AHEAD`` of them are asked
    for before the first has come, so that the memory's latency is paid once. ``beats`` carries the embedding
    in Q16, ``lanes`` elements per beat, padded with zeros to a multiple of ``n``; ``rope`` the pairs.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    tape : ``In(config.address_bits)``
        Address of the tape.
    model : ``In(ModelInfo)``
        The loaded model.
    command : ``In(stream.Signature(EmbedCommand(config)))``
        Rows to fetch, in this order.
    memory : ``Out(ReadPort(config))``
        Port to memory.
    beats : ``Out(stream.Signature(EpilogueBeat(config)))``
        Elements of the residual row.
    rope : ``Out(stream.Signature(RopeWrite(config)))``
        Table entries.
    idle : ``Out(1)``
        No command is being carried out, and no beat is on its way.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "tape": In(config.address_bits),
                "model": In(ModelInfo),
                "command": In(stream.Signature(EmbedCommand(config))),
                "memory": Out(ReadPort(config)),
                "beats": Out(stream.Signature(EpilogueBeat(config))),
                "rope": Out(stream.Signature(RopeWrite(config))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, beat = self.config, self.memory.data
        m.submodules.codes = codes = Gearbox(config.port_bytes, config.lanes)
        m.submodules.pairs = pairs = Gearbox(config.port_bytes, 2 * max(2, config.lanes))
        # Rows on their way, as the elements and as the pairs see it.
        row = ceil_log2(config.rows_max)
        m.submodules.code_rows = code_rows = StreamFIFO(row, AHEAD)
        m.submodules.pair_rows = pair_rows = StreamFIFO(row, AHEAD)
        m.submodules.dequantizer = dequantizer = EmbeddingDequantizer(config)
        self._build_requests(m, code_rows, pair_rows)
        # The runs that come are an embedding and a RoPE row in turn.
        in_rope = Signal()
        for gearbox, chosen in ((codes, ~in_rope), (pairs, in_rope)):
            m.d.comb += [
                gearbox.i.valid.eq(beat.valid & chosen),
                gearbox.i.payload.bytes.eq(beat.payload.bytes),
                gearbox.i.payload.last.eq(beat.payload.last),
            ]
        m.d.comb += beat.ready.eq(Mux(in_rope, pairs.i.ready, codes.i.ready))
        with m.If(beat.valid & beat.ready & beat.payload.last):
            m.d.sync += in_rope.eq(~in_rope)
        wiring.connect(m, codes.o, dequantizer.words)
        wiring.connect(m, dequantizer.beats, wiring.flipped(self.beats))
        m.d.comb += [
            dequantizer.dim.eq(self.model.dim),
            dequantizer.row.eq(code_rows.o.payload),
            code_rows.o.ready.eq(self._passed(m, codes.o, "codes_passed")),
            pair_rows.o.ready.eq(self._passed(m, pairs.o, "pairs_passed")),
            self.idle.eq(
                ~(self._asking | (code_rows.level != 0) | (pair_rows.level != 0) | dequantizer.busy)
            ),
        ]
        self._build_pairs(m, pairs, pair_rows.o.payload)
        return m

    def _passed(self, m: Module, words: Any, name: str) -> Value:
        """The last word of a run goes; with registers a cycle ago, as the next run is one of the others."""
        return settled(m, self.config, words.valid & words.ready & words.payload.last, name)

    def _build_requests(self, m: Module, code_rows: StreamFIFO, pair_rows: StreamFIFO) -> None:
        """Two runs for each command."""
        config, model = self.config, self.model
        request = slice_before(
            m,
            "request_slice",
            wiring.flipped(self.memory.request),
            registered=config.registered,
            kind=HalfRegister,
        )
        row = Signal(EmbedCommand(config))
        latency = config.multiplier_latency if config.registered else 1
        waited = Signal(range(latency))
        embed_address, embed_base, rope_address, rope_base = (
            Signal(config.address_bits, name=name, reset_less=True)
            for name in ("embed_address", "embed_base", "rope_address", "rope_base")
        )
        m.d.sync += [
            embed_base.eq(self.tape + model.embed_offset),
            rope_base.eq(self.tape + model.rope_offset),
        ]
        embed_product = self._build_product(m, "embed", row.token, config.vocab_max, model.embed_stride)
        rope_product = self._build_product(m, "rope", row.position, config.context_max, model.rope_stride)
        # With registers a row is noted a cycle after it was asked for, while its command is still there.
        asked_codes, asked_pairs = Signal(), Signal()
        m.d.comb += [
            code_rows.i.payload.eq(row.row),
            code_rows.i.valid.eq(settled(m, config, asked_codes, "codes_asked")),
            pair_rows.i.payload.eq(row.row),
            pair_rows.i.valid.eq(settled(m, config, asked_pairs, "pairs_asked")),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += row.eq(self.command.payload)
                with m.If(self.command.valid):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += waited.eq(Mux(waited == latency - 1, 0, waited + 1))
                with m.If(waited == latency - 1):
                    m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += [
                    embed_address.eq(embed_base + embed_product),
                    rope_address.eq(rope_base + rope_product),
                ]
                m.next = "EMBEDDING"
            for state, address, size, rows, asked, following in (
                ("EMBEDDING", embed_address, model.embed_stride, code_rows, asked_codes, "ROPE"),
                ("ROPE", rope_address, model.rope_stride, pair_rows, asked_pairs, "IDLE"),
            ):
                with m.State(state):
                    m.d.comb += [
                        request.valid.eq(rows.i.ready),
                        request.payload.address.eq(address),
                        request.payload.bytes.eq(size),
                        asked.eq(request.ready & rows.i.ready),
                    ]
                    with m.If(asked):
                        m.next = following
        self._asking = ~fsm.ongoing("IDLE") | pair_rows.i.valid

    def _build_product(self, m: Module, name: str, index: Value, end: int, stride: Value) -> Value:
        """Bytes in front of a row of a table, in the cycle after the last one of state ADDRESS."""
        bits = bits_for(end - 1)
        if not self.config.registered:
            product = Signal(self.config.address_bits, name=f"{name}_product", reset_less=True)
            m.d.sync += product.eq(index[:bits] * stride)
            return product
        multiplier = Multiplier(bits + 1, len(stride) + 1, latency=self.config.multiplier_latency)
        m.submodules[f"{name}_product"] = multiplier
        m.d.comb += [multiplier.a.eq(index[:bits]), multiplier.b.eq(stride)]
        return multiplier.p

    def _build_pairs(self, m: Module, pairs: Gearbox, row: Value) -> None:
        """Give out the pairs of the channels that a head has, drop the padding of the row."""
        config = self.config
        count, each = Signal(16), max(2, config.lanes)
        # Whether the next word is wanted is kept beside its number, the first one always is.
        final, wanted = Signal.like(self.model.head_pad, reset_less=True), Signal(init=1)
        m.d.sync += final.eq(self.model.head_pad - each)
        m.d.comb += [
            self.rope.valid.eq(pairs.o.valid & wanted),
            pairs.o.ready.eq(self.rope.ready | ~wanted),
            self.rope.payload.row.eq(row),
            self.rope.payload.word.eq(count),
            Value.cast(self.rope.payload.pairs).eq(pairs.o.payload.bytes),
        ]
        with m.If(pairs.o.valid & pairs.o.ready):
            m.d.sync += [
                count.eq(Mux(pairs.o.payload.last, 0, count + 1)),
                wanted.eq(pairs.o.payload.last | (count * each < final)),
            ]
