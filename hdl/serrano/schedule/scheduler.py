# SPDX-License-Identifier: Apache-2.0
"""Serving requests: from a submitted prompt to the completion of its last token, step by step."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.bus import ReadPort, WordReader
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Stat, Status
from serrano.kvcache.payloads import KVPort
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.embed import EmbedCommand
from serrano.schedule.rings import Completion, Request
from serrano.schedule.spans import Span, StepCommand

__all__ = ["Scheduler"]

SEQUENCE = 0
"""The sequence of requests that adopt none."""


class Scheduler(wiring.Component):
    """Serves requests one after another, without the host.

    A request is checked, and admitted if there are blocks for its prompt and all new tokens: they are taken
    at once, so that no later command can run short. Usually the sequence is opened for it. One that the
    request adopts must be open, its tenant's, without a reservation and shorter than the prompt; the request
    goes on behind its tokens. There, APPEND of all tokens that are to come and ABORT take the blocks, as they
    replace shared and sealed ones too. A request that is not admitted leaves sequences as they were.

    Each step takes one token, of the prompt or the one sampled last, reserves its slot, runs, and is
    committed. The completion of a token is written after its step has committed. A step that fails is tried
    once more if ``retry`` is set with ``failed``; otherwise the request ends with the fault's code. Whatever
    happens, the sequence is freed at the end, or, if the request keeps it, trimmed to its committed tokens.

    The sequence is ``locked`` from the answer to a step's APPEND to that of its COMMIT or ABORT: whoever else
    has a command for it gets in between two steps or tries. If the next APPEND finds the sequence closed or
    elsewhere than the last step left it, the request ends with REQUEST_CHANGED.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    requests : ``In(stream.Signature({"request", "error"}))``
        Requests.
    ring_free, ring_size : ``In(32)``
        Free records and size of the completion ring.
    completions : ``Out(stream.Signature(Completion))``
        Completion records.
    memory : ``Out(ReadPort(config))``
        Port to memory, for prompts.
    kv : ``Out(KVPort())``
        Commands to the KV controller.
    span : ``Out(stream.Signature(Span(config)))``
        The sequence of the next step.
    step : ``Out(stream.Signature(StepCommand(config)))``
        Steps to be executed.
    embed : ``Out(stream.Signature(EmbedCommand(config)))``
        Rows of the step.
    tokens : ``In(stream.Signature({"row", "token"}))``
        Sampled tokens.
    done : ``In(1)``
        The step has been executed, all its packets were right and all its writes are acknowledged.
    failed, retry, code : ``In(1)``, ``In(1)``, ``In(FaultCode)``
        The step was given up, whether it may be tried again, and why.
    busy : ``Out(1)``
        A request is being served.
    running : ``Out(1)``
        A step is running: from its begin to the begin of the next one, or to the end of the request.
    begin : ``Out(1)``
        A step begins.
    committed : ``Out(1)``
        A step has been committed.
    position : ``Out(32)``
        Position of the step's token.
    sequence : ``Out(16)``
        Sequence of the request.
    locked : ``Out(config.sequences_max)``
        The sequence of the running step, one bit for each.
    ended : ``Out(1)``
        A request has ended.
    refused : ``Out({"valid", "code", "detail"})``
        A request is refused: code, and status of the KV controller if that is the reason.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        token = data.StructLayout({"row": ceil_log2(config.rows_max), "token": 32})
        super().__init__(
            {
                "model": In(ModelInfo),
                "requests": In(stream.Signature(data.StructLayout({"request": Request, "error": 1}))),
                "ring_free": In(32),
                "ring_size": In(32),
                "completions": Out(stream.Signature(Completion)),
                "memory": Out(ReadPort(config)),
                "kv": Out(KVPort()),
                "span": Out(stream.Signature(Span(config))),
                "step": Out(stream.Signature(StepCommand(config))),
                "embed": Out(stream.Signature(EmbedCommand(config))),
                "tokens": In(stream.Signature(token)),
                "done": In(1),
                "failed": In(1),
                "retry": In(1),
                "code": In(FaultCode),
                "busy": Out(1),
                "running": Out(1),
                "begin": Out(1),
                "committed": Out(1),
                "position": Out(32),
                "sequence": Out(16),
                "locked": Out(config.sequences_max),
                "ended": Out(1),
                "refused": Out(data.StructLayout({"valid": 1, "code": FaultCode, "detail": 8})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.words = self._words = words = WordReader(self.config)
        wiring.connect(m, words.memory, wiring.flipped(self.memory))
        self._request = Signal(Request)
        self._token = Signal(32)
        self._produced = Signal(32)
        self._failure = Signal(FaultCode)
        self._status = Signal(8)
        # The request has a sequence to give back; it has all blocks.
        self._held, self._admitted = Signal(), Signal()
        # A step has reserved its slot: in this cycle, since an earlier one.
        self._reserved, self._locked = Signal(), Signal()
        self._retried, self._sample = Signal(), Signal()
        m.d.comb += [
            words.command.payload.address.eq(self._request.prompt + (self.position << 2)),
            words.command.payload.words.eq(1),
            self._sample.eq(self.position + 1 >= self._request.prompt_tokens),
            self.sequence.eq(Mux(self._request.flags.adopt, self._request.sequence, SEQUENCE)),
        ]
        for number in range(self.config.sequences_max):
            locked = (self._locked | self._reserved) & (self.sequence == number)
            m.d.comb += self.locked[number].eq(locked)
        with m.FSM(name="request") as self._fsm:
            self._build_admission(m)
            self._build_step(m)
            self._build_completion(m)
            self._build_end(m)
        m.d.comb += self.busy.eq(~self._fsm.ongoing("IDLE"))
        return m

    def _fail(self, m: Module, code: Any, detail: Any = 0) -> None:
        m.d.sync += self._failure.eq(code)
        m.d.comb += [
            self.refused.valid.eq(1),
            self.refused.code.eq(code),
            self.refused.detail.eq(detail),
        ]
        m.next = "ABORT"

    def _kv(self, m: Module, state: str, opcode: Opcode, following: str, argument: Any = 0) -> None:
        """States ``state`` and ``state``_WAIT: issue a command, go to ``following`` if the answer is OK."""
        command, status = self.kv.commands, self.kv.responses.payload.status
        with m.State(state):
            m.d.comb += [
                command.valid.eq(1),
                command.payload.opcode.eq(opcode),
                command.payload.seq.eq(self.sequence),
                command.payload.tenant.eq(self._request.tenant),
                command.payload.arg0.eq(argument),
            ]
            with m.If(command.ready):
                m.next = f"{state}_WAIT"
        with m.State(f"{state}_WAIT"):
            m.d.comb += self.kv.responses.ready.eq(1)
            with m.If(self.kv.responses.valid):
                # What is given back at the end is given back whatever the answer.
                with m.If((status == Status.OK) | Const(state == "CLOSE")):
                    m.next = following
                    self._kv_answer(m, state)
                with m.Elif((status == Status.NO_SPACE) | (status == Status.NEVER_FITS)):
                    self._fail(m, FaultCode.REQUEST_SPACE, status)
                with m.Elif(((status == Status.BAD_SEQ) | (status == Status.TENANT)) & self._admitted):
                    self._fail(m, FaultCode.REQUEST_CHANGED, status)
                with m.Else():
                    self._fail(m, FaultCode.KV_COMMAND, status)

    def _kv_answer(self, m: Module, state: str) -> None:
        """What an answer means, beyond that the command was executed."""
        aux = self.kv.responses.payload.aux
        match state:
            case "POSITION":
                m.d.sync += self.position.eq(aux)
            case "LENGTH":
                with m.If((aux != self.position) | (aux >= self._request.prompt_tokens)):
                    self._fail(m, FaultCode.REQUEST_SEQUENCE)
            case "OPEN":
                m.d.sync += self._held.eq(1)
            case "TAKE":
                m.d.sync += self._held.eq(1)
                self._expect_position(m, aux)
            case "ALLOCATE" | "TAKEN":
                m.d.sync += self._admitted.eq(1)
            case "RESERVE":
                m.d.comb += self._reserved.eq(1)
                m.d.sync += self._locked.eq(1)
                self._expect_position(m, aux)
            case "COMMIT" | "RELEASE" | "CLOSE":
                m.d.sync += self._locked.eq(0)

    def _expect_position(self, m: Module, position: Value) -> None:
        """The sequence ends where the last command of this request left it."""
        with m.If(position != self.position):
            self._fail(m, FaultCode.REQUEST_CHANGED)

    def _build_admission(self, m: Module) -> None:
        entry, request, model = self.requests.payload, self._request, self.model
        sequences = self.config.sequences_max
        total = Signal(33)
        m.d.comb += total.eq(request.prompt_tokens + request.max_new)
        with m.State("IDLE"):
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += [
                request.eq(entry.request),
                self.position.eq(0),
                self._produced.eq(0),
                self._failure.eq(FaultCode.NONE),
                self._held.eq(0),
                self._admitted.eq(0),
                self.running.eq(0),
            ]
            with m.If(self.requests.valid):
                with m.If(entry.error):
                    m.d.sync += self._failure.eq(FaultCode.BUS_SLVERR)
                    m.next = "ABORT"
                with m.Else():
                    m.next = "CHECK"
        with m.State("CHECK"):
            with m.If(request.flags.unknown != 0):
                self._fail(m, FaultCode.REQUEST_FLAGS)
            with m.Elif(Mux(request.flags.adopt, request.sequence >= sequences, request.sequence != 0)):
                self._fail(m, FaultCode.REQUEST_SEQUENCE)
            with m.Elif((request.prompt_tokens == 0) | (request.max_new == 0)):
                self._fail(m, FaultCode.REQUEST_EMPTY)
            with m.Elif(total > model.context):
                self._fail(m, FaultCode.REQUEST_LENGTH)
            with m.Elif(request.prompt[:2] != 0):
                self._fail(m, FaultCode.REQUEST_ADDRESS)
            with m.Elif(request.max_new >= self.ring_size):
                self._fail(m, FaultCode.REQUEST_RING)
            with m.Elif(request.max_new < self.ring_free):
                m.next = "OPEN"
                with m.If(request.flags.adopt):
                    m.next = "POSITION"
        self._kv(m, "OPEN", Opcode.OPEN, "ALLOCATE")
        self._kv(m, "ALLOCATE", Opcode.ALLOC, "PROMPT", total)
        # To append nothing tells the position, and whether the sequence is open and the tenant's.
        self._kv(m, "POSITION", Opcode.APPEND, "LENGTH", 0)
        self._kv(m, "LENGTH", Opcode.STAT, "TAKE", Stat.SEQUENCE_LENGTH)
        self._kv(m, "TAKE", Opcode.APPEND, "TAKEN", total - self.position)
        self._kv(m, "TAKEN", Opcode.ABORT, "PROMPT")

    def _build_step(self, m: Module) -> None:
        words, token = self._words, self.tokens
        with m.State("PROMPT"):
            m.d.comb += words.command.valid.eq(1)
            with m.If(words.command.ready):
                m.next = "PROMPT_WAIT"
        with m.State("PROMPT_WAIT"):
            m.d.comb += words.words.ready.eq(1)
            with m.If(words.words.valid):
                m.d.sync += self._token.eq(words.words.payload.value)
                m.next = "TOKEN"
                with m.If(words.words.payload.error):
                    m.d.sync += self._failure.eq(FaultCode.BUS_SLVERR)
                    m.next = "ABORT"
        with m.State("TOKEN"):
            m.d.sync += self._retried.eq(0)
            with m.If(self._token >= self.model.vocab):
                self._fail(m, FaultCode.REQUEST_TOKEN)
            with m.Else():
                m.next = "RESERVE"
        self._kv(m, "RESERVE", Opcode.APPEND, "SPAN", 1)
        with m.State("SPAN"):
            m.d.comb += [
                self.span.valid.eq(1),
                self.span.payload.sequence.eq(self.sequence),
                self.span.payload.row.eq(0),
                self.span.payload.rows.eq(1),
                self.span.payload.position.eq(self.position),
            ]
            with m.If(self.span.ready):
                m.next = "STEP"
        with m.State("STEP"):
            m.d.comb += [
                self.step.valid.eq(1),
                self.step.payload.rows.eq(1),
                self.step.payload.sampled.eq(self._sample),
                self.step.payload.last.eq(0),
                self.begin.eq(self.step.ready),
            ]
            with m.If(self.step.ready):
                m.d.sync += self.running.eq(1)
                m.next = "ROW"
        with m.State("ROW"):
            m.d.comb += [
                self.embed.valid.eq(1),
                self.embed.payload.row.eq(0),
                self.embed.payload.sequence.eq(self.sequence),
                self.embed.payload.token.eq(self._token),
                self.embed.payload.position.eq(self.position),
            ]
            with m.If(self.failed):
                self._build_failure(m)
            with m.Elif(self.embed.ready):
                m.next = "EXECUTE"
        with m.State("EXECUTE"):
            m.d.comb += token.ready.eq(1)
            with m.If(token.valid):
                m.d.sync += self._token.eq(token.payload.token)
            with m.If(self.failed):
                self._build_failure(m)
            with m.Elif(self.done):
                m.next = "COMMIT"

    def _build_failure(self, m: Module) -> None:
        m.d.sync += self._retried.eq(1)
        with m.If(self.retry & ~self._retried):
            m.next = "RELEASE"
        with m.Else():
            m.d.sync += self._failure.eq(self.code)
            m.next = "ABORT"

    def _build_completion(self, m: Module) -> None:
        request, record = self._request, self.completions
        last = Signal()
        m.d.comb += last.eq((self._produced + 1 == request.max_new) | (self._token == request.eos))
        self._kv(m, "COMMIT", Opcode.COMMIT, "COMMITTED", 1)
        with m.State("COMMITTED"):
            m.d.comb += self.committed.eq(1)
            m.d.sync += self.position.eq(self.position + 1)
            with m.If(self._sample):
                m.next = "COMPLETE"
            with m.Else():
                m.next = "PROMPT"
        with m.State("COMPLETE"):
            m.d.comb += [
                record.valid.eq(1),
                record.payload.id.eq(request.id),
                record.payload.token.eq(self._token),
                record.payload.status.eq(FaultCode.NONE),
                record.payload.has_token.eq(1),
                record.payload.ended.eq(last),
            ]
            with m.If(record.ready):
                m.d.sync += self._produced.eq(self._produced + 1)
                m.next = "TOKEN"
                with m.If(last):
                    m.next = "CLOSE"

    def _build_end(self, m: Module) -> None:
        record = self.completions
        # A failed step drops its reservation and is tried again, or ends its request.
        self._kv(m, "RELEASE", Opcode.ABORT, "RESERVE")
        with m.State("ABORT"):
            m.d.sync += self.running.eq(0)
            m.next = "REPORT"
            with m.If(self._held):
                m.next = "CLOSE"
        # Each of them drops a reservation.
        flags = self._request.flags
        closing = Mux(flags.adopt & ~self._admitted, Opcode.ABORT, Opcode.FREE)
        closing = Mux(flags.keep & self._admitted, Opcode.TRIM, closing)
        self._kv(m, "CLOSE", closing, "REPORT", self.position)
        with m.State("REPORT"):
            m.d.sync += self.running.eq(0)
            m.d.comb += [
                record.valid.eq(self._failure != FaultCode.NONE),
                record.payload.id.eq(self._request.id),
                record.payload.status.eq(self._failure),
                record.payload.ended.eq(1),
            ]
            with m.If(record.ready | ~record.valid):
                m.d.comb += self.ended.eq(1)
                m.next = "IDLE"
