# SPDX-License-Identifier: Apache-2.0
"""Heads to int8 codes: sections 5 and 6 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Scale
from serrano.primitives.memory import OnChipMemory
from serrano.stream import HalfRegister, StreamFIFO, StreamRegister
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import later, slice_before, sliced

from .arithmetic import ScaleProduct, magnitude
from .maximum import LaneMaximum
from .payloads import HeadBeat, HeadCodes, HeadKind, HeadScale, HeadTag
from .quantizer import VectorJob, VectorQuantizer, vector_scale

__all__ = ["SLOTS", "HeadMaxima", "HeadQuantizer", "SlotTag"]

SLOTS = 2
"""Units of heads that may be in the quantizer at once."""


class SlotTag(data.StructLayout):
    """A head of a row as it is kept: in ``slot``, the second of its unit if ``half``.

    ``release`` marks the last head of the unit's last row, ``last`` that of the packet.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"head": HeadTag(config), "slot": 1, "half": 1, "release": 1, "last": 1})


class HeadMaxima(wiring.Component):
    """Finds the largest magnitude of each head of each row; makes a job of each head that is complete.

    Takes one beat per cycle and never waits. A head longer than a block comes block by block, with the other
    rows' parts between; its maximum so far waits in a memory.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    beat : ``In(HeadBeat(config))``
        Values and their place.
    slot : ``In(1)``
        Slot in which they are kept.
    valid : ``In(1)``
        They are here in this cycle.
    job : ``Out(VectorJob(head_dim_max / lanes, SlotTag(config)))``
        The head whose last beat came ``latency`` cycles ago.
    job_valid : ``Out(1)``
        There is one.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = self.latency_of(config)
        super().__init__(
            {
                "beat": In(HeadBeat(config)),
                "slot": In(1),
                "valid": In(1),
                "job": Out(VectorJob(config.head_dim_max // config.lanes, SlotTag(config))),
                "job_valid": Out(1),
            }
        )

    @staticmethod
    def latency_of(config: AcceleratorConfig) -> int:
        """Latency for a configuration: the tree, and the comparison with what came before.

        With registers, magnitudes are a cycle's work, and so is either of the two comparisons.
        """
        return LaneMaximum.latency_of(config.lanes) + 1 + 2 * int(config.registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        part_bits = ceil_log2(config.n // config.lanes)
        m.submodules.tree = tree = LaneMaximum(config.lanes, 32)
        m.submodules.partial = partial = OnChipMemory(32, max(2, config.rows_max), transparent=False)
        tag, beat = Signal(SlotTag(config)), self.beat
        late = {"cycles": int(config.registered), "enable": Const(1)}
        for lane in range(config.lanes):
            value = delayed(m, magnitude(beat.values[lane]), name=f"magnitude_{lane}", **late)
            m.d.comb += tree.values[lane].eq(value)
        m.d.comb += [
            tree.enable.eq(1),
            tag.head.eq(beat.tag),
            tag.slot.eq(self.slot),
            tag.half.eq(beat.half),
            tag.release.eq(beat.release),
            tag.last.eq(beat.last),
        ]
        known_after = tree.latency + late["cycles"]
        valid = Signal(known_after)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        known = Signal(SlotTag(config))
        word = Signal.like(beat.word)
        complete = Signal()
        m.d.comb += Cat(complete, word, known).eq(
            delayed(m, Cat(beat.complete, beat.word, tag), known_after, enable=1, name="place")
        )
        # The block's maximum so far, and then that of the head.
        now, part = valid[-1], word[:part_bits]
        largest, here = Signal(32, reset_less=True), Signal(32)
        m.d.comb += here.eq(Mux((part == 0) | (tree.maximum > largest), tree.maximum, largest))
        with m.If(now):
            m.d.sync += largest.eq(here)
        now = later(m, now, registered=config.registered, name="now")
        word, known, complete = (
            delayed(m, value, name=name, **late)
            for name, value in (("word", word), ("known", known), ("complete", complete))
        )
        if config.registered:
            # A cycle later, the block's maximum so far is what came of the value.
            here = largest
        part, chunk = word[:part_bits], word[part_bits:]
        total = Signal(32)
        earlier = partial.r_data
        m.d.comb += [
            total.eq(Mux((chunk == 0) | (here > earlier), here, earlier)),
            # The maximum so far is read with a block's first beat of a row, and used with its last.
            partial.r_en.eq(now & (part == 0)),
            partial.r_addr.eq(known.head.row),
            partial.w_en.eq(now & part.all() & ~complete),
            partial.w_addr.eq(known.head.row),
            partial.w_data.eq(total),
        ]
        job = Signal.like(self.job, reset_less=True)
        m.d.comb += self.job.eq(job)
        m.d.sync += self.job_valid.eq(now & complete)
        with m.If(now):
            m.d.sync += [job.maximum.eq(total), job.words.eq(word + 1), job.tag.eq(known)]
        return m


class HeadQuantizer(wiring.Component):
    """Quantizes each head of each row by itself.

    Two slots hold a unit of heads each (see :class:`~serrano.vector.payloads.HeadBeat`): while one is
    quantized, the next is filled. Takes and gives one beat per cycle as long as a unit takes longer than the
    way from its last beat to its release. Codes come head after head, of each unit row by row; a scale leaves
    when the last codes of its head of its row have been taken, or later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    score : ``In(Scale)``
        Constant that q's scales are multiplied by.
    beats : ``In(stream.Signature(HeadBeat(config)))``
        Values.
    codes : ``Out(stream.Signature(HeadCodes(config)))``
        Codes.
    scales : ``Out(stream.Signature(HeadScale(config)))``
        Scales.
    released : ``Out(1)``
        A slot has become free, with ``config.registered`` a cycle ago.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = self.latency_of(config)
        super().__init__(
            {
                "score": In(Scale),
                "beats": In(stream.Signature(HeadBeat(config))),
                "codes": Out(stream.Signature(HeadCodes(config))),
                "scales": Out(stream.Signature(HeadScale(config))),
                "released": Out(1),
            }
        )

    @staticmethod
    def latency_of(config: AcceleratorConfig) -> int:
        """Cycles from the last beat of a head of a row through maximum and FIFO to its first codes.

        With registers through slices as well, in front of the quantizer and behind it.
        """
        between = StreamFIFO.latency + 2 * int(config.registered)
        return HeadMaxima.latency_of(config) + between + VectorQuantizer.latency_of(config)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        words = config.head_dim_max // config.lanes
        half_bits = ceil_log2(config.n // (2 * config.lanes))
        m.submodules.memory = memory = OnChipMemory(
            data.ArrayLayout(signed(32), config.lanes),
            SLOTS * config.rows_max * words,
            transparent=False,
            collides=False,
        )
        m.submodules.maxima = maxima = HeadMaxima(config)
        m.submodules.jobs = jobs = StreamFIFO(maxima.job.shape(), 4 * config.rows_max)
        m.submodules.quantizer = quantizer = VectorQuantizer(config, words, SlotTag(config))
        slot, filled = Signal(), Signal(2)
        next_slot, next_filled = Signal.like(slot), Signal.like(filled)
        beat, taken = self.beats.payload, Signal()
        open_slot = Signal(init=1)

        def address(slot: Value, row: Value, half: Value, word: Value) -> Value:
            place = slot * (config.rows_max * words) + row * words + (word | half << half_bits)
            return place[: len(memory.w_addr)]

        m.d.comb += [
            self.beats.ready.eq(open_slot),
            taken.eq(self.beats.valid & self.beats.ready),
            memory.w_en.eq(taken),
            memory.w_addr.eq(address(slot, beat.tag.row, beat.half, beat.word)),
            memory.w_data.eq(beat.values),
            maxima.beat.eq(beat),
            maxima.slot.eq(slot),
            maxima.valid.eq(taken),
            # There is a place for every head of both slots, so that the maxima need not wait.
            jobs.i.valid.eq(maxima.job_valid),
            jobs.i.payload.eq(maxima.job),
            # With registers something is read in every cycle: so the memory's own register can be used.
            memory.r_en.eq(quantizer.r_advance if config.registered else quantizer.r_en),
            memory.r_addr.eq(
                address(
                    quantizer.r_tag.slot, quantizer.r_tag.head.row, quantizer.r_tag.half, quantizer.r_word
                )
            ),
        ]
        wiring.connect(m, sliced(m, "jobs_slice", jobs.o, registered=config.registered), quantizer.jobs)
        between = quantizer.read_latency - 2
        values = delayed(m, memory.r_data, between, enable=quantizer.r_advance, name="values")
        for lane in range(config.lanes):
            m.d.comb += quantizer.r_data[lane].eq(values[lane])
        m.d.comb += [next_slot.eq(slot), next_filled.eq(filled)]
        with m.If(taken & beat.release):
            m.d.comb += [next_slot.eq(~slot), next_filled.bit_select(slot, 1).eq(1)]
        released = Signal()
        m.d.comb += [
            released.eq(quantizer.r_en & quantizer.r_last & quantizer.r_tag.release),
            self.released.eq(later(m, released, registered=config.registered, name="late_released")),
        ]
        with m.If(released):
            m.d.comb += next_filled.bit_select(quantizer.r_tag.slot, 1).eq(0)
        # A pipeline stands still as `ready` says: it comes from a register.
        m.d.sync += [
            slot.eq(next_slot),
            filled.eq(next_filled),
            open_slot.eq(~next_filled.bit_select(next_slot, 1)),
        ]
        self._build_output(m, quantizer)
        return m

    def _build_output(self, m: Module, quantizer: VectorQuantizer) -> None:
        config = self.config
        # With registers a cycle passes between two vectors, and so between their scales.
        kind = HalfRegister if config.registered else StreamRegister
        m.submodules.register = register = kind(HeadScale(config))
        m.submodules.scale_product = product = ScaleProduct(registered=config.registered)
        m.submodules.control = control = PipelineControl(product.latency, registered=config.registered)
        given = slice_before(m, "codes_slice", flipped(self.codes), registered=config.registered)
        beat, codes, scale = quantizer.beats.payload, given.payload, register.i.payload
        scales = slice_before(
            m, "scales_slice", flipped(self.scales), registered=config.registered, kind=HalfRegister
        )
        # The register's ready never falls before it takes something, so that valid keeps what it promised.
        # With registers all codes wait for it, so that there is nothing but valid bits on their way.
        free = Signal()
        m.d.comb += [
            free.eq(register.i.ready if config.registered else ~beat.last | register.i.ready),
            given.valid.eq(quantizer.beats.valid & free),
            quantizer.beats.ready.eq(given.ready & free),
            register.i.valid.eq(quantizer.beats.valid & beat.last & given.ready),
            codes.kind.eq(beat.tag.head.kind),
            codes.row.eq(beat.tag.head.row),
            codes.head.eq(beat.tag.head.head),
            codes.column.eq(beat.word << ceil_log2(config.lanes)),
            codes.codes.eq(beat.codes),
            codes.last.eq(beat.last & beat.tag.last),
            scale.kind.eq(beat.tag.head.kind),
            scale.row.eq(beat.tag.head.row),
            scale.head.eq(beat.tag.head.head),
            scale.scale.eq(vector_scale(beat.factors)),
            scale.last.eq(beat.tag.last),
            control.i_valid.eq(register.o.valid),
            register.o.ready.eq(control.i_ready),
            product.enable.eq(control.advance),
            product.a.eq(register.o.payload.scale),
            product.b.eq(self.score),
            scales.valid.eq(control.o_valid),
            control.o_ready.eq(scales.ready),
            scales.payload.eq(
                delayed(m, register.o.payload, product.latency, enable=control.advance, name="plain")
            ),
        ]
        with m.If(scales.payload.kind == HeadKind.Q):
            m.d.comb += scales.payload.scale.eq(product.product)
