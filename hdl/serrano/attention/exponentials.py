# SPDX-License-Identifier: Apache-2.0
"""The part of softmax that knows no maximum: from scores to weights and their group's maxima."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.layouts import PackedScale, Scale
from serrano.stream.delay import waited
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later
from serrano.vector.arithmetic import (
    ScaleProduct,
    Scaler,
    limit,
    multiplied,
    product_latency,
    round_shift,
    unpack_scale,
)
from serrano.vector.maximum import LaneMaximum
from serrano.vector.tables import Exp2

from .parts import ResultParts
from .payloads import (
    BIAS,
    MAXIMUM_BITS,
    GroupMaxima,
    ScoreBeat,
    SoftmaxItem,
    TokenWeight,
    item_row_bits,
    item_row_count,
)

__all__ = ["Exponentials", "MaximaWritePort", "TokenWritePort"]

SCORE_FRACTION_BITS = 12


class TokenWritePort(wiring.Signature):
    """Where weights go: ``lanes`` tokens of a row of the item in buffer ``slot``, word after word."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "slot": Out(1),
                "row": Out(item_row_bits(config)),
                "word": Out(ceil_log2(GROUP_TOKENS // config.lanes)),
                "data": Out(data.ArrayLayout(TokenWeight, config.lanes)),
            }
        )


class MaximaWritePort(wiring.Signature):
    """Where the maxima of a row over one token tile go."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "slot": Out(1),
                "row": Out(item_row_bits(config)),
                "tile": Out(max(1, ceil_log2(config.group_tiles))),
                "data": Out(GroupMaxima),
            }
        )


class Exponentials(wiring.Component):
    """Scores to weights, ``lanes`` tokens per cycle.

    For each token ``z = sat32(rhu(acc * M', 3 - E))`` with ``(M', E) = mul(s_q, s_k)``, ``(M, i) = exp2(z)``,
    ``U = rhu(M * mv, 16)`` and ``y - i = ev + 1``. Maxima of ``ceil(z)`` and ``x`` are taken over the valid
    tokens of each row and tile. Weights are written ``latency`` (10, with ``config.registered`` more) cycles
    after their slice was taken, which with ``config.registered`` is a cycle after their scores have come, the
    maxima of a tile one to three cycles after the last of its weights. Items alternate between two slots.

    The pipeline never stops: it takes an item's first scores only when there is ``room`` for all of it.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Raises
    ------
    ValueError
        If a group has fewer tokens than there are lanes.

    Members
    -------
    rows, group : ``In(range)``
        Rows of an item and query heads per token (counts); constant while items are on their way.
    items : ``In(stream.Signature(SoftmaxItem))``
        Taken with the last of their scores, with ``config.registered`` a cycle later.
    scores : ``In(stream.Signature(ScoreBeat(config)))``
        For each item, token tile, row.
    room : ``In(1)``
        Another slot is free.
    claim : ``Out(1)``
        An item has begun, and takes a slot.
    tokens : ``Out(TokenWritePort(config))``
        Writes weights.
    maxima : ``Out(MaximaWritePort(config))``
        Writes maxima.
    full : ``Out(1)``
        The last write of an item happens now.
    first, last : ``Out(1)``
        The flags of that item.
    """

    latency = ScaleProduct.latency + Scaler.latency + Exp2.latency + 2

    def __init__(self, config: AcceleratorConfig):
        if config.lanes > GROUP_TOKENS:
            raise ValueError(f"lanes must be at most {GROUP_TOKENS} for attention, not {config.lanes!r}")
        self.config = config
        self.latency = self.latency_of(config)
        super().__init__(
            {
                "rows": In(item_row_count(config)),
                "group": In(item_row_count(config)),
                "items": In(stream.Signature(SoftmaxItem)),
                "scores": In(stream.Signature(ScoreBeat(config))),
                "room": In(1),
                "claim": Out(1),
                "tokens": Out(TokenWritePort(config)),
                "maxima": Out(MaximaWritePort(config)),
                "full": Out(1),
                "first": Out(1),
                "last": Out(1),
            }
        )

    @staticmethod
    def _choosing(registered: bool) -> int:
        """Cycles in which a token's scales are chosen: that of its tile, and of its part."""
        return 2 * int(registered)

    @staticmethod
    def _weighing(registered: bool) -> int:
        """Cycles from the power of two to its product with the scale of V."""
        return product_latency(18, 17, registered=registered)

    @classmethod
    def latency_of(cls, config: AcceleratorConfig) -> int:
        """Latency for a configuration: with registers there are two more in front of the product."""
        registered = config.registered
        score = ScaleProduct.latency_of(registered) + Scaler.latency_of(registered)
        return cls._choosing(registered) + score + Exp2.latency_of(registered) + cls._weighing(registered) + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        parts = config.tile_tokens // config.lanes
        m.submodules.parts = scores = ResultParts(
            config.tile_tokens, config.lanes, 32, Scale, registered=config.registered
        )
        part = scores.part[: ceil_log2(parts)]
        tile = Signal(ceil_log2(config.group_tiles))
        row = Signal(item_row_bits(config))
        member, token = Signal.like(self.group), Signal.like(row)
        slot, inside = Signal(), Signal()
        taken, last_part, last_row, last_member, last_tile, last_score, ends = (Signal() for _ in range(7))
        item = self.items.payload
        late = {"cycles": int(config.registered), "enable": Const(1)}
        final_row = delayed(m, (self.rows - 1)[: len(row)], name="final_row", **late)
        final_member = delayed(m, (self.group - 1)[: len(member)], name="final_member", **late)
        m.d.comb += [
            scores.i.valid.eq(self.scores.valid),
            scores.i.payload.tag.eq(self.scores.payload.scale),
            self.scores.ready.eq(scores.i.ready),
            taken.eq(scores.taken),
            self.claim.eq(taken & ~inside),
            last_part.eq(scores.last),
            last_tile.eq(tile == config.group_tiles - 1),
            ends.eq(taken & last_part & last_score),
            self.items.ready.eq(later(m, ends, registered=config.registered, name="ended")),
        ]
        if config.registered:
            # Of the next cycle.
            may = self.items.valid & ~ends & ~self.items.ready & (inside | taken | self.room)
        else:
            may = self.items.valid & (inside | self.room)
        m.d.comb += scores.go.eq(may)
        for index in range(config.tile_tokens):
            m.d.comb += scores.i.payload.channels[index].eq(self.scores.payload.sums[index])
        # Of more than one part, the first tells it for the last.
        domain = m.d.sync if config.registered and parts > 1 else m.d.comb
        domain += [
            last_row.eq(row == final_row),
            last_member.eq(member == final_member),
            last_score.eq((row == final_row) & last_tile),
        ]
        with m.If(taken):
            m.d.sync += inside.eq(1)
            with m.If(last_part):
                m.d.sync += [row.eq(row + 1), member.eq(member + 1)]
                with m.If(last_member):
                    m.d.sync += [member.eq(0), token.eq(token + 1)]
                with m.If(last_row):
                    m.d.sync += [row.eq(0), member.eq(0), token.eq(0), tile.eq(tile + 1)]
                    with m.If(last_tile):
                        m.d.sync += [tile.eq(0), inside.eq(0), slot.eq(~slot)]

        count = Signal(signed(18))
        reach = Signal(range(GROUP_TOKENS + 1))
        m.d.comb += [
            count.eq(delayed(m, item.count + token, name="count", **late)),
            reach.eq(delayed(m, limit(count, 0, GROUP_TOKENS), name="reach", **late)),
        ]
        word = Cat(part, tile)
        lanes = [self._build_lane(m, lane, word, scores, reach) for lane in range(config.lanes)]
        flags = Cat(last_part & last_score, item.first, item.last)
        self._build_outputs(m, lanes, taken, Cat(slot, row, word), Cat(part == 0, last_part, flags))
        return m

    def _build_lane(
        self, m: Module, lane: int, word: Value, scores: ResultParts, reach: Value
    ) -> tuple[Any, dict[str, Value]]:
        """One lane of the pipeline: its :class:`TokenWeight` of the last stage, ``m`` and ``x`` with bias."""
        config, item = self.config, self.items.payload
        one = Const(1)
        k_scale, v_scale = (Signal(PackedScale, name=f"{kind}_scale_{lane}") for kind in "kv")
        registered = config.registered
        late = {"cycles": int(registered), "enable": one}
        choosing = {"cycles": self._choosing(registered), "enable": one}
        parts = config.tile_tokens // config.lanes
        part, tile = word[: ceil_log2(parts)], word[ceil_log2(parts) :]
        late_part = delayed(m, part, name=f"part_{lane}", **late)

        def chosen(scales: Any, name: str) -> Value:
            """The token's: in one cycle those of its tile, in another one that of its part."""
            of_parts = []
            for index in range(parts):
                tokens = range(index * config.lanes + lane, GROUP_TOKENS, config.tile_tokens)
                of_tiles = Array(Value.cast(scales[token]) for token in tokens)
                of_parts.append(delayed(m, of_tiles[tile], name=f"{name}_{lane}_{index}", **late))
            return Array(of_parts)[late_part]

        m.submodules[f"product_{lane}"] = product = ScaleProduct(registered=registered)
        m.submodules[f"scaler_{lane}"] = scaler = Scaler(
            32, offset=SCORE_FRACTION_BITS - 9, registered=registered
        )
        m.submodules[f"exp2_{lane}"] = exp2 = Exp2(registered=registered)
        m.d.comb += [
            Value.cast(k_scale).eq(chosen(item.k_scales, "k_scales")),
            Value.cast(v_scale).eq(chosen(item.v_scales, "v_scales")),
            product.enable.eq(one),
            product.a.eq(delayed(m, scores.tag, name=f"q_scale_{lane}", **choosing)),
            product.b.eq(unpack_scale(delayed(m, k_scale, name=f"k_scale_{lane}", **late))),
            scaler.enable.eq(one),
            scaler.scale.eq(product.product),
            scaler.value.eq(
                delayed(
                    m,
                    scores.values[lane],
                    choosing["cycles"] + product.latency,
                    enable=one,
                    name=f"sum_{lane}",
                )
            ),
            exp2.enable.eq(one),
            exp2.operand.eq(scaler.result),
        ]
        weighing = self._weighing(registered)
        before = self.latency - 1 - weighing - late["cycles"]
        wait = waited if registered else delayed
        late_scale = wait(m, v_scale, before, enable=one, name=f"v_scale_{lane}")
        factor = unpack_scale(late_scale)
        # Cycle 9: multiply.
        full = multiplied(
            m, exp2.mantissa, factor.mantissa, enable=one, registered=registered, name=f"full_{lane}"
        )
        weight = Signal(TokenWeight, name=f"weight_{lane}", reset_less=True)
        offset = delayed(m, (factor.exponent + 1)[:7], weighing, enable=one, name=f"offset_{lane}")
        exponent = delayed(m, exp2.exponent, weighing, enable=one, name=f"exponent_{lane}")
        # With its bias added first, a sum has two terms.
        biased = delayed(
            m, (exp2.exponent + BIAS)[:MAXIMUM_BITS], weighing, enable=one, name=f"biased_{lane}"
        )
        # z has a fraction exactly where the mantissa is not 2**16.
        fraction = delayed(m, exp2.mantissa[:16] != 0, weighing, enable=one, name=f"fraction_{lane}")
        valid = Signal(name=f"valid_{lane}")
        place = delayed(m, Cat(Const(lane, ceil_log2(config.lanes)), word), name=f"word_{lane}", **choosing)
        m.d.comb += valid.eq(place < reach)
        m.d.sync += [
            # Cycle 10: round.
            weight.mantissa.eq(delayed(m, exp2.mantissa, weighing, enable=one, name=f"mantissa_{lane}")),
            weight.exponent.eq(exponent),
            weight.weight.eq(round_shift(full, 16)),
            weight.offset.eq(offset),
            weight.valid.eq(
                delayed(m, valid, self.latency - 1 - choosing["cycles"], enable=one, name=f"valid_{lane}")
            ),
        ]
        # What the maxima are taken of is summed up beside the weight, its last carry apart.
        above_m, above_x = (
            Signal(MAXIMUM_BITS, name=f"sum_{field}_{lane}", reset_less=True) for field in ("m", "x")
        )
        m.d.sync += [above_m.eq(biased + fraction), above_x.eq(biased + offset.as_signed())]
        return weight, {"m": above_m, "x": (above_x + weight.weight[16])[:MAXIMUM_BITS]}

    def _build_outputs(self, m: Module, lanes: list[Any], taken: Value, place: Value, flags: Value) -> None:
        one = Const(1)
        write, late_write = self.tokens, self.maxima
        latest, running, held = (Signal(GroupMaxima, name=name) for name in ("latest", "running", "held"))
        between = int(self.config.registered)
        for field in ("m", "x"):
            m.submodules[f"maximum_{field}"] = tree = LaneMaximum(self.config.lanes, MAXIMUM_BITS)
            for lane, (weight, values) in enumerate(lanes):
                valid = Mux(weight.valid, values[field], 0)
                m.d.comb += tree.values[lane].eq(
                    delayed(m, valid, between, enable=one, name=f"above_{field}_{lane}")
                )
            m.d.comb += [tree.enable.eq(one), latest[field].eq(tree.maximum)]
        stages = Signal(self.latency + between + tree.latency)
        m.d.sync += stages.eq(Cat(taken, stages))
        wait = waited if self.config.registered else delayed
        placed = wait(m, Cat(place, flags), self.latency, enable=one, name="place")
        late = delayed(m, placed, between + tree.latency, enable=one, name="late_place")
        first_part, last_part, complete = Signal(), Signal(), Signal()
        word = Signal.like(write.word)
        flagged = Cat(first_part, last_part, complete, self.first, self.last)
        valid = stages[-1]
        m.d.comb += [
            write.en.eq(stages[self.latency - 1]),
            Cat(write.slot, write.row, write.word).eq(placed),
            *(write.data[lane].eq(weight) for lane, (weight, _) in enumerate(lanes)),
            Cat(late_write.slot, late_write.row, word, flagged).eq(late),
            late_write.tile.eq(word[ceil_log2(self.config.tile_tokens // self.config.lanes) :]),
            late_write.en.eq(valid & last_part),
            late_write.data.eq(running),
            self.full.eq(valid & complete),
        ]
        for field in ("m", "x"):
            use = first_part | (latest[field] > held[field])
            m.d.comb += running[field].eq(Mux(use, latest[field], held[field]))
        with m.If(valid):
            m.d.sync += held.eq(running)
