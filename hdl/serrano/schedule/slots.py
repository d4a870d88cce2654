# SPDX-License-Identifier: Apache-2.0
"""What is known of the requests that are being served. A request is known by the sequence that it uses."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.payloads import sequence_bits, token_count
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pace import settled

__all__ = ["CancelSearch", "Served", "Slot", "one_of"]


class SlotView(data.View):
    """What follows from the fields of a slot."""

    @property
    def in_prompt(self) -> Value:
        """The next token fed is one of the prompt."""
        return self.position < self.prompt_tokens

    @property
    def decoding(self) -> Value:
        """It needs one row in its next step: at most the last token of its prompt is left."""
        return self.position + 1 >= self.prompt_tokens


class Slot(data.StructLayout):
    """A request that is being served.

    ``number`` is that of its entry in the submission ring. ``position`` tokens are committed; the next one
    fed is ``token``, or as long as ``position`` is below ``prompt_tokens`` one of the prompt. ``remaining``
    (count) tokens are still wanted.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "id": 32,
                "number": 32,
                "tenant": 8,
                "prompt": config.address_bits,
                "prompt_tokens": token_count(config),
                "position": token_count(config),
                "remaining": token_count(config),
                "eos": 32,
                "token": 32,
                "keep": 1,
            }
        )

    def __call__(self, target: Any) -> SlotView:
        return SlotView(self, target)


class Served(data.StructLayout):
    """A sequence and the request that uses it, for whoever watches; ``code`` tells how a request ended."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "valid": 1,
                "has_sequence": 1,
                "sequence": sequence_bits(config),
                "number": 32,
                "code": FaultCode,
            }
        )


def _lowest(candidates: Value) -> Value:
    """The position of the lowest bit that is set, found by halves; 0 if there is none."""
    if len(candidates) <= 1:
        return Const(0, 1)
    half = 1 << ((len(candidates) - 1).bit_length() - 1)
    low, high = candidates[:half], candidates[half:]
    if half == 1:
        return ~low & high
    bits = half.bit_length() - 1
    upper = Cat(_lowest(high), Const(0, bits))[:bits]
    found = Mux(low.any(), _lowest(low)[:bits], upper)
    return Cat(found, ~low.any() & high.any())


def one_of(m: Module, config: AcceleratorConfig, candidates: Value, turn: Value, name: str) -> Any:
    """The lowest candidate from ``turn`` on, else the lowest of all; 0 if there is none.

    If the accelerator is ``registered``, that of two cycles ago.
    """
    chosen = Signal(range(max(2, len(candidates))), name=name)
    later = Signal(len(candidates), name=f"{name}_later")
    m.d.comb += later.eq(candidates & (Const(-1, signed(len(candidates) + 1)) << turn)[: len(candidates)])
    those = settled(m, config, later, f"{name}_those")
    anybody = settled(m, config, candidates, f"{name}_anybody")
    m.d.comb += chosen.eq(Mux(those.any(), _lowest(those), _lowest(anybody)))
    return settled(m, config, chosen, f"{name}_settled")


class CancelSearch(wiring.Component):
    """Finds the sequence of a request that the host cancels by the number of its entry.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    write, number : ``In(1)``, ``In(32)``
        The host cancels the request with this number.
    busy : ``Out(1)``
        The last one is still being looked for. What the host cancels meanwhile is ignored.
    pause : ``In(1)``
        A request is on its way from the ring to its sequence: not to be found yet.
    waiting, waiting_number : ``In(1)``, ``In(32)``
        A request waits for being admitted.
    active : ``In(config.sequences_max)``
        Sequences with a request.
    begin, sequence, begin_number : ``In(1)``, ``In(range)``, ``In(32)``
        A sequence gets a request.
    hit : ``Out(1)``
        The request that waits is cancelled.
    hits : ``Out(config.sequences_max)``
        The request of this sequence is cancelled.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "write": In(1),
                "number": In(32),
                "busy": Out(1),
                "pause": In(1),
                "waiting": In(1),
                "waiting_number": In(32),
                "active": In(config.sequences_max),
                "begin": In(1),
                "sequence": In(sequence_bits(config)),
                "begin_number": In(32),
                "hit": Out(1),
                "hits": Out(config.sequences_max),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sequences = self.config.sequences_max
        m.submodules.numbers = numbers = OnChipMemory(32, max(2, sequences), transparent=False)
        wanted, index, last = Signal(32), Signal(range(sequences + 1)), Signal(range(sequences + 1))
        found = Signal()
        m.d.comb += [
            numbers.w_en.eq(self.begin),
            numbers.w_addr.eq(self.sequence),
            numbers.w_data.eq(self.begin_number),
            numbers.r_en.eq(1),
            numbers.r_addr.eq(index),
        ]
        m.d.sync += last.eq(index)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [wanted.eq(self.number), index.eq(0)]
                with m.If(self.write):
                    m.next = "HEARD" if self.config.registered else "WAIT"
            if self.config.registered:
                # Whoever has not heard of it begins to read a request in this cycle at the latest.
                with m.State("HEARD"):
                    m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(~self.pause):
                    m.d.comb += self.hit.eq(self.waiting & (self.waiting_number == wanted))
                    m.d.sync += index.eq(1)
                    m.next = "SEARCH"
            with m.State("SEARCH"):
                m.d.comb += found.eq(numbers.r_data == wanted)
                m.d.sync += index.eq(index + 1)
                with m.If(last == sequences - 1):
                    m.next = "IDLE"
        hit_found = settled(m, self.config, found, "hit_found")
        hit_last = settled(m, self.config, last, "hit_last")
        for number in range(sequences):
            m.d.comb += self.hits[number].eq(hit_found & (hit_last == number) & self.active[number])
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m
