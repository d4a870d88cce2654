# SPDX-License-Identifier: Apache-2.0
"""What softmax has to know of each item: the scales of its tokens, from memory and from the step itself."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later

from .forward import PairReadPort
from .order import ItemIterator
from .payloads import AttendCommand, SoftmaxItem
from .records import RecordScalesPort

__all__ = ["ItemScales"]


class ItemScales(wiring.Component):
    """Collects the scales of one item after the other.

    An item takes three cycles and one for each token of the step in it, up to three more with
    ``config.registered``, apart from the time it waits for the head of its record and for its reader.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant from ``start`` until the last item.
    start : ``In(1)``
        Begin.
    records : ``Out(RecordScalesPort(config))``
        Scales of committed tokens.
    forward : ``Out(PairReadPort(config))``
        Scales of the step's tokens.
    items : ``Out(stream.Signature(SoftmaxItem))``
        The items.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "start": In(1),
                "records": Out(RecordScalesPort(config)),
                "forward": Out(PairReadPort(config)),
                "items": Out(stream.Signature(SoftmaxItem)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.iterator = iterator = ItemIterator(self.config)
        item, payload = iterator.item, self.items.payload
        # The token whose scales are being asked for, and the one whose scales are there.
        token = Signal(range(GROUP_TOKENS + 1))
        place = Signal(range(GROUP_TOKENS))
        arrived = Signal()
        taken = self.items.valid & self.items.ready
        # The row of the step that is `token`'s; it matters from the first one that is not committed on.
        row = Signal.like(self.forward.row)
        k_scales, v_scales = (
            Signal.like(payload.k_scales, name=name, reset_less=True) for name in ("k_scales", "v_scales")
        )
        m.d.comb += [
            iterator.command.eq(self.command),
            iterator.start.eq(self.start),
            iterator.step.eq(taken),
            self.records.slot.eq(item.slot),
            self.records.serial.eq(item.serial),
            self.forward.row.eq(row),
            self.forward.head.eq(item.head),
            payload.k_scales.eq(k_scales),
            payload.v_scales.eq(v_scales),
            payload.first.eq(item.first),
            payload.last.eq(item.last),
        ]
        # With registers there is one behind the memory, and another one behind what is found in the records.
        registered, late = self.config.registered, {"cycles": int(self.config.registered), "enable": Const(1)}
        # An item is there for some cycles before it is offered.
        count = item.base + self.command.skip + 1
        m.d.comb += payload.count.eq(delayed(m, count, name="count", **late))
        m.d.sync += arrived.eq(later(m, self.forward.en, registered=registered, name="asked"))
        m.d.sync += place.eq(delayed(m, token, name="asked_token", **late))
        answer = delayed(m, self.forward.data, name="answer", **late)
        with m.If(arrived):
            m.d.sync += [k_scales[place].eq(answer[0]), v_scales[place].eq(answer[1])]
        loading = Signal()
        with m.If(later(m, loading, registered=registered, name="loaded")):
            m.d.sync += [k_scales.eq(self.records.data.k), v_scales.eq(self.records.data.v)]
        offers = Signal()
        m.d.comb += self.items.valid.eq(later(m, offers, registered=registered, name="offered"))
        with m.FSM() as fsm:
            looking = self.records.present & iterator.valid & fsm.ongoing("MEMORY")
            present = later(m, looking, registered=registered, name="present")
            with m.State("MEMORY"):
                m.d.sync += [
                    token.eq(item.committed),
                    row.eq(self.command.row + item.committed - item.base),
                ]
                m.d.comb += self.records.en.eq(iterator.valid & item.memory & present)
                with m.If(self.records.en):
                    m.next = "LOAD"
                with m.Elif(iterator.valid & ~item.memory):
                    m.next = "FORWARD"
            with m.State("LOAD"):
                m.d.comb += loading.eq(1)
                m.next = "FORWARD"
                with m.If(item.committed == GROUP_TOKENS):
                    m.next = "OFFER"
            with m.State("FORWARD"):
                m.d.comb += self.forward.en.eq(token < item.tokens)
                m.d.sync += [token.eq(token + 1), row.eq(row + 1)]
                with m.If(~self.forward.en):
                    m.next = "OFFER"
            with m.State("OFFER"):
                # With registers the last answer comes in the first of these cycles.
                m.d.comb += offers.eq(~taken if registered else 1)
                with m.If(taken):
                    m.next = "MEMORY"
        return m
