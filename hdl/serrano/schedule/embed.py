# SPDX-License-Identifier: Apache-2.0
"""Fetching a row's embedding and its RoPE table row."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.bus import ReadPort
from serrano.config import AcceleratorConfig
from serrano.kvcache.payloads import sequence_bits
from serrano.layouts import EpilogueBeat, PackedScale, Scale
from serrano.schedule.descriptor import ModelInfo
from serrano.stream import ByteWord, Gearbox
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.vector.arithmetic import Scaler, unpack_scale
from serrano.vector.payloads import RopeWrite

__all__ = ["EmbedCommand", "Embedder", "EmbeddingDequantizer"]


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
        Row of the step; constant while a row passes.
    words : ``In(stream.Signature(ByteWord(lanes)))``
        Rows, one after another.
    beats : ``Out(stream.Signature(EpilogueBeat(config)))``
        Elements.
    busy : ``Out(1)``
        Beats are on their way.
    """

    latency = Scaler.latency

    def __init__(self, config: AcceleratorConfig):
        self.config = config
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
        m.submodules.control = control = PipelineControl(Scaler.latency)
        m.d.comb += [
            scale.eq(unpack_scale(packed)),
            is_code.eq(index == header_words),
            wanted.eq(is_code & (column < ((self.dim + config.n - 1) & ~(config.n - 1)))),
            control.i_valid.eq(self.words.valid & wanted),
            self.words.ready.eq(control.i_ready | ~wanted),
            self.beats.valid.eq(control.o_valid),
            control.o_ready.eq(self.beats.ready),
            self.busy.eq(control.stages.any()),
            self.beats.payload.row.eq(self.row),
            self.beats.payload.column.eq(delayed(m, column, Scaler.latency, enable=control.advance)),
        ]
        with m.If(self.words.valid & self.words.ready):
            with m.If(is_code):
                m.d.sync += column.eq(column + config.lanes)
            with m.Else():
                m.d.sync += index.eq(index + 1)
                with m.If(index == 0):
                    m.d.sync += packed.eq(word.bytes[:16])
            with m.If(word.last):
                m.d.sync += [index.eq(0), column.eq(0)]
        for lane in range(config.lanes):
            m.submodules[f"lane_{lane}"] = scaler = Scaler(width=8)
            m.d.comb += [
                scaler.enable.eq(control.advance),
                scaler.value.eq(word.bytes.word_select(lane, 8).as_signed()),
                scaler.scale.eq(scale),
                self.beats.payload.values[lane].eq(scaler.result),
            ]
        return m


class Embedder(wiring.Component):
    """Reads a token's embedding row, dequantizes it, and reads the RoPE row of its position.

    One command at a time; rows are read from the tables whose place the model descriptor gives. ``beats``
    carries the embedding in Q16, ``lanes`` elements per beat, padded with zeros to a multiple of ``n``;
    ``rope`` the pairs.

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
        Rows to fetch.
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
        config, memory = self.config, self.memory
        m.submodules.codes = codes = Gearbox(config.port_bytes, config.lanes)
        m.submodules.pairs = pairs = Gearbox(config.port_bytes, 2 * config.lanes)
        row = Signal(EmbedCommand(config))
        embed_address = Signal(config.address_bits, reset_less=True)
        rope_address = Signal(config.address_bits, reset_less=True)
        reading, in_rope = Signal(), Signal()
        beat = memory.data
        for gearbox, chosen in ((codes, ~in_rope), (pairs, in_rope)):
            m.d.comb += [
                gearbox.i.valid.eq(beat.valid & reading & chosen),
                gearbox.i.payload.bytes.eq(beat.payload.bytes),
                gearbox.i.payload.last.eq(beat.payload.last),
            ]
        m.d.comb += beat.ready.eq(reading & Mux(in_rope, pairs.i.ready, codes.i.ready))
        m.submodules.dequantizer = dequantizer = EmbeddingDequantizer(config)
        wiring.connect(m, codes.o, dequantizer.words)
        wiring.connect(m, dequantizer.beats, wiring.flipped(self.beats))
        m.d.comb += [dequantizer.dim.eq(self.model.dim), dequantizer.row.eq(row.row)]
        self._build_pairs(m, pairs, row)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.command.ready.eq(1), self.idle.eq(~dequantizer.busy)]
                m.d.sync += row.eq(self.command.payload)
                with m.If(self.command.valid):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += [
                    embed_address.eq(row.token * self.model.embed_stride),
                    rope_address.eq(row.position * self.model.rope_stride),
                ]
                m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += [
                    embed_address.eq(embed_address + self.tape + self.model.embed_offset),
                    rope_address.eq(rope_address + self.tape + self.model.rope_offset),
                ]
                m.next = "REQUEST_EMBEDDING"
            with m.State("REQUEST_EMBEDDING"):
                m.d.comb += [
                    memory.request.valid.eq(1),
                    memory.request.payload.address.eq(embed_address),
                    memory.request.payload.bytes.eq(self.model.embed_stride),
                ]
                with m.If(memory.request.ready):
                    m.next = "REQUEST_ROPE"
            with m.State("REQUEST_ROPE"):
                m.d.comb += [
                    memory.request.valid.eq(1),
                    memory.request.payload.address.eq(rope_address),
                    memory.request.payload.bytes.eq(self.model.rope_stride),
                ]
                m.d.sync += in_rope.eq(0)
                with m.If(memory.request.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += reading.eq(1)
                with m.If(beat.valid & beat.ready & beat.payload.last):
                    m.d.sync += in_rope.eq(1)
                    with m.If(in_rope):
                        m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(~codes.o.valid & ~pairs.o.valid & ~dequantizer.busy):
                    m.next = "IDLE"
        return m

    def _build_pairs(self, m: Module, pairs: Gearbox, row: Any) -> None:
        """Give out the pairs of the channels that a head has, drop the padding of the row."""
        config = self.config
        count = Signal(16)
        wanted = count * config.lanes < self.model.head_pad
        m.d.comb += [
            self.rope.valid.eq(pairs.o.valid & wanted),
            pairs.o.ready.eq(self.rope.ready | ~wanted),
            self.rope.payload.row.eq(row.row),
            self.rope.payload.word.eq(count),
            Value.cast(self.rope.payload.pairs).eq(pairs.o.payload.bytes),
        ]
        with m.If(pairs.o.valid & pairs.o.ready):
            m.d.sync += count.eq(Mux(pairs.o.payload.last, 0, count + 1))
