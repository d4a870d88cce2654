# SPDX-License-Identifier: Apache-2.0
"""The step's own keys and values, which are not in memory yet."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import PackedScale
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.vector.arithmetic import pack_scale
from serrano.vector.payloads import HeadCodes, HeadKind, HeadScale

from .payloads import chunk_count, kv_words, read_enable, word_address

__all__ = ["ForwardBuffer", "ForwardReadPort", "PairReadPort"]


class ForwardReadPort(wiring.Signature):
    """Read port for ``load_vectors`` adjacent rows of a chunk of k, or with ``values`` of v.

    The first row is ``row``, which may be negative; rows that the buffer does not have read as anything. In a
    cycle with ``en`` the reader asks; ``data`` has the answer from the next cycle on, until the next read.
    With ``config.registered`` from the second cycle with ``advance`` on, that of ``en`` included.
    """

    def __init__(self, config: AcceleratorConfig):
        vector = data.ArrayLayout(signed(8), config.n)
        super().__init__(
            {
                "en": Out(1),
                "advance": Out(1),
                "values": Out(1),
                "row": Out(signed(ceil_log2(config.rows_max + config.load_vectors) + 1)),
                "head": Out(ceil_log2(config.heads_max)),
                "chunk": Out(ceil_log2(max(2, config.head_chunks_max))),
                "data": In(data.ArrayLayout(vector, config.load_vectors)),
            }
        )


class PairReadPort(wiring.Signature):
    """Read port for the packed scales of k and v of a head, timed as :class:`ForwardReadPort`."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(ceil_log2(config.rows_max)),
                "head": Out(ceil_log2(config.heads_max)),
                "data": In(data.ArrayLayout(PackedScale, 2)),
            }
        )


class ForwardBuffer(wiring.Component):
    """Keeps k and v of the step's rows, codes and packed scales, for the tokens that are not committed.

    Takes what is k or v from the streams, always ready; with ``config.registered`` codes are written a cycle
    later. There are ``load_vectors`` banks; row ``r`` is in
    bank ``r mod load_vectors``, so that any ``load_vectors`` adjacent rows come in one read. What is read was
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
        Scales of all kinds; those of k and v have packed form.
    read : ``In(ForwardReadPort(config))``
        Reads codes.
    read_scales : ``In(PairReadPort(config))``
        Reads scales.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "chunks": In(chunk_count(config)),
                "codes": In(stream.Signature(HeadCodes(config))),
                "scales": In(stream.Signature(HeadScale(config))),
                "read": In(ForwardReadPort(config)),
                "read_scales": In(PairReadPort(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        scale, pair = self.scales.payload, self.read_scales
        # Rows are a power of two of heads apart: a product would stand in the way to the memory.
        head_bits = ceil_log2(min(config.heads_max, kv_words(config)))
        m.submodules.scales_memory = scales = OnChipMemory(
            data.ArrayLayout(PackedScale, 2),
            config.rows_max << head_bits,
            granularity=1,
            transparent=False,
            collides=False,
        )
        packed = Value.cast(pack_scale(scale.scale))
        m.d.comb += [
            self.codes.ready.eq(1),
            self.scales.ready.eq(1),
            scales.w_en[0].eq(self.scales.valid & (scale.kind == HeadKind.K)),
            scales.w_en[1].eq(self.scales.valid & (scale.kind == HeadKind.V)),
            scales.w_addr.eq(Cat(scale.head[:head_bits], scale.row)),
            Value.cast(scales.w_data).eq(packed.replicate(2)),
            scales.r_en.eq(pair.en),
            scales.r_addr.eq(Cat(pair.head[:head_bits], pair.row)),
            pair.data.eq(scales.r_data),
        ]
        # The bank of the first row of the read whose answer is there.
        late, read = int(config.registered), self.read
        asked = read_enable(read, registered=config.registered)
        first = Signal(range(max(2, config.load_vectors)))
        turn = Signal.like(first, reset_less=True)
        m.d.comb += first.eq(read.row[: ceil_log2(config.load_vectors)])
        with m.If(asked):
            m.d.sync += turn.eq(delayed(m, first, late, enable=read.advance, name="first"))
        banks = [self._build_bank(m, bank, asked) for bank in range(config.load_vectors)]
        for vector in range(config.load_vectors):
            order = [banks[(first + vector) % config.load_vectors] for first in range(config.load_vectors)]
            m.d.comb += Value.cast(self.read.data[vector]).eq(Array(order)[turn])
        return m

    def _build_bank(self, m: Module, bank: int, asked: Value) -> Value:
        config, beat, read = self.config, self.codes.payload, self.read
        vectors, words, late = config.load_vectors, kv_words(config), int(config.registered)
        bits = ceil_log2(vectors)
        depth = -(-config.rows_max // vectors)
        m.submodules[f"bank_{bank}"] = memory = OnChipMemory(
            data.ArrayLayout(signed(8), config.n),
            max(2, 2 * depth * words),
            granularity=config.lanes,
            transparent=False,
            collides=False,
        )
        chunk_bits, lane_bits = ceil_log2(config.n), ceil_log2(config.lanes)
        write = self.codes.valid & (beat.kind != HeadKind.Q)
        if bits:
            write &= beat.row[:bits] == bank
        # Of the rows that are asked for, the one that is in this bank; with its place in it.
        row = Signal(signed(len(read.row) + 1), name=f"row_{bank}")
        place = Signal(range(max(2, depth)), name=f"place_{bank}")
        if bits:
            m.d.comb += row.eq(read.row + (bank - read.row)[:bits])
        else:
            m.d.comb += row.eq(read.row)
        m.d.comb += place.eq(Mux((row < 0) | (row >= config.rows_max), 0, row >> bits))

        def address(values: Value, place: Value, head: Value, chunk: Value, **more: Any) -> Value:
            start = Mux(values, depth, 0) + place
            return word_address(m, start, words, head, self.chunks, chunk, cycles=late, **more)

        lanes = Value.cast(beat.codes).replicate(config.n // config.lanes)
        w_en = Mux(write, 1 << beat.column[lane_bits:chunk_bits], 0)[: len(memory.w_en)]
        w_chunk = beat.column[chunk_bits:]
        once = {"cycles": late, "enable": Const(1)}
        m.d.comb += [
            memory.w_en.eq(delayed(m, w_en, name=f"w_en_{bank}", **once)),
            memory.w_addr.eq(
                address(
                    beat.kind == HeadKind.V,
                    beat.row >> bits,
                    beat.head,
                    w_chunk,
                    enable=Const(1),
                    name="write",
                )
            ),
            Value.cast(memory.w_data).eq(delayed(m, lanes, name=f"w_data_{bank}", **once)),
            memory.r_en.eq(asked),
            memory.r_addr.eq(
                address(read.values, place, read.head, read.chunk, enable=read.advance, name="read")
            ),
        ]
        return Value.cast(memory.r_data)
