# SPDX-License-Identifier: Apache-2.0
"""Executing the packets of a step, one after another."""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.attention.payloads import AttendCommand
from serrano.config import AcceleratorConfig
from serrano.kvcache.payloads import AppendCommand, GatherCommand
from serrano.layouts import ReadRequest
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.issuer import TO_LOGITS
from serrano.schedule.spans import PartIterator, Span, StepCommand
from serrano.stream import HalfRegister
from serrano.stream.pace import settled
from serrano.stream.slices import slice_before, sliced
from serrano.tape.packets import Header, Opcode
from serrano.vector.arithmetic import unpack_scale
from serrano.vector.payloads import (
    ArgmaxCommand,
    DequantizeCommand,
    FeedCommand,
    HeadsCommand,
    QuantizeCommand,
)

__all__ = ["Route", "Sequencer"]


class Route(enum.Enum, shape=unsigned(2)):
    """Where linear outputs go."""

    RESIDUAL = 0
    HEADS = 1
    GATE_UP = 2
    LOGITS = 3


REPORTS = (
    "embedded",
    "beat_last",
    "head_last",
    "staged_last",
    "quantized",
    "sampled",
    "residual_idle",
    "staging_idle",
    "writes_pending",
)
"""What units report with a bit."""


class Sequencer(wiring.Component):
    """Reads the tape of a step and executes its packets in order, each when the one before has ended.

    For each packet the units concerned get one command each; the sequencer then waits for the last result.
    ATTEND and GATE_UP end with the quantization of what they staged. The KV records of an ATTEND are asked
    for from the QKV before it on. Attention gets a command for each part of each span. The LM head gets only
    the rows that are sampled. END waits until every packet of the step has been checked and every write
    acknowledged. With ``config.registered`` what the units report is seen a cycle later, what follows from
    it is done one more cycle later, and ``packet``, ``attending``, ``sampling`` and ``done`` are told a cycle
    late.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    tape : ``In(config.address_bits)``
        Address of the tape.
    span : ``In(stream.Signature(Span(config)))``
        The sequences of the next step; all before it. Always ready between steps.
    step : ``In(stream.Signature(StepCommand(config)))``
        Steps.
    done : ``Out(1)``
        The step has been executed.
    packet : ``Out(32)``
        Index of the packet being executed, from the begin of a step on.
    attending : ``Out(1)``
        The packet being executed is an ATTEND.
    sampling : ``Out(1)``
        The packet being executed is a SAMPLE.
    route : ``Out(Route)``
        Where linear outputs go.
    reader_start, residual_start, staging_start : ``Out(1)``
        To the tape reader, the residual and the staging buffer.
    runs : ``Out(stream.Signature(ReadRequest(config)))``
        Runs of tape to be read.
    packets : ``In(stream.Signature(Header))``
        Packets.
    feed, dequantize, heads, argmax, quantize, attend, append, gather : ``Out(stream.Signature(...))``
        Commands.
    embedded : ``In(1)``
        The embeddings of all rows are in the residual.
    beat_last, head_last, staged_last, quantized, sampled : ``In(1)``
        The last linear output, head scale, staged value of a packet was taken; quantization has ended; the
        last token was taken.
    residual_idle, staging_idle : ``In(1)``
        Nothing is on its way into the buffer.
    writes_pending : ``In(1)``
        Writes to KV memory are not yet acknowledged.
    checked : ``In(32)``
        Packets of the step found right.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "model": In(ModelInfo),
                "tape": In(config.address_bits),
                "span": In(stream.Signature(Span(config))),
                "step": In(stream.Signature(StepCommand(config))),
                "done": Out(1),
                "packet": Out(32),
                "attending": Out(1),
                "sampling": Out(1),
                "route": Out(Route),
                "reader_start": Out(1),
                "residual_start": Out(1),
                "staging_start": Out(1),
                "runs": Out(stream.Signature(ReadRequest(config))),
                "packets": In(stream.Signature(Header)),
                "feed": Out(stream.Signature(FeedCommand(config))),
                "dequantize": Out(stream.Signature(DequantizeCommand(config))),
                "heads": Out(stream.Signature(HeadsCommand(config))),
                "argmax": Out(stream.Signature(ArgmaxCommand(config))),
                "quantize": Out(stream.Signature(QuantizeCommand(config))),
                "attend": Out(stream.Signature(AttendCommand(config))),
                "append": Out(stream.Signature(AppendCommand(config))),
                "gather": Out(stream.Signature(GatherCommand(config))),
                **dict.fromkeys(REPORTS, In(1)),
                "checked": In(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._current = Signal(StepCommand(self.config))
        self._header = Signal(Header)
        # The states that take something, as registers beside the state.
        self._open, self._awaiting = Signal(), Signal()
        # A step has come, a packet has; with registers a cycle ago.
        self._begun = settled(m, self.config, self._open & self.step.valid, "begun")
        self._fresh = settled(m, self.config, self._awaiting & self.packets.valid, "fresh")
        self._count = Signal(32)
        self._ended = Signal()
        # Records of the layers before the present one.
        self._record = Signal(16)
        self._build_reports(m)
        self._build_spans(m)
        self._gathers, self._attends, self._append, self._quantize = (
            self._sliced(m, name) for name in ("gather", "attend", "append", "quantize")
        )
        self._feed, self._dequantize, self._heads, self._argmax = (
            self._sliced(m, name) for name in ("feed", "dequantize", "heads", "argmax")
        )
        self._build_runs(m)
        self._build_commands(m)
        self._build_offsets(m)
        self._build_gathers(m)
        self._build_attends(m)
        self._build_header(m)
        m.d.comb += [
            self.step.ready.eq(self._open),
            self.span.ready.eq(self._open),
            self.packets.ready.eq(self._awaiting),
        ]
        self._all_checked = all_checked = Signal()
        self._ends = Signal()
        # The present state is over; the state changes. With registers that is a cycle later, so that what
        # ends a state and what follows it are known one after the other.
        self._over, self._goes = Signal(), Signal()
        with m.FSM() as fsm:
            self._build_step(m)
            self._build_packet(m)
            self._build_projection(m)
            self._build_attention(m)
            self._build_end(m)
        registered = self.config.registered
        opens = fsm.ongoing("IDLE")
        # END itself is counted first.
        ending = settled(m, self.config, fsm.ongoing("END") & ~self._fresh, "ending")
        counted = settled(m, self.config, self.checked == self._count, "counted")
        self._domain += [
            self._goes.eq(self._over & ~self._goes if registered else self._over),
            # IDLE is over when a step is taken.
            self._open.eq(opens & ~(self.step.valid & self._open) & ~self._goes if registered else opens),
            all_checked.eq(ending & counted),
            # The records that it begins with stay for longer.
            self._gathered.start.eq(fsm.ongoing("QKV")),
            self.attending.eq(fsm.ongoing("ATTEND") | fsm.ongoing("ATTENDING")),
            self.sampling.eq(fsm.ongoing("SAMPLE")),
            self.done.eq(self._ends),
        ]
        return m

    def _once(self, m: Module, over: Value) -> Any:
        """The present state stays until it is ``over``: the context of what is done when it is left."""
        m.d.comb += self._over.eq(over)
        return m.If(self._goes)

    def _build_reports(self, m: Module) -> None:
        """What the units report, as it is acted upon."""
        self._domain = m.d.sync if self.config.registered else m.d.comb
        self._now = Signal(data.StructLayout(dict.fromkeys(REPORTS, 1)))
        self._domain += [self._now[name].eq(getattr(self, name)) for name in REPORTS]

    def _sliced(self, m: Module, name: str) -> Any:
        """What to drive instead of a command: a register slice, with registers."""
        target, registered = wiring.flipped(getattr(self, name)), self.config.registered
        return slice_before(m, f"{name}_slice", target, registered=registered, kind=HalfRegister)

    def _build_runs(self, m: Module) -> None:
        """Runs from where in the tape to where; their addresses and lengths are behind the slice."""
        offsets = data.StructLayout({"begin": 32, "end": 32})
        self._runs = stream.Signature(offsets).create(path=("parts",))
        chosen = sliced(m, "runs_slice", self._runs, registered=self.config.registered, kind=HalfRegister)
        m.d.comb += [
            self.runs.valid.eq(chosen.valid),
            chosen.ready.eq(self.runs.ready),
            self.runs.payload.address.eq(self.tape + chosen.payload.begin),
            self.runs.payload.bytes.eq(chosen.payload.end - chosen.payload.begin),
        ]

    def _build_offsets(self, m: Module) -> None:
        """The step, and which runs of the tape it takes."""
        model, runs = self.model, self._runs
        # Without rows to sample the LM head is left out: there is a second run.
        self._samples, self._second = samples, second = Signal(), Signal()
        m.d.comb += [
            runs.payload.begin.eq(Mux(second, model.end_offset, model.program_offset)),
            runs.payload.end.eq(Mux(samples | second, model.program_end, model.head_offset)),
        ]
        with m.If(self._open):
            m.d.sync += [
                self._current.eq(self.step.payload),
                samples.eq(self.step.payload.sampled != 0),
                self._record.eq(0),
            ]

    def _build_spans(self, m: Module) -> None:
        """The spans of the step, once for the records that are asked for and once for attention."""
        m.submodules.gathered = self._gathered = PartIterator(self.config)
        m.submodules.attended = self._attended = PartIterator(self.config)
        for parts in (self._gathered, self._attended):
            m.d.comb += [
                parts.group.eq(self.model.group),
                parts.w_en.eq(self.span.valid & self.span.ready),
                parts.w_span.eq(self.span.payload),
                parts.clear.eq(self.done),
            ]

    def _build_commands(self, m: Module) -> None:
        """Payloads follow from the packet, the step and the model; the states say when they are valid."""
        n, model, header = self.config.n, self.model, self._header
        blocks = (header.n_out + (n - 1)) >> exact_log2(n)
        step, rows, part = self._current, self._current.rows, self._attended.part
        projected, last = Signal.like(rows), Signal.like(step.last)
        m.d.comb += [projected.eq(rows), last.eq(rows - 1)]
        with m.If(self.route == Route.LOGITS):
            m.d.comb += [projected.eq(step.sampled), last.eq(step.last)]
        m.d.comb += [
            self._feed.payload.rows.eq(projected),
            self._feed.payload.last.eq(last),
            self._feed.payload.tiles.eq((header.k + (n - 1)) >> exact_log2(n)),
            self._feed.payload.blocks.eq(blocks),
            self._dequantize.payload.rows.eq(projected),
            self._dequantize.payload.last.eq(last),
            self._dequantize.payload.blocks.eq(blocks),
            self._heads.payload.rows.eq(rows),
            self._heads.payload.kv_heads.eq(model.kv_heads),
            self._heads.payload.heads.eq(model.heads),
            self._heads.payload.head_pad.eq(model.head_pad),
            self._heads.payload.score.eq(unpack_scale(model.s_score)),
            self._argmax.payload.rows.eq(step.sampled),
            self._argmax.payload.vocab.eq(model.vocab),
            self._quantize.payload.rows.eq(rows),
            self._quantize.payload.eps.eq(model.s_eps),
            self._attends.payload.row.eq(part.span.row),
            self._attends.payload.skip.eq(part.skip),
            self._attends.payload.rows.eq(part.rows),
            self._attends.payload.final.eq(part.final),
            self._attends.payload.kv_heads.eq(model.kv_heads),
            self._attends.payload.group.eq(model.group),
            self._attends.payload.head_dim.eq(model.head_dim),
            self._attends.payload.head_pad.eq(model.head_pad),
            self._attends.payload.committed.eq(part.span.position),
        ]

    def _issue(self, m: Module, streams: list[Any], following: str) -> None:
        """In the present state, give every stream its command, then go on."""
        taken = [Signal(name=f"taken_{index}") for index in range(len(streams))]
        finished = Const(1)
        for flag, command in zip(taken, streams, strict=True):
            m.d.comb += command.valid.eq(~flag)
            m.d.sync += flag.eq(flag | command.ready)
            finished = finished & (flag | command.ready)
        with self._once(m, finished):
            m.d.sync += [flag.eq(0) for flag in taken]
            m.next = following

    def _build_step(self, m: Module) -> None:
        runs, samples, second = self._runs, self._samples, self._second
        unasked = ~self._goes if self.config.registered else Const(1)
        with m.State("IDLE"):
            m.d.comb += [self.reader_start.eq(1), self.residual_start.eq(1)]
            with self._once(m, self.step.valid & self._open):
                m.next = "PROGRAM"
        with m.State("PROGRAM"):
            m.d.comb += runs.valid.eq(unasked)
            with self._once(m, runs.ready):
                m.d.sync += second.eq(~samples)
                m.next = "PROGRAM_END"
                with m.If(samples):
                    self._to_packet(m)
        with m.State("PROGRAM_END"):
            m.d.comb += runs.valid.eq(unasked)
            with self._once(m, runs.ready):
                m.d.sync += second.eq(0)
                self._to_packet(m)

    def _to_packet(self, m: Module) -> None:
        m.d.sync += self._awaiting.eq(1)
        m.next = "PACKET"

    def _build_packet(self, m: Module) -> None:
        header = self._header if self.config.registered else self.packets.payload
        with m.State("PACKET"):
            m.d.sync += self._ended.eq(0)
            with m.If(self.packets.valid):
                m.d.sync += self._awaiting.eq(0)
            with self._once(m, self._awaiting & self.packets.valid):
                # Only known ones come so far.
                with m.Switch(header.opcode[:4]):
                    for opcode in Opcode:
                        with m.Case(opcode.value):
                            m.next = opcode.name
        with m.State("EMBED"):
            with self._once(m, self._now.embedded):
                self._to_packet(m)
        with m.State("NORM"):
            self._issue(m, [self._quantize], "QUANTIZING")
        with m.State("STAGED"):
            self._issue(m, [self._quantize], "QUANTIZING")
        with m.State("QUANTIZING"):
            with self._once(m, self._now.quantized):
                self._to_packet(m)

    def _build_header(self, m: Module) -> None:
        """The packet being executed, and what is quantized in it: what a NORM takes from the residual, or
        what ATTEND or GATE_UP has staged."""
        header, quantize = self.packets.payload, self._quantize.payload
        norm, attend = Signal(), Signal()
        registered = self.config.registered
        # With registers, what is taken before a packet comes means nothing.
        with m.If(self._awaiting & (self.packets.valid | int(registered))):
            m.d.sync += [
                self._header.eq(header),
                norm.eq(header.opcode[:4] == Opcode.NORM.value),
                attend.eq(header.opcode[:4] == Opcode.ATTEND.value),
            ]
        m.d.sync += self._count.eq(self._count + self._fresh)
        with m.If(self._open):
            m.d.sync += self._count.eq(0)
        with m.If(self._fresh):
            m.d.sync += self.packet.eq(self._header.index if registered else header.index)
        # The embedding may come before the first header.
        with m.If(self._begun):
            m.d.sync += self.packet.eq(0)
        m.d.comb += [
            quantize.norm.eq(norm),
            quantize.staging.eq(~norm),
            quantize.length.eq(Mux(attend, self._header.n_out, self._header.n_out >> 1)),
        ]
        with m.If(norm):
            m.d.comb += quantize.length.eq(self.model.dim)

    def _build_projection(self, m: Module) -> None:
        common = [self._feed, self._dequantize]
        with m.State("MATMUL"):
            to_logits = (self._header.flags & TO_LOGITS).any()
            m.d.sync += self.route.eq(Mux(to_logits, Route.LOGITS, Route.RESIDUAL))
            m.d.comb += self.residual_start.eq(~to_logits)
            with self._once(m, Const(1)):
                m.next = "RESIDUAL"
                with m.If(to_logits):
                    m.next = "LOGITS"
        with m.State("RESIDUAL"):
            self._issue(m, common, "ADDING")
        with m.State("ADDING"):
            m.d.sync += self._ended.eq(self._ended | self._now.beat_last)
            with self._once(m, self._ended & self._now.residual_idle):
                self._to_packet(m)
        with m.State("LOGITS"):
            self._issue(m, [*common, self._argmax], "SCORING")
        with m.State("SCORING"):
            with self._once(m, self._now.beat_last):
                self._to_packet(m)
        with m.State("SAMPLE"):
            with self._once(m, self._now.sampled):
                self._to_packet(m)
        with m.State("GATE_UP"):
            m.d.sync += self.route.eq(Route.GATE_UP)
            m.d.comb += self.staging_start.eq(1)
            with self._once(m, Const(1)):
                m.next = "GATING"
        with m.State("GATING"):
            self._issue(m, common, "STAGING")
        with m.State("STAGING"):
            m.d.sync += self._ended.eq(self._ended | self._now.staged_last)
            with self._once(m, self._ended & self._now.staging_idle):
                m.next = "STAGED"

    def _build_gathers(self, m: Module) -> None:
        """The records of a layer's ATTEND: part after part, head after head, while other packets run."""
        gather, parts, model = self._gathers, self._gathered, self.model
        head, record = Signal.like(model.kv_heads), Signal.like(self._record)
        fresh = parts.part.span.position == 0
        # Commands are taken in every other cycle at most.
        last_head = settled(m, self.config, (model.kv_heads - 1)[: len(head)], "last_head")
        is_last = settled(m, self.config, head == last_head, "is_last_head")
        m.d.comb += [
            gather.payload.seq.eq(parts.part.span.sequence),
            gather.payload.record.eq(record + head),
            gather.payload.first.eq(0),
            gather.payload.count.eq(parts.part.span.position),
            gather.valid.eq(parts.valid & ~fresh),
            parts.step.eq(parts.valid & (fresh | (gather.ready & is_last))),
        ]
        with m.If(parts.start):
            m.d.sync += [record.eq(self._record), head.eq(0)]
        with m.Elif(parts.step):
            m.d.sync += head.eq(0)
        with m.Elif(gather.valid & gather.ready):
            m.d.sync += head.eq(head + 1)

    def _build_attends(self, m: Module) -> None:
        parts = self._attended
        # Commands whose last result has not been staged.
        self._under_way = under_way = Signal(range(self.config.rows_max + 1))
        taken = self._attends.valid & self._attends.ready
        # There are parts in ATTENDING alone, and nothing else is staged before it or in the cycle after it.
        m.d.comb += [
            self._append.payload.record.eq(self._record),
            self._attends.valid.eq(parts.valid),
            parts.step.eq(taken),
        ]
        with m.If(self.attending):
            m.d.sync += under_way.eq(under_way + taken - self._now.staged_last)

    def _build_attention(self, m: Module) -> None:
        parts, model = self._attended, self.model
        with m.State("QKV"):
            m.d.sync += self.route.eq(Route.HEADS)
            with self._once(m, Const(1)):
                m.next = "HEADS"
        with m.State("HEADS"):
            self._issue(m, [self._feed, self._dequantize, self._heads, self._append], "PROJECTING")
        with m.State("PROJECTING"):
            m.d.sync += self._ended.eq(self._ended | self._now.head_last)
            with self._once(m, self._ended):
                m.d.sync += self._record.eq(self._record + model.kv_heads)
                self._to_packet(m)
        with m.State("ATTEND"):
            m.d.comb += [self.staging_start.eq(1), parts.start.eq(1)]
            with self._once(m, Const(1)):
                m.next = "ATTENDING"
        with m.State("ATTENDING"):
            staged_all = (self._under_way == 0) & self._now.staging_idle
            with self._once(m, ~self._attended.active & staged_all):
                m.next = "STAGED"

    def _build_end(self, m: Module) -> None:
        with m.State("END"):
            with self._once(m, self._all_checked & ~self._now.writes_pending):
                m.d.comb += self._ends.eq(1)
                m.next = "IDLE"
