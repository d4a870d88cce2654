# SPDX-License-Identifier: Apache-2.0
"""The performance counters."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.csr.table import COUNTERS
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later

__all__ = ["INCREMENT_BITS", "CounterReadPort", "CounterValue", "Counters"]

INCREMENT_BITS = 7
"""Width of an increment: up to all bytes of a word of the memory port."""

LOWER_BITS = INCREMENT_BITS + ceil_log2(len(COUNTERS) + 1)
"""Bits that count by themselves. They carry at most once while all counters have their turn."""


class CounterValue(data.Struct):
    """A counter, by its place in the counter table, and its value."""

    index: unsigned(ceil_log2(len(COUNTERS)))
    value: unsigned(64)


class CounterReadPort(wiring.Signature):
    """Read port for the counters of the last snapshot, as the reader sees it.

    In a cycle with ``en`` the reader asks; ``value`` has the counter from the next cycle on, until the next
    read. Not while ``busy``: the snapshot is still being written.
    """

    def __init__(self):
        super().__init__(
            {"en": Out(1), "index": Out(ceil_log2(len(COUNTERS))), "value": In(64), "busy": In(1)}
        )


class Counters(wiring.Component):
    """64-bit counters of :data:`~serrano.csr.table.COUNTERS`, read as a whole.

    Every cycle each counter grows by its increment. ``snapshot`` copies all of them at once for ``read``.
    ``report`` gives all of them out, one after another, as they were in the cycle of ``report``, without
    touching what ``read`` gives.

    Only the lower bits of a counter are registers. The upper ones lie in a memory, and each counter in turn
    has its carry added there. A copy takes the registers at once, and goes through the memory with the same
    turn: it is complete after as many cycles as there are counters. With ``registered``, what is added in a
    counter's turn is chosen in one cycle and added in the next.

    Parameters
    ----------
    registered : :class:`bool`
        Everything that comes in counts a cycle later, and a copy is complete a cycle later.

    Members
    -------
    increments : ``In(INCREMENT_BITS).array(len(COUNTERS))``
        What to add in this cycle.
    clear : ``In(1)``
        Set all counters to zero; wins over increments.
    snapshot : ``In(1)``
        Copy the counters.
    read : ``In(CounterReadPort())``
        Reads the counters at the last ``snapshot``; 0 before the first one.
    report : ``In(1)``
        Give out all counters; ignored while doing so.
    reported : ``Out(stream.Signature(CounterValue))``
        The counters, in order.
    """

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        super().__init__(
            {
                "increments": In(INCREMENT_BITS).array(len(COUNTERS)),
                "clear": In(1),
                "snapshot": In(1),
                "read": In(CounterReadPort()),
                "report": In(1),
                "reported": Out(stream.Signature(CounterValue)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = len(COUNTERS)
        snapshot, clear = (self._taken(m, pulse) for pulse in (self.snapshot, self.clear))
        m.submodules.upper = upper = OnChipMemory(64 - LOWER_BITS, count, transparent=False)
        turn, place = Signal(range(count)), Signal(range(count))
        started = Signal()
        lower = [Signal(LOWER_BITS, name=name) for name, _ in COUNTERS]
        # The carry is not in memory yet; nothing of the counter is: what lies there does not count.
        carry, fresh = Signal(count), Signal(count, init=-1)
        visited = Signal(count)
        m.d.sync += [turn.eq(Mux(turn == count - 1, 0, turn + 1)), place.eq(turn), started.eq(1)]
        # The place as a bit of its own, once there is one.
        m.d.sync += visited.eq(1 << turn)
        m.d.comb += [
            upper.r_en.eq(1),
            upper.r_addr.eq(turn),
            upper.w_en.eq(self._chosen(m, started)),
            upper.w_addr.eq(self._chosen(m, place)),
            upper.w_data.eq(self._sum(m, place, upper.r_data, carry, fresh)),
        ]
        m.d.sync += [carry.eq(carry & ~visited), fresh.eq(fresh & ~visited)]
        for index, low in enumerate(lower):
            total = Signal(LOWER_BITS + 1, name=f"total_{index}")
            m.d.comb += total.eq(low + self._taken(m, self.increments[index]))
            m.d.sync += low.eq(total)
            with m.If(total[-1]):
                m.d.sync += carry[index].eq(1)
            with m.If(clear):
                m.d.sync += low.eq(0)
        with m.If(clear):
            m.d.sync += [carry.eq(0), fresh.eq(-1)]
        now = Cat(lower), carry & ~visited, fresh & ~visited
        copy, copying = self._build_copy(m, "shown", snapshot, now, place, upper.r_data)
        taken = Signal()
        with m.If(snapshot):
            m.d.sync += taken.eq(1)
        m.d.comb += [
            copy.r_en.eq(self.read.en),
            copy.r_addr.eq(self.read.index),
            self.read.value.eq(Mux(taken, copy.r_data, 0)),
            self.read.busy.eq(self.snapshot | snapshot | copying),
        ]
        self._build_report(m, now, place, upper.r_data)
        return m

    def _taken(self, m: Module, value: Signal) -> Signal:
        """The value, with registers that of the cycle before."""
        return later(m, value, registered=self.registered, name="late")

    def _chosen(self, m: Module, value: Value) -> Value:
        """What is known of a counter in its turn, when it is added."""
        return delayed(m, value, int(self.registered), enable=Const(1), name="chosen")

    def _sum(self, m: Module, place: Value, upper: Value, carry: Value, fresh: Value) -> Value:
        """The upper bits of the counter that has its turn, with its carry."""
        # Chosen apart from each other: as a reset of so many registers the choice would come too late.
        empty = self._chosen(m, fresh.bit_select(place, 1))
        old = Mux(empty, 0, self._chosen(m, upper))
        return old + self._chosen(m, carry.bit_select(place, 1))

    def _build_copy(
        self, m: Module, name: str, begin: Value, now: tuple[Value, Value, Value], place: Value, upper: Value
    ) -> tuple[OnChipMemory, Value]:
        """A memory that gets all counters as they are with ``begin``; and whether it still does."""
        count = len(COUNTERS)
        m.submodules[name] = memory = OnChipMemory(64, count, transparent=False)
        lower = Signal(data.ArrayLayout(LOWER_BITS, count), name=f"{name}_lower", reset_less=True)
        carry, fresh = (Signal(count, name=f"{name}_{kind}", reset_less=True) for kind in ("carry", "fresh"))
        left = Signal(range(count + 1), name=f"{name}_left")
        with m.If(begin):
            m.d.sync += [Cat(Value.cast(lower), carry, fresh).eq(Cat(now)), left.eq(count)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        whole = self._sum(m, place, upper, carry, fresh)
        writing = self._chosen(m, left != 0)
        m.d.comb += [
            memory.w_en.eq(writing),
            memory.w_addr.eq(self._chosen(m, place)),
            memory.w_data.eq(Cat(self._chosen(m, lower[place]), whole[: len(upper)])),
        ]
        return memory, (left != 0) | writing

    def _build_report(self, m: Module, now: tuple[Value, Value, Value], place: Value, upper: Value) -> None:
        count = len(COUNTERS)
        copied, following, index = Signal(), Signal(range(count)), Signal(range(count))
        begin, valid, move = Signal(), Signal(), Signal()
        memory, copying = self._build_copy(m, "listed", begin, now, place, upper)
        free = ~copying & ~copied & ~valid
        if self.registered:
            free = later(m, free & ~begin, registered=True, name="free") & ~begin
        m.d.comb += [
            begin.eq(self._taken(m, self.report & free)),
            move.eq(copied & ~copying & (~valid | self.reported.ready)),
            memory.r_en.eq(move),
            memory.r_addr.eq(following),
            self.reported.valid.eq(valid),
            self.reported.payload.index.eq(index),
            self.reported.payload.value.eq(memory.r_data),
        ]
        with m.If(begin):
            m.d.sync += [copied.eq(1), following.eq(0)]
        with m.If(self.reported.ready):
            m.d.sync += valid.eq(0)
        with m.If(move):
            m.d.sync += [valid.eq(1), index.eq(following), following.eq(following + 1)]
            with m.If(following == count - 1):
                m.d.sync += copied.eq(0)
