# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding and the static mean of k: section 6 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.delay import DelayLine
from serrano.stream.pipeline import PipelineControl, delayed

from .arithmetic import multiplied, product_latency, round_shift, sat32
from .payloads import HeadBeat, HeadKind, RopeWrite

__all__ = ["BeatPairs", "Rotator"]


class BeatPairs(wiring.Component):
    """Gives each beat of one lane the value of the other channel of its pair; of even words, the next beat's.

    One beat per cycle. A beat leaves ``latency`` (1) cycles after it came, or with the beat behind it if that
    comes later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator; of one lane.

    Members
    -------
    i : ``In(stream.Signature(HeadBeat(config)))``
        Beats; behind an even word comes the odd one of its pair.
    o : ``Out(stream.Signature({"beat", "other"}))``
        Beats, and the values of the other channels.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig):
        pair = data.StructLayout({"beat": HeadBeat(config), "other": signed(32)})
        super().__init__(
            {"i": In(stream.Signature(HeadBeat(config))), "o": Out(stream.Signature(pair))},
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        held = Signal.like(self.i.payload, reset_less=True)
        before = Signal(signed(32), reset_less=True)
        full = Signal()
        odd = held.word[0]
        m.d.comb += [
            self.o.valid.eq(full & (odd | self.i.valid)),
            self.o.payload.beat.eq(held),
            self.o.payload.other.eq(Mux(odd, before, self.i.payload.values[0])),
            self.i.ready.eq(~full | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(self.i.payload), before.eq(held.values[0]), full.eq(1)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += full.eq(0)
        return m


FACTOR_BITS = 32, 16
"""Widths of a value, and of a sine or cosine."""


class Rotator(wiring.Component):
    """Rotates the pairs of q and k heads, and takes k's mean off; v passes.

    For a pair of lanes ``(a, b)`` and the row's ``(c, s)``: ``a' = sat32(rhu(a * c - b * s, 15))``, ``b' =
    sat32(rhu(a * s + b * c, 15))``; then for k ``sat32(k' - 256 * kmean)``. One beat per cycle, ``latency``
    (5, with one lane 6, with ``config.registered`` more) cycles. The table of a row must be there before the
    row's beats.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    rope : ``In(stream.Signature(RopeWrite(config)))``
        Words of the table; always ready.
    i : ``In(stream.Signature(HeadBeat(config)))``
        Linear outputs.
    o : ``Out(stream.Signature(HeadBeat(config)))``
        Values to be quantized.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = self.latency_of(config)
        super().__init__(
            {
                "rope": In(stream.Signature(RopeWrite(config))),
                "i": In(stream.Signature(HeadBeat(config))),
                "o": Out(stream.Signature(HeadBeat(config))),
            }
        )

    @staticmethod
    def _turning(config: AcceleratorConfig) -> int:
        """Cycles from a pair and its table entry to the rotated pair: products, sums, rounding."""
        late = int(config.registered)
        return product_latency(*FACTOR_BITS, registered=config.registered) + 2 + late

    @classmethod
    def latency_of(cls, config: AcceleratorConfig) -> int:
        """Latency for a configuration: table, rotation, mean, with a register more for either; and
        the way of pairs if a beat has but one channel."""
        return cls._depth(config) + (BeatPairs.latency if config.lanes == 1 else 0)

    @classmethod
    def _depth(cls, config: AcceleratorConfig) -> int:
        """Stages behind a pair."""
        return 1 + cls._turning(config) + 1 + 2 * int(config.registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        depth = self._depth(config)
        words = config.head_dim_max // max(2, config.lanes)
        write, source, beat = self.rope.payload, self.i, self.i.payload
        if config.lanes == 1:
            m.submodules.pairs = pairs = BeatPairs(config)
            wiring.connect(m, wiring.flipped(self.i), pairs.i)
            source, beat = pairs.o, pairs.o.payload.beat
        word = beat.word[1:] if config.lanes == 1 else beat.word
        m.submodules.control = control = PipelineControl(depth, registered=config.registered)
        # Rows of a packet on its way are not written.
        m.submodules.rotations = table = OnChipMemory(
            write.pairs.shape(), config.rows_max * words, transparent=False, collides=False
        )
        # The last cycle, or the last two, take the mean off.
        m.submodules.beats = beats = DelayLine(HeadBeat(config), depth - 1 - int(config.registered))
        m.d.comb += [
            self.rope.ready.eq(1),
            table.w_en.eq(self.rope.valid),
            table.w_addr.eq((write.row * words + write.word)[: len(table.w_addr)]),
            table.w_data.eq(write.pairs),
            table.r_en.eq(control.advance),
            table.r_addr.eq((beat.tag.row * words + word)[: len(table.r_addr)]),
            control.i_valid.eq(source.valid),
            source.ready.eq(control.i_ready),
            self.o.valid.eq(control.o_valid),
            control.o_ready.eq(self.o.ready),
            beats.enable.eq(control.advance),
            beats.i.eq(beat),
        ]
        late = {"cycles": int(config.registered), "enable": control.advance}
        values = delayed(m, beat.values, 1 + late["cycles"], enable=control.advance, name="values")
        pairs = delayed(m, table.r_data, name="pairs", **late)
        if config.lanes == 1:
            place = Cat(beat.word[0], source.payload.other)
            other = delayed(m, place, 1 + late["cycles"], enable=control.advance, name="other")
            rotated = self._build_half(m, control.advance, values[0], other, pairs[0])
        else:
            rotated = self._build_rotation(m, control.advance, values, pairs)
        result = Signal(HeadBeat(config), reset_less=True)
        m.d.comb += self.o.payload.eq(result)
        with m.If(control.advance):
            m.d.sync += result.eq(delayed(m, beats.o, name="beat", **late))
        for lane in range(config.lanes):
            kind = beats.o.tag.kind
            mean = Mux(kind == HeadKind.K, beats.o.kmeans[lane], 0)
            turned = Mux(kind == HeadKind.V, beats.o.values[lane], rotated[lane])
            less = Signal(signed(34), name=f"less_{lane}")
            m.d.comb += less.eq(turned - mean.shift_left(8))
            less = delayed(m, less, name=f"less_{lane}", **late)
            # Cycle 5: without the mean.
            with m.If(control.advance):
                m.d.sync += result.values[lane].eq(sat32(less))
        return m

    def _build_half(self, m: Module, enable: Value, value: Value, place: Value, pair: Any) -> list[Value]:
        """Cycles 2 to 4 of one channel of a pair, beside the other one: of two products the sum, rounded."""
        odd, other = place[0], place[1:].as_signed()
        registered = self.config.registered
        products = [
            multiplied(m, *factors, enable=enable, registered=registered, name=f"products_{index}")
            for index, factors in enumerate(((value, pair.cos), (other, pair.sin)))
        ]
        total = Signal(signed(49), reset_less=True)
        rounded = Signal(signed(35))
        rotated = Signal(signed(32), reset_less=True)
        cycles = product_latency(*FACTOR_BITS, registered=registered)
        adds = delayed(m, odd, cycles, enable=enable, name="adds")
        m.d.comb += rounded.eq(round_shift(total, 15))
        final = delayed(m, rounded, int(registered), enable=enable, name="rounded")
        with m.If(enable):
            m.d.sync += [
                total.eq(Mux(adds, products[0] + products[1], products[0] - products[1])),
                rotated.eq(sat32(final)),
            ]
        return [rotated]

    def _build_rotation(self, m: Module, enable: Value, values: Any, pairs: Any) -> data.View:
        """Cycles 2 to 4: products, their sums, rounding."""
        lanes, registered = self.config.lanes, self.config.registered
        rotated = Signal(data.ArrayLayout(signed(32), lanes), reset_less=True)
        for pair in range(lanes // 2):
            a, b = values[2 * pair], values[2 * pair + 1]
            cos, sin = pairs[pair].cos, pairs[pair].sin
            products = [
                multiplied(m, *factors, enable=enable, registered=registered, name=f"products_{pair}_{index}")
                for index, factors in enumerate(((a, cos), (b, sin), (a, sin), (b, cos)))
            ]
            sums = Signal(data.ArrayLayout(signed(49), 2), name=f"sums_{pair}", reset_less=True)
            rounded = [Signal(signed(35), name=f"rounded_{2 * pair + k}") for k in range(2)]
            m.d.comb += [rounded[k].eq(round_shift(sums[k], 15)) for k in range(2)]
            rounded = [
                delayed(m, value, int(registered), enable=enable, name=f"rounded_{2 * pair + k}")
                for k, value in enumerate(rounded)
            ]
            with m.If(enable):
                m.d.sync += [
                    sums[0].eq(products[0] - products[1]),
                    sums[1].eq(products[2] + products[3]),
                    rotated[2 * pair].eq(sat32(rounded[0])),
                    rotated[2 * pair + 1].eq(sat32(rounded[1])),
                ]
        return rotated
