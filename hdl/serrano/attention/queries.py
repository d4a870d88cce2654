# SPDX-License-Identifier: Apache-2.0
"""The step's queries."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Scale
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.vector.payloads import HeadCodes, HeadKind, HeadScale

from .payloads import chunk_count, query_words, read_enable, word_address

__all__ = ["QueryBuffer", "QueryReadPort", "ScaleReadPort"]


class QueryReadPort(wiring.Signature):
    """Read port for the ``n`` codes of a chunk of a head, as the reader sees it.

    In a cycle with ``en`` the reader asks; ``data`` has the answer from the next cycle on, until the next
    read. With ``config.registered`` from the second cycle with ``advance`` on, that of ``en`` included.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "advance": Out(1),
                "row": Out(ceil_log2(config.rows_max)),
                "head": Out(ceil_log2(config.heads_max)),
                "chunk": Out(ceil_log2(max(2, config.head_chunks_max))),
                "data": In(data.ArrayLayout(signed(8), config.n)),
            }
        )


class ScaleReadPort(wiring.Signature):
    """Read port for the scale of a head: ``data`` has it from the cycle after ``en`` until the next read."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(ceil_log2(config.rows_max)),
                "head": Out(ceil_log2(config.heads_max)),
                "data": In(Scale),
            }
        )


class QueryBuffer(wiring.Component):
    """Keeps q of the step's rows: codes ``[rows_max, heads, chunks, n]`` and scales ``[rows_max, heads]``.

    Takes what is q from the streams, always ready. A head of ``n / 2`` channels takes a whole word, of which
    the upper half means nothing. With ``config.registered`` codes are written a cycle later. What is read was
    written in an earlier cycle.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    chunks : ``In(range)``
        Chunks of a head (count); constant from the first codes to the last read.
    codes : ``In(stream.Signature(HeadCodes(config)))``
        Codes of all kinds.
    scales : ``In(stream.Signature(HeadScale(config)))``
        Scales of all kinds.
    read : ``In(QueryReadPort(config))``
        Reads codes.
    read_scale : ``In(ScaleReadPort(config))``
        Reads scales.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "chunks": In(chunk_count(config)),
                "codes": In(stream.Signature(HeadCodes(config))),
                "scales": In(stream.Signature(HeadScale(config))),
                "read": In(QueryReadPort(config)),
                "read_scale": In(ScaleReadPort(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        words = query_words(config)
        slices = config.n // config.lanes
        m.submodules.codes_memory = codes = OnChipMemory(
            data.ArrayLayout(signed(8), config.n),
            config.rows_max * words,
            granularity=config.lanes,
            transparent=False,
            collides=False,
        )
        m.submodules.scales_memory = scales = OnChipMemory(
            Scale, max(2, config.rows_max * config.heads_max), transparent=False, collides=False
        )
        beat, scale = self.codes.payload, self.scales.payload
        chunk_bits = ceil_log2(config.n)
        lane_bits = ceil_log2(config.lanes)

        late, read = int(config.registered), self.read
        once = {"cycles": late, "enable": Const(1)}

        def address(place: Any, chunk: Value, **more: Any) -> Value:
            return word_address(m, place.row, words, place.head, self.chunks, chunk, cycles=late, **more)

        w_en = Mux(self.codes.valid & (beat.kind == HeadKind.Q), 1 << beat.column[lane_bits:chunk_bits], 0)[
            : len(codes.w_en)
        ]
        w_data = Value.cast(beat.codes).replicate(slices)
        m.d.comb += [
            self.codes.ready.eq(1),
            codes.w_en.eq(delayed(m, w_en, name="w_en", **once)),
            codes.w_addr.eq(address(beat, beat.column[chunk_bits:], enable=Const(1), name="write")),
            Value.cast(codes.w_data).eq(delayed(m, w_data, name="w_data", **once)),
            codes.r_en.eq(read_enable(read, registered=config.registered)),
            codes.r_addr.eq(address(read, read.chunk, enable=read.advance, name="read")),
            self.read.data.eq(codes.r_data),
            self.scales.ready.eq(1),
            scales.w_en.eq(self.scales.valid & (scale.kind == HeadKind.Q)),
            scales.w_addr.eq(scale.row * config.heads_max + scale.head),
            scales.w_data.eq(scale.scale),
            scales.r_en.eq(self.read_scale.en),
            scales.r_addr.eq(self.read_scale.row * config.heads_max + self.read_scale.head),
            self.read_scale.data.eq(scales.r_data),
        ]
        return m
