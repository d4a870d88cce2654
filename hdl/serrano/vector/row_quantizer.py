# SPDX-License-Identifier: Apache-2.0
"""Rows to codes for the array: section 5 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Scale
from serrano.stream import StreamRegister
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import later

from .h16 import h16_parts
from .norm import NormScale, SquareSum
from .payloads import CodesBeat, QuantizeCommand, WordReadPort, row_bits
from .quantizer import Factors, LaneQuantizer, VectorQuantizer, vector_scale

__all__ = ["RowQuantizer"]


class RowQuantizer(wiring.Component):
    """Quantizes rows of the residual or of the staging buffer, after RMSNorm where asked for.

    Codes come row after row, ``lanes`` per cycle without stalls, from one row to the next without pause; from
    ``length`` up to the next multiple of ``n`` they are zero. The first leave ``latency`` (15, with
    ``config.registered`` 30) cycles after the command was taken. A row's scale is set after its elements were
    read, ``scale_latency`` cycles later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(QuantizeCommand(config)))``
        What to quantize; at least one row and one element. Source and maxima must be complete.
    residual : ``Out(WordReadPort(config, signed(32), dim_max))``
        Reads the residual.
    residual_maxima : ``In(ArrayLayout(32, rows_max))``
        Maxima of the residual's rows.
    staged : ``Out(WordReadPort(config, unsigned(16), input_max))``
        Reads the staging buffer.
    staged_maxima : ``In(ArrayLayout(15, rows_max))``
        Maxima of the staged rows, as codes.
    codes : ``Out(stream.Signature(CodesBeat(config)))``
        Codes.
    row_scales : ``Out(ArrayLayout(Scale, rows_max))``
        Scales of the rows; a row's scale changes only when the row has been quantized.
    done : ``Out(1)``
        High for one cycle when all codes of a command have been taken and all its scales are set.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Registers on the way of a maximum into its job, if there are to be some.
        self.choosing = 3 * int(config.registered)
        self.latency = 1 + self.choosing + VectorQuantizer.latency_of(config)
        # To the normalized elements, to their squares' sum, to the scale, and into the register.
        self.scale_latency = (
            VectorQuantizer.read_latency_of(config)
            + LaneQuantizer.normalized_latency_of(config.registered)
            + SquareSum.latency_of(config.lanes, config.registered)
            + NormScale.latency_of(config.registered)
            + 1
            + int(config.registered)
        )
        super().__init__(
            {
                "command": In(stream.Signature(QuantizeCommand(config))),
                "residual": Out(WordReadPort(config, signed(32), config.dim_max)),
                "residual_maxima": In(data.ArrayLayout(32, config.rows_max)),
                "staged": Out(WordReadPort(config, unsigned(16), config.input_max)),
                "staged_maxima": In(data.ArrayLayout(15, config.rows_max)),
                "codes": Out(stream.Signature(CodesBeat(config))),
                "row_scales": Out(data.ArrayLayout(Scale, config.rows_max)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        words = config.input_max // config.lanes
        m.submodules.quantizer = quantizer = VectorQuantizer(config, words, row_bits(config))
        todo = Signal(QuantizeCommand(config))
        row = Signal(row_bits(config))
        final_row, job_words = Signal.like(row), Signal.like(quantizer.jobs.payload.words)
        busy, asking, sent = Signal(), Signal(), Signal()
        asked = self._build_jobs(m, quantizer, asking, row, job_words, todo.staging)
        beat = quantizer.beats.payload
        tiles = (self.command.payload.length + (config.n - 1)) >> ceil_log2(config.n)
        last_row = beat.tag == final_row
        m.d.comb += [
            self.command.ready.eq(~busy),
            self.codes.valid.eq(quantizer.beats.valid),
            quantizer.beats.ready.eq(self.codes.ready),
            self.codes.payload.codes.eq(beat.codes),
            self.codes.payload.row.eq(beat.tag),
            self.codes.payload.column.eq(beat.word << ceil_log2(config.lanes)),
            self.codes.payload.last.eq(beat.last & last_row),
        ]
        with m.If(self.command.ready):
            m.d.sync += [
                todo.eq(self.command.payload),
                final_row.eq(self.command.payload.rows - 1),
                job_words.eq(tiles << ceil_log2(config.n // config.lanes)),
                busy.eq(self.command.valid),
                asking.eq(self.command.valid),
                row.eq(0),
                sent.eq(0),
            ]
        with m.If(asked):
            m.d.sync += [row.eq(row + 1), asking.eq(row != final_row)]
        with m.If(self.codes.valid & self.codes.ready & self.codes.payload.last):
            m.d.sync += sent.eq(1)
        self._build_read(m, quantizer, todo)
        scales_set = self._build_scales(m, quantizer, todo)
        with m.If(sent & (scales_set == todo.rows)):
            m.d.comb += self.done.eq(busy)
            m.d.sync += [busy.eq(0), sent.eq(0), scales_set.eq(0)]
        return m

    def _build_jobs(
        self,
        m: Module,
        quantizer: VectorQuantizer,
        asking: Signal,
        row: Signal,
        words: Signal,
        staging: Signal,
    ) -> Value:
        """Gives a job for ``row`` while ``asking`` until it is taken, which is the result."""
        jobs = quantizer.jobs
        valid, ready, advance = asking, jobs.ready, Const(1)
        if self.choosing:
            # Chosen, decoded; then a slice, so that `ready` comes from a register.
            m.submodules.jobs = register = StreamRegister(jobs.payload.shape())
            m.submodules.choice = control = PipelineControl(self.choosing - register.latency)
            wiring.connect(m, register.o, jobs)
            jobs = register.i
            m.d.comb += [control.i_valid.eq(asking), control.o_ready.eq(jobs.ready)]
            valid, ready, advance = control.o_valid, control.i_ready, control.advance

        def later(value: Value, name: str, cycles: int = 1) -> Value:
            return delayed(m, value, cycles if self.choosing else 0, enable=advance, name=name)

        code, plain, maximum = Signal(15), Signal(32), Signal(32)
        significand, shift = h16_parts(later(code, "code"))
        m.d.comb += [
            code.eq(self.staged_maxima[row]),
            plain.eq(self.residual_maxima[row]),
            maximum.eq(
                Mux(
                    staging,
                    later(significand, "significand") << later(shift, "shift"),
                    later(plain, "plain", 2),
                )
            ),
            jobs.valid.eq(valid),
            jobs.payload.maximum.eq(maximum),
            jobs.payload.words.eq(words),
            jobs.payload.tag.eq(later(row, "job_row", 2)),
        ]
        return asking & ready

    def _build_read(self, m: Module, quantizer: VectorQuantizer, todo: Any) -> None:
        lanes = self.config.lanes
        column = Signal(ceil_log2(self.config.input_max), reset_less=True)
        for port, chosen in ((self.residual, ~todo.staging), (self.staged, todo.staging)):
            # With registers something is read in every cycle: so the memories' own registers can be used.
            m.d.comb += [
                port.en.eq(quantizer.r_advance if self.choosing else quantizer.r_en & chosen),
                port.row.eq(quantizer.r_tag),
                port.word.eq(quantizer.r_word),
            ]
        with m.If(quantizer.r_en):
            m.d.sync += column.eq(quantizer.r_word << ceil_log2(lanes))
        between = quantizer.read_latency - 2

        def later(value: Any, name: str, cycles: int = 1) -> Any:
            return delayed(m, value, min(cycles, between), enable=quantizer.r_advance, name=name)

        staged = later(self.staged.data, "staged")
        plain = later(self.residual.data, "plain", between)
        for lane in range(lanes):
            # What lies beyond the length is nothing, whatever the memory holds.
            inside = later(column + lane < todo.length, f"inside_{lane}", between)
            # The magnitude, all its bits turned over if it is negative; then one is to be added.
            significand, shift = h16_parts(staged[lane])
            negative = later(staged[lane][15], f"negative_{lane}")
            size = later(significand, f"significand_{lane}") << later(shift, f"shift_{lane}")
            turned = later(size[:32] ^ negative.replicate(32), f"turned_{lane}")
            sign = later(negative, f"sign_{lane}")
            with m.If(inside):
                m.d.comb += quantizer.r_data[lane].eq(
                    Mux(todo.staging, Cat(turned, sign).as_signed() + sign, plain[lane])
                )

    def _build_scales(self, m: Module, quantizer: VectorQuantizer, todo: Any) -> Signal:
        """Sets the scales; the number of rows for which that has been done."""
        m.submodules.square_sum = squares = SquareSum(self.config.lanes, registered=self.config.registered)
        m.submodules.norm = norm = NormScale(registered=self.config.registered)
        row = delayed(m, quantizer.normalized_tag, squares.latency, enable=1, name="square_row")
        factors = Signal(Factors)
        known = delayed(
            m, Cat(quantizer.normalized_factors), squares.latency, enable=1, name="square_factors"
        )
        plain = delayed(m, Cat(vector_scale(factors)), norm.latency, enable=1, name="plain")
        unnormed = delayed(m, ~todo.norm | factors.zero, norm.latency, enable=1, name="unnormed")
        place = delayed(m, row, norm.latency, enable=1, name="norm_row")
        valid = Signal(norm.latency)
        count = Signal(range(self.config.rows_max + 1))
        m.d.comb += [
            squares.values.eq(quantizer.normalized),
            squares.valid.eq(quantizer.normalized_valid),
            squares.last.eq(quantizer.normalized_last),
            Value.cast(factors).eq(known),
            norm.enable.eq(1),
            norm.squares.eq(squares.total),
            norm.factors.eq(factors),
            # It stays, and is used far from here.
            norm.eps.eq(delayed(m, todo.eps, int(self.config.registered), enable=1, name="eps")),
        ]
        m.d.sync += valid.eq(Cat(squares.done, valid))
        # With registers a cycle chooses the scale and its row, another one sets it.
        scale = Mux(unnormed, plain, Value.cast(norm.scale))
        scale = delayed(m, scale, int(self.config.registered), enable=1, name="new_scale")
        here = (valid[-1] << place)[: self.config.rows_max]
        here = later(m, here, registered=self.config.registered, name="here")
        for index in range(self.config.rows_max):
            with m.If(here[index]):
                m.d.sync += Value.cast(self.row_scales[index]).eq(scale)
        with m.If(here.any()):
            m.d.sync += count.eq(count + 1)
        return count
