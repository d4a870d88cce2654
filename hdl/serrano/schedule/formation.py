# SPDX-License-Identifier: Apache-2.0
"""Forming a step: which rows it has, and reserving their slots."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import ReadPort, WordReader
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Status
from serrano.kvcache.payloads import KVPort, sequence_bits
from serrano.schedule.calls import judged, kv_call
from serrano.schedule.embed import EmbedCommand
from serrano.schedule.slots import Served, Slot, one_of
from serrano.schedule.spans import Span, StepCommand
from serrano.stream import HalfRegister
from serrano.stream.pace import paced, settled, take_turns
from serrano.stream.slices import connect_reads, sliced

__all__ = ["Formation"]


class Formation(wiring.Component):
    """Puts the rows of the next step together: first one of every sequence that decodes, then a chunk of the
    oldest prompt, with all rows that are left. The last token of a prompt, if no other is left, counts as
    decoding: it is one row, and sampled.

    If there are too many sequences they take turns; while a prompt waits, one row is left to it. A sequence's
    slots are reserved by APPEND; if it is not open any more, or not where the last step has left it, or a
    token of the prompt is not in the vocabulary, its request fails, and the step goes without it.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    vocab : ``In(32)``
        Size of the model's vocabulary.
    start : ``In(1)``
        Begin.
    decoding, prompting : ``In(config.sequences_max)``
        Sequences whose request needs one row, or more than one for the rest of its prompt.
    commit : ``In(1)``
        The step that was formed last is committed: the turn goes on.
    slot_sequence : ``Out(range)``
        A sequence whose request is wanted.
    slot : ``In(Slot(config))``
        It, a cycle later.
    memory : ``Out(ReadPort(config))``
        Port to memory, for prompts.
    kv : ``Out(KVPort())``
        Commands to the KV controller.
    span, number : ``Out(stream.Signature(Span(config)))``, ``Out(32)``
        The spans of the step, and whose they are.
    reserved : ``Out(1)``
        The slots of the present span are reserved in this cycle; its sequence is ``slot_sequence``.
    row_en, row : ``Out(1)``, ``Out(EmbedCommand(config))``
        A row of the step. One row may be told again, the last one counts.
    failed : ``Out(Served(config))``
        A request fails: its sequence and why.
    detail : ``Out(8)``
        Status of the KV controller, if that is the reason.
    done : ``Out(1)``
        The step is formed.
    spans, step : ``Out(range)``, ``Out(StepCommand(config))``
        Spans (count), and the step; it may have no rows.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        sequence, sequences = sequence_bits(config), config.sequences_max
        super().__init__(
            {
                "vocab": In(32),
                "start": In(1),
                "decoding": In(sequences),
                "prompting": In(sequences),
                "commit": In(1),
                "slot_sequence": Out(sequence),
                "slot": In(Slot(config)),
                "memory": Out(ReadPort(config)),
                "kv": Out(KVPort()),
                "span": Out(stream.Signature(Span(config))),
                "number": Out(32),
                "reserved": Out(1),
                "row_en": Out(1),
                "row": Out(EmbedCommand(config)),
                "failed": Out(Served(config)),
                "detail": Out(8),
                "done": Out(1),
                "spans": Out(range(config.rows_max + 1)),
                "step": Out(StepCommand(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, slot = self.config, self.slot
        m.submodules.words = self._words = words = WordReader(config)
        connect_reads(m, words.memory, wiring.flipped(self.memory), registered=config.registered)
        self._token = sliced(m, "token", words.words, registered=config.registered, kind=HalfRegister)
        # Rows of the present span, and of those of a chunk the ones that have been read.
        self._count, self._read = Signal.like(self.step.rows), Signal.like(self.step.rows)
        self._left = Signal(config.sequences_max)
        # Why the present span fails.
        self._code, self._answer = Signal(FaultCode), Signal(8)
        self._sequence, self._is_prompt, self._bad = Signal(sequence_bits(config)), Signal(), Signal()
        # The prompt that was submitted first, among those looked at.
        self._found, self._oldest, self._first = Signal(), Signal(sequence_bits(config)), Signal(32)
        self._turn, self._next_turn = Signal(sequence_bits(config)), Signal(sequence_bits(config))
        self._in_prompt = settled(m, config, slot.in_prompt, "in_prompt")
        m.d.comb += [
            words.command.payload.address.eq(
                settled(m, config, slot.prompt + (slot.position << 2), "prompt")
            ),
            words.command.payload.words.eq(self._count),
            self.row.row.eq(self.step.rows + self._read),
            self.row.sequence.eq(self._sequence),
            self.row.position.eq(slot.position + self._read),
            self.row.token.eq(Mux(self._in_prompt, self._token.payload.value, slot.token)),
            self.span.payload.sequence.eq(self._sequence),
            self.span.payload.row.eq(self.step.rows),
            self.span.payload.rows.eq(self._count),
            self.span.payload.position.eq(slot.position),
            self.number.eq(slot.number),
            self.slot_sequence.eq(self._sequence),
            self.failed.has_sequence.eq(1),
            self.failed.sequence.eq(self._sequence),
            self.failed.number.eq(slot.number),
        ]
        with m.If(self.commit):
            m.d.sync += self._turn.eq(self._next_turn)
        self._chosen = one_of(m, config, self._left, self._turn, "chosen")
        self._some_left = settled(m, config, self._left.any(), "some_left")
        self._acts = take_turns(m, config)
        # The span in hand is given to the scheduler.
        self._adds = Signal()
        self._turn_state = "TURN" if config.registered else "DECODE"
        with m.FSM():
            self._build_decoding(m)
            self._build_prompt(m)
            self._build_span(m)
            self._build_failure(m)
        self._build_step(m)
        return m

    def _fail(self, m: Module, code: Any, detail: Any = 0) -> None:
        if self.config.registered:
            m.d.sync += [self._code.eq(code), self._answer.eq(detail)]
            m.next = "FAILED"
        else:
            m.d.comb += [self.failed.valid.eq(1), self.failed.code.eq(code), self.detail.eq(detail)]
            self._go_on(m)

    def _build_failure(self, m: Module) -> None:
        """With registers, a request fails in a cycle of its own."""
        if self.config.registered:
            m.d.comb += [self.failed.code.eq(self._code), self.detail.eq(self._answer)]
            with m.State("FAILED"):
                m.d.comb += self.failed.valid.eq(1)
                self._go_on(m)

    def _go_on(self, m: Module) -> None:
        m.next = self._turn_state
        with m.If(self._is_prompt):
            m.next = "DONE"

    def _build_decoding(self, m: Module) -> None:
        step, rows_max = self.step, self.config.rows_max
        chosen, limit = self._chosen, Signal.like(step.rows)
        start = settled(m, self.config, self.start, "started")
        with m.State("IDLE"):
            with m.If(start):
                m.d.sync += [
                    self.spans.eq(0),
                    step.eq(0),
                    limit.eq(rows_max - self.prompting.any()),
                    self._left.eq(self.decoding),
                    self._next_turn.eq(self._turn),
                    self._is_prompt.eq(0),
                    self._count.eq(1),
                    self._read.eq(0),
                ]
                m.next = self._turn_state
        if self.config.registered:
            # Time for whose turn it is.
            with paced(m, "TURN", self._acts):
                m.next = "DECODE"
        room = settled(m, self.config, step.rows != limit, "room")
        with paced(m, "DECODE", self._acts):
            m.d.sync += [self._sequence.eq(chosen), self._bad.eq(0)]
            with m.If(self._some_left & room):
                m.d.sync += self._left.bit_select(chosen, 1).eq(0)
                m.next = "ROW_SLOT"
            with m.Else():
                # Who has to wait is first next time.
                with m.If(self._some_left):
                    m.d.sync += self._next_turn.eq(chosen)
                m.d.sync += [self._left.eq(self.prompting), self._found.eq(0)]
                m.next = "SEEK"
        with m.State("ROW_SLOT"):
            m.next = "ROW_READ" if self.config.registered else "ROW"
        if self.config.registered:
            # Time for what its prompt says of it.
            with m.State("ROW_READ"):
                m.next = "ROW"
        with m.State("ROW"):
            m.d.comb += self.row_en.eq(~self._in_prompt)
            m.next = "RESERVE"
            with m.If(self._in_prompt):
                m.next = "FETCH"

    def _build_prompt(self, m: Module) -> None:
        words, token, slot = self._words, self._token, self.slot
        word = token.payload
        rest = settled(m, self.config, slot.prompt_tokens - slot.position, "rest")
        room = self.config.rows_max - self.step.rows
        error = Signal()
        first, earlier = self._first, (slot.number - self._first)[31]
        with paced(m, "SEEK", self._acts):
            m.d.sync += [self._sequence.eq(self._chosen), self._bad.eq(0)]
            with m.If(self._some_left):
                m.d.sync += self._left.bit_select(self._chosen, 1).eq(0)
                m.next = "SEEK_SLOT"
            with m.Elif(self._found):
                m.d.sync += [self._sequence.eq(self._oldest), self._is_prompt.eq(1)]
                m.next = "PROMPT_SLOT"
            with m.Else():
                m.next = "DONE"
        with m.State("SEEK_SLOT"):
            m.next = "COMPARE"
        with m.State("COMPARE"):
            with m.If(~self._found | earlier):
                m.d.sync += [first.eq(slot.number), self._oldest.eq(self._sequence), self._found.eq(1)]
            m.next = "SEEK"
        with paced(m, "PROMPT_SLOT", self._acts):
            m.next = "CHUNK"
        with paced(m, "CHUNK", self._acts):
            m.d.sync += self._count.eq(Mux(rest < room, rest, room))
            m.next = "FETCH"
        with m.State("FETCH"):
            m.d.comb += words.command.valid.eq(1)
            with m.If(words.command.ready):
                m.next = "TOKENS"
        with m.State("TOKENS"):
            unknown = word.value >= self.vocab
            m.d.comb += [token.ready.eq(1), self.row_en.eq(token.valid)]
            with m.If(token.valid):
                m.d.sync += [self._read.eq(self._read + 1), self._bad.eq(self._bad | unknown)]
                with m.If(word.last):
                    m.d.sync += self._read.eq(0)
                    m.next = "RESERVE"
                    if self.config.registered:
                        m.d.sync += error.eq(word.error)
                        m.next = "WORDS"
                    else:
                        self._judge_words(m, word.error, self._bad | unknown)
        if self.config.registered:
            with m.State("WORDS"):
                m.next = "RESERVE"
                self._judge_words(m, error, self._bad)

    def _judge_words(self, m: Module, error: Value, bad: Value) -> None:
        with m.If(error):
            self._fail(m, FaultCode.BUS_SLVERR)
        with m.Elif(bad):
            self._fail(m, FaultCode.REQUEST_TOKEN)

    def _build_span(self, m: Module) -> None:
        slot = self.slot
        known = (Status.OK, Status.BAD_SEQ, Status.TENANT, Status.NO_SPACE, Status.NEVER_FITS)
        found = judged(m, self.config, self.kv, *known)
        moved = settled(m, self.config, self.kv.responses.payload.aux != slot.position, "moved")
        with kv_call(
            m, self.kv, "RESERVE", Opcode.APPEND, self._sequence, slot.tenant, self._count
        ) as answer:
            m.next = "SPAN"
            with m.If(found[Status.BAD_SEQ] | found[Status.TENANT]):
                self._fail(m, FaultCode.REQUEST_CHANGED, answer.status)
            with m.Elif(found[Status.NO_SPACE] | found[Status.NEVER_FITS]):
                self._fail(m, FaultCode.REQUEST_SPACE, answer.status)
            with m.Elif(~found[Status.OK]):
                self._fail(m, FaultCode.KV_COMMAND, answer.status)
            with m.Elif(moved):
                self._fail(m, FaultCode.REQUEST_CHANGED)
            with m.Else():
                m.d.comb += self.reserved.eq(1)
        with m.State("SPAN"):
            m.d.comb += self.span.valid.eq(1)
            with m.If(self.span.ready):
                m.d.comb += self._adds.eq(1)
                if self.config.registered:
                    m.next = "ADD"
                else:
                    self._go_on(m)
        if self.config.registered:
            with m.State("ADD"):
                self._go_on(m)
        with m.State("DONE"):
            m.d.comb += self.done.eq(1)
            m.next = "IDLE"

    def _build_step(self, m: Module) -> None:
        """What a span that has been given, with registers a cycle before, adds to the step."""
        step, slot = self.step, self.slot
        sampled = slot.position + self._count >= slot.prompt_tokens
        sampled = settled(m, self.config, sampled, "sampled")
        with m.If(settled(m, self.config, self._adds, "adds_before")):
            rows = step.rows + self._count
            m.d.sync += [self.spans.eq(self.spans + 1), step.rows.eq(rows)]
            with m.If(sampled):
                m.d.sync += [step.sampled.eq(step.sampled + 1), step.last.eq(rows - 1)]
