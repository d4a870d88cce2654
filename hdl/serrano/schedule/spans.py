# SPDX-License-Identifier: Apache-2.0
"""Steps, the sequences that their rows belong to, and the parts in which attention takes these."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.attention.payloads import item_row_count
from serrano.config import AcceleratorConfig
from serrano.kvcache.payloads import sequence_bits, token_count
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pace import settled

__all__ = ["Part", "PartIterator", "Span", "StepCommand"]


class StepCommand(data.StructLayout):
    """A step of ``rows`` (count) rows, of which ``sampled`` (count) are sampled.

    These are rows 0 to ``sampled - 2``, and row ``last``: rows that decode come first, and the last row of a
    chunk of prompt ends the step.
    """

    def __init__(self, config: AcceleratorConfig):
        rows = range(config.rows_max + 1)
        super().__init__({"rows": rows, "sampled": rows, "last": ceil_log2(config.rows_max)})


class Span(data.StructLayout):
    """Rows of a step that belong to one sequence: ``rows`` (count) from row ``row`` on.

    They are consecutive tokens; ``position`` is that of the first one, before which all are committed.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "sequence": sequence_bits(config),
                "row": ceil_log2(config.rows_max),
                "rows": range(config.rows_max + 1),
                "position": token_count(config),
            }
        )


class Part(data.StructLayout):
    """Rows of a span that attention takes at a time: ``rows`` (count) of them, behind the first ``skip``.

    ``final`` is the last part of the step.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "span": Span(config),
                "skip": ceil_log2(config.rows_max),
                "rows": range(config.rows_max + 1),
                "final": 1,
            }
        )


class PartIterator(wiring.Component):
    """Keeps the spans of a step and goes through their parts, in order, as often as it is started.

    Attention has place for ``attention_rows_max`` rows of ``group`` heads each; a span that has more is cut.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    group : ``In(range)``
        Query heads that share a KV head (count), at most ``attention_rows_max``; it counts a cycle later if
        the accelerator is ``registered``.
    clear : ``In(1)``
        Forget the spans.
    w_en : ``In(1)``
        Keep one more; at most ``rows_max``.
    w_span : ``In(Span(config))``
        It.
    start : ``In(1)``
        Begin with the first part.
    step : ``In(1)``
        Go on to the next one; with ``valid``.
    valid : ``Out(1)``
        There is a part.
    part : ``Out(Part(config))``
        It.
    active : ``Out(1)``
        There is a part, or there will be one; set from the cycle after ``start``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "group": In(item_row_count(config)),
                "clear": In(1),
                "w_en": In(1),
                "w_span": In(Span(config)),
                "start": In(1),
                "step": In(1),
                "valid": Out(1),
                "part": Out(Part(config)),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, part = self.config, self.part
        m.submodules.spans = spans = OnChipMemory(
            Span(config), max(2, 1 << ceil_log2(config.rows_max)), transparent=False
        )
        count, index = Signal(range(config.rows_max + 1)), Signal(range(config.rows_max + 1))
        fetch, present, changes = Signal(), Signal(), Signal()
        # What follows from the part: with registers there is none in the cycle after it has changed.
        known = Signal(data.StructLayout({"last_part": 1, "last_span": 1, "rows": part.rows.shape()}))
        following = Signal.like(known)
        left, limit, skip = Signal.like(part.rows), Signal.like(part.rows), Signal.like(part.skip)
        most = config.attention_rows_max
        limits = [config.rows_max] + [min(config.rows_max, most // group) for group in range(1, most + 1)]
        most_rows = Signal.like(part.rows)
        m.d.comb += [
            most_rows.eq(Array(limits)[self.group]),
            spans.w_en.eq(self.w_en),
            spans.w_addr.eq(count),
            spans.w_data.eq(self.w_span),
            spans.r_en.eq(fetch),
            spans.r_addr.eq(index),
            limit.eq(settled(m, config, most_rows, "limit_before")),
            left.eq(part.span.rows - skip),
            known.last_part.eq(left <= limit),
            known.last_span.eq(index + 1 == count),
            known.rows.eq(Mux(known.last_part, left, limit)),
            following.eq(settled(m, config, known, "known_before")),
            part.span.eq(spans.r_data),
            part.skip.eq(skip),
            part.rows.eq(following.rows),
            part.final.eq(following.last_part & following.last_span),
            self.valid.eq(present & ~settled(m, config, changes, "changed")),
            self.active.eq(present | fetch),
        ]
        if config.registered:
            m.d.comb += changes.eq(fetch | self.step)
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        with m.Elif(self.w_en):
            m.d.sync += count.eq(count + 1)
        with m.If(self.start):
            m.d.sync += [index.eq(0), fetch.eq(count != 0)]
        with m.Elif(fetch):
            m.d.sync += [fetch.eq(0), present.eq(1), skip.eq(0)]
        with m.Elif(self.step):
            m.d.sync += skip.eq(skip + part.rows)
            with m.If(following.last_part):
                m.d.sync += [
                    present.eq(0),
                    fetch.eq(~following.last_span),
                    index.eq(index + 1),
                ]
        return m
