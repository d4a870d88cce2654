# SPDX-License-Identifier: Apache-2.0
"""The trace stream: ``docs/trace.md``."""

from types import SimpleNamespace
from typing import Any

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.csr.counters import CounterValue
from serrano.faults import FaultCode
from serrano.layouts import EpilogueBeat
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.rings import NO_SEQUENCE
from serrano.schedule.slots import Served
from serrano.schedule.spans import Span, StepCommand
from serrano.stream import StreamRegister
from serrano.stream.slices import later
from serrano.vector.payloads import CodesBeat, HeadCodes, HeadKind, Token, WrittenBeat

__all__ = ["ActivityWord", "TraceBeat", "TraceKind", "Tracer"]


class TraceKind(enum.Enum, shape=unsigned(4)):
    """What a beat of the trace shows."""

    RESIDUAL = 1
    CODES = 2
    HEADS = 3
    LOGITS = 4
    TOKEN = 5
    BEGIN = 6
    COMMIT = 7
    COUNTER = 8
    FAULT = 9
    SPAN = 10
    ADMIT = 11
    END = 12


class TraceBeat(data.StructLayout):
    """A beat of the trace. It has room for two values even where results have one."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "kind": TraceKind,
                "packet": 16,
                "row": 8,
                "column": 20,
                "values": data.ArrayLayout(signed(32), max(2, config.lanes)),
            }
        )


class ActivityWord(data.Struct):
    """What each part does in a cycle. The bits ``array_*`` and ``port_*`` are what the counters count."""

    packet: unsigned(16)
    """Packet being executed."""
    stepping: unsigned(1)
    """A step is being executed: one cycle after its begin until its end."""
    array_busy: unsigned(1)
    array_wait_tape: unsigned(1)
    array_wait_kv: unsigned(1)
    array_epilogue: unsigned(1)
    array_serial: unsigned(1)
    port_weights: unsigned(1)
    port_kv: unsigned(1)
    port_other: unsigned(1)
    port_no_space: unsigned(1)
    port_latency: unsigned(1)
    port_no_request: unsigned(1)
    residual: unsigned(1)
    """Linear outputs are added to the residual."""
    heads: unsigned(1)
    """Codes of a head are given out."""
    staged: unsigned(1)
    """Values are staged."""
    logits: unsigned(1)
    """Logits are given out."""
    quantizing: unsigned(1)
    """The row quantizer has a command."""
    gathering: unsigned(1)
    """KV records are asked for, or on their way."""
    appending: unsigned(1)
    """New k and v are not acknowledged by memory."""


def _event(shape: Any) -> Any:
    return In(data.StructLayout({"valid": 1, "beat": shape}))


class Tracer(wiring.Component):
    """Merges what the blocks show into one stream that cannot be stalled, one cycle later; with
    ``config.registered`` three.

    Results of different blocks never come in the same cycle, as packets are executed one after another;
    counters wait for a free cycle. An event of the scheduler goes before a fault, and that before a result;
    what comes later waits.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    packet : ``In(16)``
        Packet being executed.
    residual, codes, heads, logits, token : ``In({"valid", "beat"})``
        Results as they are produced.
    begin, committed : ``In(1)``
        Events of the scheduler.
    step : ``In(StepCommand(config))``
        The step.
    span, number : ``In({"valid", "beat"})``, ``In(32)``
        A span of the next step, and the number of its request.
    admitted, ended : ``In(Served(config))``
        A request begins, or ends.
    fault : ``In({"valid", "code", "packet"})``
        A fault was recorded.
    counters : ``In(stream.Signature(CounterValue))``
        Counters to be shown.
    valid : ``Out(1)``
        A beat is shown.
    beat : ``Out(TraceBeat(config))``
        The beat.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "model": In(ModelInfo),
                "packet": In(16),
                "residual": _event(WrittenBeat(config)),
                "codes": _event(CodesBeat(config)),
                "heads": _event(HeadCodes(config)),
                "logits": _event(EpilogueBeat(config)),
                "token": _event(Token(config)),
                "begin": In(1),
                "committed": In(1),
                "step": In(StepCommand(config)),
                "span": _event(Span(config)),
                "number": In(32),
                "admitted": In(Served(config)),
                "ended": In(Served(config)),
                "fault": In(data.StructLayout({"valid": 1, "code": FaultCode, "packet": 32})),
                "counters": In(stream.Signature(CounterValue)),
                "valid": Out(1),
                "beat": Out(TraceBeat(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beat = self.beat
        came, now = self._take(m)
        # A fault that has had to wait.
        late, fault = Signal.like(now.fault), Signal.like(now.fault)
        m.d.comb += fault.eq(Mux(late.valid, Value.cast(late), Value.cast(now.fault)))
        with m.If(~late.valid):
            m.d.sync += late.eq(now.fault)

        result = self._choose(m, came)
        held = Signal.like(result)
        # One result waits where something goes before it; the faults behind wait until none does.
        shown = Signal.like(result)
        m.d.comb += shown.eq(Mux(held.valid, Value.cast(held), Value.cast(result)))
        m.d.sync += [self.valid.eq(1), beat.packet.eq(now.packet), beat.row.eq(0), beat.column.eq(0)]
        with m.If(~held.valid):
            m.d.sync += held.eq(result)
        with m.If(now.begin):
            self._show(m, TraceKind.BEGIN, [now.step.rows, now.step.sampled])
        with m.Elif(now.committed):
            self._show(m, TraceKind.COMMIT, [now.step.rows])
        with m.Elif(now.span.valid):
            span = now.span.beat
            self._show(m, TraceKind.SPAN, [span.sequence | span.rows << 16, now.number])
            m.d.sync += [beat.row.eq(span.row), beat.column.eq(span.position)]
        with m.Elif(now.admitted.valid):
            self._show(m, TraceKind.ADMIT, [now.admitted.sequence, now.admitted.number])
        with m.Elif(now.ended.valid):
            ended = now.ended
            sequence = Mux(ended.has_sequence, ended.sequence, NO_SEQUENCE)
            self._show(m, TraceKind.END, [sequence | Value.cast(ended.code) << 16, ended.number])
        with m.Elif(fault.valid & ~(held.valid & result.valid)):
            self._show(m, TraceKind.FAULT, [fault.code, fault.packet])
            m.d.sync += [late.eq(now.fault), late.valid.eq(late.valid & now.fault.valid)]
        with m.Elif(shown.valid):
            m.d.sync += [beat.eq(shown.beat), held.eq(result), held.valid.eq(held.valid & result.valid)]
        with m.Elif(now.counters.valid):
            value = now.counters.payload.value
            self._show(m, TraceKind.COUNTER, [value[:32], value[32:]])
            m.d.sync += beat.column.eq(now.counters.payload.index)
            m.d.comb += now.counters.ready.eq(1)
        with m.Else():
            m.d.sync += self.valid.eq(0)
        return m

    def _take(self, m: Module) -> Any:
        """What has come in, for the choice of a result, and what is shown with it.

        With registers what came in a cycle ago and what came in two cycles ago: its sources lie far away, and
        the choice takes a cycle.
        """
        if not self.config.registered:
            return self, self
        m.submodules.counters = counters = StreamRegister(CounterValue)
        wiring.connect(m, wiring.flipped(self.counters), counters.i)
        all_came, taken = SimpleNamespace(model=self.model), SimpleNamespace(counters=counters.o)
        for name, member in self.signature.members.items():
            if member.is_port and member.flow == In and name != "model":
                came = later(m, getattr(self, name), registered=True, name=f"came_{name}")
                setattr(all_came, name, came)
                setattr(taken, name, later(m, came, registered=True, name=f"taken_{name}"))
        return all_came, taken

    def _choose(self, m: Module, now: Any) -> Any:
        """The result of this cycle, with registers of the one before."""
        result = Signal(data.StructLayout({"valid": 1, "beat": TraceBeat(self.config)}))
        heads, beat = now.heads.beat, result.beat
        first_head = Signal(16)
        with m.Switch(heads.kind):
            with m.Case(HeadKind.K):
                m.d.comb += first_head.eq(0)
            with m.Case(HeadKind.V):
                m.d.comb += first_head.eq(now.model.kv_heads)
            with m.Default():
                m.d.comb += first_head.eq(now.model.kv_heads << 1)
        column = (first_head + heads.head) * now.model.head_pad + heads.column
        token = now.token.beat
        m.d.comb += beat.packet.eq(now.packet)
        sources = (
            (TraceKind.TOKEN, now.token, [token.token, token.value], 0),
            (TraceKind.LOGITS, now.logits, now.logits.beat.values, now.logits.beat.column),
            (TraceKind.RESIDUAL, now.residual, now.residual.beat.values, now.residual.beat.column),
            (TraceKind.HEADS, now.heads, heads.codes, column),
            (TraceKind.CODES, now.codes, now.codes.beat.codes, now.codes.beat.column),
        )
        for kind, source, values, place in reversed(sources):
            with m.If(source.valid):
                m.d.comb += [
                    result.valid.eq(1),
                    beat.kind.eq(kind),
                    beat.row.eq(source.beat.row),
                    beat.column.eq(place),
                    *(beat.values[lane].eq(value) for lane, value in enumerate(values)),
                ]
        return later(m, result, registered=self.config.registered, name="result")

    def _show(self, m: Module, kind: TraceKind, values: list[Any]) -> None:
        m.d.sync += self.beat.kind.eq(kind)
        for place in range(len(Value.cast(self.beat.values)) // 32):
            m.d.sync += self.beat.values[place].eq(values[place] if place < len(values) else 0)
