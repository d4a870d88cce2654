# SPDX-License-Identifier: Apache-2.0
"""Vectors to int8 codes: section 5 of ``docs/numerics.md``, shared by rows and heads."""

from functools import partial
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.layouts import Scale
from serrano.stream import HalfRegister, PromptRegister, StreamRegister
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import sliced

from .arithmetic import (
    ZERO_SCALE,
    HighestBit,
    limit,
    multiplied,
    normalized,
    product_latency,
    round_shift,
    shift_right,
)
from .tables import Recip

__all__ = [
    "Factors",
    "LaneQuantizer",
    "QuantizedBeat",
    "QuantizerFactors",
    "VectorJob",
    "VectorQuantizer",
    "vector_scale",
]

CODE_MAX = 127
VALUE_BITS = 33
"""Width of an element to be quantized."""

NORMALIZED_BITS = 18
"""Width of a normalized element."""


class Factors(data.Struct):
    """What a vector's maximum says about it."""

    position: unsigned(5)
    """``p``, the maximum's highest bit; the right shift that normalizes is ``n = p - 15``."""
    top: unsigned(17)
    """``a``, the normalized maximum rounded up to 11 bits."""
    factor: unsigned(16)
    """``c``, by which normalized elements are multiplied."""
    zero: unsigned(1)
    """The maximum is 0."""


def vector_scale(factors: Any) -> Any:
    """The scale of a quantized vector (step 6)."""
    scale = normalized(factors.top, factors.position - 16)
    return Scale(Mux(factors.zero, Scale.const(ZERO_SCALE), Value.cast(scale)))


class QuantizerFactors(wiring.Component):
    """Steps 2 to 4 for the maximum of a vector: ``p``, ``a`` and ``c = rhu(127 * recip(a), 7)``.

    A stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`.

    Parameters
    ----------
    registered : :class:`bool`
        More registers.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    maximum : ``In(32)``
        Largest magnitude of the vector. Of 0, only ``zero`` means something.
    factors : ``Out(Factors)``
        Of the maximum of ``latency`` (7, with ``registered`` 11) enabled cycles ago.
    """

    enable: In(1)
    maximum: In(32)
    factors: Out(Factors)

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers: the highest bit, shift, rounding, table, and factor."""
        return HighestBit.latency_of(registered) + 2 + int(registered) + Recip.latency_of(registered) + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.recip = recip = Recip(registered=self.registered)
        m.submodules.highest = highest = HighestBit(32, registered=self.registered)
        position = highest.position
        kept = Signal(18, reset_less=True)
        top = Signal(17, reset_less=True)
        factor = Signal(16, reset_less=True)
        enable = self.enable
        # Cycle 1: the highest bit.
        maximum = delayed(m, self.maximum, highest.latency, enable=enable, name="maximum")

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(self.registered), enable=enable, name=name)

        m.d.comb += [
            highest.enable.eq(enable),
            highest.value.eq(self.maximum),
        ]
        # Cycle 2: n = p - 15 is a right shift by p once 15 bits and one for rounding are appended.
        shifted, _ = shift_right(m, maximum.shift_left(16), position, len(kept), name="shifted", later=later)
        with m.If(enable):
            m.d.sync += [
                kept.eq(shifted),
                # Cycle 3: round, then round up to a multiple of 32.
                top.eq((((kept + 1) >> 1) + 31) & ~31),
                # The last cycle: of 127 * recip / 128, recip less its 128th, which is rounded down at half.
                factor.eq(recip.result - recip.result[7:] - (recip.result[:7] > 64)),
            ]
        before = highest.latency + 2 + int(self.registered)
        m.d.comb += [
            recip.enable.eq(enable),
            recip.operand.eq(top),
            self.factors.factor.eq(factor),
            self.factors.top.eq(delayed(m, top, self.latency - before, enable=enable, name="top")),
            self.factors.position.eq(
                delayed(m, position, self.latency - highest.latency, enable=enable, name="position")
            ),
            self.factors.zero.eq(delayed(m, self.maximum == 0, self.latency, enable=enable, name="zero")),
        ]
        return m


class LaneQuantizer(wiring.Component):
    """Steps 2 and 5 for ``lanes`` elements: ``v = rhu(x, p - 15)``, ``code = rhu(v * c, 24)`` within +-127.

    A stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`. Every ``|x|`` is below ``2**(p +
    1)``.

    Parameters
    ----------
    lanes : :class:`int`
        Elements per cycle.
    registered : :class:`bool`
        More registers: in the shift, in front of the product and behind the rounding.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    values : ``In(ArrayLayout(signed(33), lanes))``
        Elements.
    position : ``In(5)``
        ``p`` of their vector.
    factor : ``In(16)``
        ``c`` of their vector.
    normalized : ``Out(ArrayLayout(signed(18), lanes))``
        ``v``, ``normalized_latency`` (2, with ``registered`` 3) enabled cycles later.
    codes : ``Out(ArrayLayout(signed(8), lanes))``
        Codes, ``latency`` (4, with ``registered`` 7) enabled cycles later.
    """

    def __init__(self, lanes: int, *, registered: bool = False):
        self.lanes = lanes
        self.registered = registered
        self.normalized_latency = self.normalized_latency_of(registered)
        self.latency = self.latency_of(registered)
        super().__init__(
            {
                "enable": In(1),
                "values": In(data.ArrayLayout(signed(VALUE_BITS), lanes)),
                "position": In(5),
                "factor": In(16),
                "normalized": Out(data.ArrayLayout(signed(NORMALIZED_BITS), lanes)),
                "codes": Out(data.ArrayLayout(signed(8), lanes)),
            }
        )

    @staticmethod
    def normalized_latency_of(registered: bool) -> int:
        """Cycles to the normalized elements with, and without, more registers."""
        return 2 + int(registered)

    @classmethod
    def latency_of(cls, registered: bool) -> int:
        """Latency with, and without, more registers."""
        product = product_latency(NORMALIZED_BITS, 17, registered=registered)
        return cls.normalized_latency_of(registered) + product + 1 + int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        factor = delayed(m, self.factor, self.normalized_latency, enable=self.enable, name="factor")
        factors = {"enable": self.enable, "registered": self.registered}
        for lane in range(self.lanes):
            kept = Signal(signed(NORMALIZED_BITS + 1), name=f"kept_{lane}", reset_less=True)
            value = Signal(signed(NORMALIZED_BITS), name=f"value_{lane}", reset_less=True)
            # Cycle 3: multiply.
            product = multiplied(m, value, factor, name=f"product_{lane}", **factors)
            rounded = Signal(signed(11), name=f"rounded_{lane}")
            code = Signal(signed(8), name=f"code_{lane}", reset_less=True)
            wide, name = self.values[lane].shift_left(16), f"shifted_{lane}"
            shifted, _ = shift_right(
                m, wide, self.position, len(kept), name=name, later=partial(self._later, m)
            )
            with m.If(self.enable):
                m.d.sync += [
                    # Cycle 1: shift by n = p - 15, one bit kept for rounding. Cycle 2: round.
                    kept.eq(shifted),
                    value.eq((kept + 1) >> 1),
                    # Cycle 4: round and limit.
                    code.eq(limit(self._later(m, rounded, f"rounded_{lane}"), -CODE_MAX, CODE_MAX)),
                ]
            m.d.comb += [
                rounded.eq(round_shift(product, 24)),
                self.normalized[lane].eq(value),
                self.codes[lane].eq(code),
            ]
        return m

    def _later(self, m: Module, value: Value, name: str) -> Value:
        return delayed(m, value, int(self.registered), enable=self.enable, name=name)


class VectorJob(data.StructLayout):
    """A vector to be quantized: its ``maximum``, its length in ``words`` (count) and a ``tag`` to know it
    by."""

    def __init__(self, words: int, tag: Any):
        super().__init__({"maximum": 32, "words": range(words + 1), "tag": tag})


class QuantizedBeat(data.StructLayout):
    """The codes of word ``word`` of a vector, with its ``tag`` and ``factors``; ``last`` marks the last
    word."""

    def __init__(self, config: AcceleratorConfig, words: int, tag: Any):
        super().__init__(
            {
                "codes": data.ArrayLayout(signed(8), config.lanes),
                "word": range(words),
                "tag": tag,
                "factors": Factors,
                "last": 1,
            }
        )


class VectorQuantizer(wiring.Component):
    """Reads vectors word by word and quantizes them with the factors of their known maxima.

    One word per cycle, without pause between vectors whose jobs came early enough: the first codes leave
    ``latency`` (14) cycles after the job came, with ``config.registered`` 26. There, a cycle passes
    between two vectors.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    words : :class:`int`
        Words in the longest vector.
    tag : :class:`~amaranth.hdl.ShapeLike`
        Shape of what accompanies a vector.

    Members
    -------
    jobs : ``In(stream.Signature(VectorJob(words, tag)))``
        Vectors, at least one word each.
    r_en : ``Out(1)``
        Asks for a word of the vector.
    r_word : ``Out(range(words))``
        Its index.
    r_tag : ``Out(tag)``
        Tag of the vector.
    r_last : ``Out(1)``
        It is the vector's last word.
    r_data : ``In(ArrayLayout(signed(33), lanes))``
        The word, from the cycle after ``r_en`` until the next read. In general: from the ``read_latency`` -
        1st cycle with ``r_advance`` on, that of ``r_en`` included.
    r_advance : ``Out(1)``
        The registers between memory and ``r_data`` load.
    normalized : ``Out(ArrayLayout(signed(18), lanes))``
        Normalized elements of a word.
    normalized_valid : ``Out(1)``
        A word is at ``normalized`` in this cycle; no word is there for two cycles with this bit.
    normalized_last : ``Out(1)``
        It is the last of its vector.
    normalized_tag : ``Out(tag)``
        Tag of the vector.
    normalized_factors : ``Out(Factors)``
        Factors of the vector.
    beats : ``Out(stream.Signature(QuantizedBeat(config, words, tag)))``
        Codes.
    """

    def __init__(self, config: AcceleratorConfig, words: int, tag: Any):
        self.config = config
        self.read_latency = self.read_latency_of(config)
        self.latency = self.latency_of(config)
        lanes = config.lanes
        super().__init__(
            {
                "jobs": In(stream.Signature(VectorJob(words, tag))),
                "r_en": Out(1),
                "r_word": Out(range(words)),
                "r_tag": Out(tag),
                "r_last": Out(1),
                "r_data": In(data.ArrayLayout(signed(VALUE_BITS), lanes)),
                "r_advance": Out(1),
                "normalized": Out(data.ArrayLayout(signed(NORMALIZED_BITS), lanes)),
                "normalized_valid": Out(1),
                "normalized_last": Out(1),
                "normalized_tag": Out(tag),
                "normalized_factors": Out(Factors),
                "beats": Out(stream.Signature(QuantizedBeat(config, words, tag))),
            }
        )

    @staticmethod
    def read_latency_of(config: AcceleratorConfig) -> int:
        """Memory, then a register in front of the shifter; and more between them, if there are to be some."""
        return 5 if config.registered else 2

    @classmethod
    def latency_of(cls, config: AcceleratorConfig) -> int:
        """Cycles from a job to its first codes."""
        ready = (
            QuantizerFactors.latency_of(config.registered) + StreamRegister.latency + int(config.registered)
        )
        lanes = LaneQuantizer.latency_of(config.registered)
        return ready + cls.read_latency_of(config) + lanes + int(config.registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        registered = self.config.registered
        m.submodules.quantizer_factors = factors = QuantizerFactors(registered=registered)
        m.submodules.lanes = lanes = LaneQuantizer(self.config.lanes, registered=registered)
        m.submodules.setup = setup = PipelineControl(factors.latency, registered=registered)
        m.submodules.flow = flow = PipelineControl(self.read_latency + lanes.latency, registered=registered)
        # All stages of the lanes advance as the slice behind them says.
        beats = stream.Signature(self.beats.payload.shape()).create(path=("found",))
        given = sliced(m, "found", beats, registered=registered, kind=PromptRegister)
        wiring.connect(m, given, wiring.flipped(self.beats))
        job = self.jobs.payload
        known = data.StructLayout(
            {"factors": Factors, "final": self.r_word.shape(), "tag": len(Cat(job.tag))}
        )
        # Gaps between jobs close up here while a vector is read.
        m.submodules.ready = ready = HalfRegister(known) if registered else StreamRegister(known)
        words = self._build_held_words if registered else self._build_words
        valid, vector, word = words(m, ready.o)
        final = Signal.like(self.r_word)
        m.d.comb += [
            final.eq(job.words - 1),
            setup.i_valid.eq(self.jobs.valid),
            self.jobs.ready.eq(setup.i_ready),
            factors.enable.eq(setup.advance),
            factors.maximum.eq(job.maximum),
            Cat(ready.i.payload.final, ready.i.payload.tag).eq(
                delayed(m, Cat(final, job.tag), setup.latency, enable=setup.advance, name="job")
            ),
            ready.i.payload.factors.eq(factors.factors),
            ready.i.valid.eq(setup.o_valid),
            setup.o_ready.eq(ready.i.ready),
            flow.i_valid.eq(valid),
            self.r_en.eq(flow.i_valid & flow.advance),
            self.r_advance.eq(flow.advance),
            self.r_word.eq(word),
            Value.cast(self.r_tag).eq(vector.tag),
            beats.valid.eq(flow.o_valid),
            flow.o_ready.eq(beats.ready),
        ]
        values = delayed(m, self.r_data, 1, enable=flow.advance, name="values")
        place = Cat(self.r_last, word, vector.tag, vector.factors)
        early = delayed(m, place, self.read_latency, enable=flow.advance, name="early")
        middle = delayed(m, early, lanes.normalized_latency, enable=flow.advance, name="middle")
        late = delayed(m, middle, lanes.latency - lanes.normalized_latency, enable=flow.advance, name="late")
        early_factors = Signal(Factors)
        skipped = Signal.like(word)
        beat = beats.payload
        m.d.comb += [
            Value.cast(early_factors).eq(early[-len(Value.cast(early_factors)) :]),
            lanes.enable.eq(flow.advance),
            lanes.values.eq(values),
            lanes.position.eq(early_factors.position),
            lanes.factor.eq(early_factors.factor),
            self.normalized.eq(lanes.normalized),
            self.normalized_valid.eq(
                flow.stages[self.read_latency + lanes.normalized_latency - 1] & flow.advance
            ),
            Cat(self.normalized_last, skipped, self.normalized_tag, self.normalized_factors).eq(middle),
            beat.codes.eq(lanes.codes),
            Cat(beat.last, beat.word, beat.tag, beat.factors).eq(late),
        ]
        return m

    def _build_words(self, m: Module, vectors: Any) -> tuple[Value, Any, Value]:
        """Whether there is a vector, what is known of it, and the word of it to be read."""
        word = Signal.like(self.r_word)
        m.d.comb += [
            self.r_last.eq(vectors.valid & (word == vectors.payload.final)),
            vectors.ready.eq(self.r_en & self.r_last),
        ]
        with m.If(self.r_en):
            m.d.sync += word.eq(Mux(self.r_last, 0, word + 1))
        return vectors.valid, vectors.payload, word

    def _build_held_words(self, m: Module, vectors: Any) -> tuple[Value, Any, Value]:
        """As ``_build_words``, a cycle later: the vector is kept, and a register tells its last word.

        It loads while there is none, so that nothing stands before the enable of its many bits, and no reset
        has to reach them.
        """
        vector = Signal.like(vectors.payload, reset_less=True)
        word, left = (Signal.like(self.r_word, name=name, reset_less=True) for name in ("word", "left"))
        valid, free, last = Signal(), Signal(init=1), Signal()
        following = Mux(valid, ~(self.r_advance & last), vectors.valid)
        m.d.comb += [self.r_last.eq(last), vectors.ready.eq(free)]
        m.d.sync += [valid.eq(following), free.eq(~following)]
        with m.If(free):
            final = vectors.payload.final
            m.d.sync += [vector.eq(vectors.payload), word.eq(0), left.eq(final), last.eq(final == 0)]
        with m.Elif(self.r_advance):
            m.d.sync += [word.eq(word + 1), left.eq(left - 1), last.eq(left == 1)]
        return valid, vector, word
