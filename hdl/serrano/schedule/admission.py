# SPDX-License-Identifier: Apache-2.0
"""Deciding on a request: refused, admitted with a sequence and all its blocks, or to wait."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Stat, Status
from serrano.kvcache.payloads import KVPort, sequence_bits
from serrano.schedule.calls import judged, kv_call
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.rings import Submission
from serrano.schedule.slots import Slot
from serrano.stream.pace import paced, settled, take_turns

__all__ = ["Admission"]


class Admission(wiring.Component):
    """Checks a request and gives it a sequence, and blocks for its prompt and all new tokens.

    All blocks are taken at once, so that no later command can run short. Usually a sequence is opened: the
    first one, in turn, that no request uses and that the KV controller opens. One that the request adopts
    must be open, its tenant's, without a reservation and shorter than the prompt; there, APPEND of all tokens
    that are to come and ABORT take the blocks, as they replace shared and sealed ones too. A request that is
    not admitted leaves sequences as they were.

    It has to wait if all sequences are in use, or blocks or completion records are lacking, as long as other
    requests are served; when there are none, that will not change, and it is refused. Records are waited for
    in any case, as the host makes them free.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    submission : ``In(Submission)``
        The request; constant until ``done``.
    cancelled : ``In(1)``
        The host has cancelled it.
    start : ``In(1)``
        Begin.
    active : ``In(config.sequences_max)``
        Sequences with a request.
    ring_size, ring_room : ``In(32)``
        Size of the completion ring; records in it that nobody has a claim on.
    kv : ``Out(KVPort())``
        Commands to the KV controller.
    done, admitted, wait : ``Out(1)``
        Decided; with it: the request has a sequence, or it has to wait. Neither: refused.
    code, detail : ``Out(FaultCode)``, ``Out(8)``
        Why it was refused: status of the KV controller if that is the reason.
    sequence, slot : ``Out(range)``, ``Out(Slot(config))``
        Its sequence, and what is to be known of it; with ``admitted``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "model": In(ModelInfo),
                "submission": In(Submission),
                "cancelled": In(1),
                "start": In(1),
                "active": In(config.sequences_max),
                "ring_size": In(32),
                "ring_room": In(32),
                "kv": Out(KVPort()),
                "done": Out(1),
                "admitted": Out(1),
                "wait": Out(1),
                "code": Out(FaultCode),
                "detail": Out(8),
                "sequence": Out(sequence_bits(config)),
                "slot": Out(Slot(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        request, slot = self.submission.request, self.slot
        # The next sequence to be tried, how many have been, and which one is tried first.
        self._next, self._tried = Signal.like(self.sequence), Signal(range(self.config.sequences_max + 1))
        self._first = Signal.like(self.sequence)
        self._total = Signal(33)
        self._acts = take_turns(m, self.config)
        m.d.comb += [
            self._total.eq(settled(m, self.config, request.prompt_tokens + request.max_new, "total")),
            slot.id.eq(request.id),
            slot.number.eq(self.submission.number),
            slot.tenant.eq(request.tenant),
            slot.prompt.eq(request.prompt),
            slot.prompt_tokens.eq(request.prompt_tokens),
            slot.remaining.eq(request.max_new),
            slot.eos.eq(request.eos),
            slot.keep.eq(request.flags.keep),
        ]
        self._first_wrong = self._wrong(m)
        known = (Status.OK, Status.SEQ_BUSY, Status.NO_SPACE, Status.NEVER_FITS)
        self._some_active = settled(m, self.config, self.active.any(), "some_active")
        self._found = judged(m, self.config, self.kv, *known)
        with m.FSM():
            self._build_checks(m)
            self._build_open(m)
            self._build_adopt(m)
            with m.State("WAIT"):
                m.d.comb += [self.done.eq(1), self.wait.eq(1)]
                m.next = "IDLE"
            with m.State("REFUSED"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
            with m.State("ADMITTED"):
                m.d.comb += [self.done.eq(1), self.admitted.eq(1)]
                m.next = "IDLE"
        return m

    def _refuse(self, m: Module, code: Any, detail: Any = 0, following: str = "REFUSED") -> None:
        m.d.sync += [self.code.eq(code), self.detail.eq(detail)]
        m.next = following

    def _wrong(self, m: Module) -> Any:
        """What is wrong with the request: the first of all that may be, or nothing."""
        request, sequences = self.submission.request, self.config.sequences_max
        out_of_range = Mux(request.flags.adopt, request.sequence >= sequences, request.sequence != 0)
        found = [
            (self.submission.error, FaultCode.BUS_SLVERR),
            (self.cancelled | request.flags.cancelled, FaultCode.REQUEST_CANCELLED),
            (request.flags.unknown != 0, FaultCode.REQUEST_FLAGS),
            (out_of_range, FaultCode.REQUEST_SEQUENCE),
            ((request.prompt_tokens == 0) | (request.max_new == 0), FaultCode.REQUEST_EMPTY),
            (self._total > self.model.context, FaultCode.REQUEST_LENGTH),
            (request.prompt[:2] != 0, FaultCode.REQUEST_ADDRESS),
            (request.max_new >= self.ring_size, FaultCode.REQUEST_RING),
        ]
        first = Signal(FaultCode)
        found = [
            (settled(m, self.config, Value.cast(wrong), code.name.lower()), code) for wrong, code in found
        ]
        for wrong, code in reversed(found):
            with m.If(wrong):
                m.d.comb += first.eq(code)
        return settled(m, self.config, first, "first_wrong")

    def _build_checks(self, m: Module) -> None:
        request = self.submission.request
        wrong = self._first_wrong
        is_wrong = settled(m, self.config, wrong != FaultCode.NONE, "is_wrong")
        lacks = settled(m, self.config, request.max_new >= self.ring_room, "lacks")
        taken = settled(m, self.config, self.active.bit_select(request.sequence, 1), "taken")
        with m.State("IDLE"):
            m.d.sync += [self._tried.eq(0), self._next.eq(self._first), self.slot.position.eq(0)]
            with m.If(self.start):
                m.next = "WEIGH" if self.config.registered else "CHECK"
        if self.config.registered:
            # Time for what follows from the request.
            for state, following in (("WEIGH", "WEIGHED"), ("WEIGHED", "CHECK")):
                with paced(m, state, self._acts):
                    m.next = following
        with m.State("CHECK"):
            with m.If(is_wrong):
                self._refuse(m, wrong)
            with m.Elif(lacks):
                m.next = "WAIT"
            with m.Elif(request.flags.adopt):
                m.d.sync += self.sequence.eq(request.sequence)
                m.next = "POSITION"
                with m.If(taken):
                    self._refuse(m, FaultCode.REQUEST_SEQUENCE)
            with m.Else():
                m.next = "FIND"

    def _build_open(self, m: Module) -> None:
        sequence, tenant = self.sequence, self.submission.request.tenant
        sequences = self.config.sequences_max
        every = settled(m, self.config, self._tried == sequences, "every")
        is_free = settled(m, self.config, ~self.active.bit_select(self._next, 1), "is_free")
        with paced(m, "FIND", self._acts):
            with m.If(every):
                m.next = "WAIT"
                with m.If(~self._some_active):
                    self._refuse(m, FaultCode.KV_COMMAND, Status.SEQ_BUSY)
            with m.Else():
                m.d.sync += [
                    sequence.eq(self._next),
                    self._tried.eq(self._tried + 1),
                    self._next.eq(Mux(self._next == sequences - 1, 0, self._next + 1)),
                ]
                with m.If(is_free):
                    m.next = "OPEN"
        with kv_call(m, self.kv, "OPEN", Opcode.OPEN, sequence, tenant) as answer:
            with m.If(self._found[Status.OK]):
                m.next = "ALLOCATE"
            with m.Elif(self._found[Status.SEQ_BUSY]):
                m.next = "FIND"
            with m.Else():
                self._refuse(m, FaultCode.KV_COMMAND, answer.status)
        with kv_call(m, self.kv, "ALLOCATE", Opcode.ALLOC, sequence, tenant, self._total) as answer:
            with m.If(self._found[Status.OK]):
                m.d.sync += self._first.eq(self._next)
                m.next = "ADMITTED"
            with m.Else():
                self._judge(m, answer.status, "CLOSE", "CLOSE_TO_WAIT")
        for state, following in (("CLOSE", "REFUSED"), ("CLOSE_TO_WAIT", "WAIT")):
            with kv_call(m, self.kv, state, Opcode.FREE, sequence, tenant):
                m.next = following

    def _judge(self, m: Module, status: Value, refused: str, wait: str) -> None:
        """A command was not executed: what it means for the request."""
        found = self._found
        with m.If(found[Status.NO_SPACE] & self._some_active):
            m.next = wait
        with m.Elif(found[Status.NO_SPACE] | found[Status.NEVER_FITS]):
            self._refuse(m, FaultCode.REQUEST_SPACE, status, refused)
        with m.Else():
            self._refuse(m, FaultCode.KV_COMMAND, status, refused)

    def _build_adopt(self, m: Module) -> None:
        request, position = self.submission.request, self.slot.position
        kv, sequence, tenant = self.kv, self.sequence, request.tenant
        aux = kv.responses.payload.aux
        moved = settled(m, self.config, aux != position, "moved")
        long = settled(m, self.config, aux >= request.prompt_tokens, "long")
        # To append nothing tells the position, and whether the sequence is open and the tenant's.
        with kv_call(m, kv, "POSITION", Opcode.APPEND, sequence, tenant) as answer:
            m.d.sync += position.eq(answer.aux)
            m.next = "LENGTH"
            with m.If(~self._found[Status.OK]):
                self._refuse(m, FaultCode.KV_COMMAND, answer.status)
        with kv_call(m, kv, "LENGTH", Opcode.STAT, sequence, tenant, Stat.SEQUENCE_LENGTH) as answer:
            m.next = "TAKE"
            with m.If(~self._found[Status.OK]):
                self._refuse(m, FaultCode.KV_COMMAND, answer.status)
            with m.Elif(moved | long):
                self._refuse(m, FaultCode.REQUEST_SEQUENCE)
        rest = settled(m, self.config, self._total - position, "rest")
        with kv_call(m, kv, "TAKE", Opcode.APPEND, sequence, tenant, rest) as answer:
            with m.If(~self._found[Status.OK]):
                self._judge(m, answer.status, "REFUSED", "WAIT")
            with m.Elif(moved):
                self._refuse(m, FaultCode.REQUEST_CHANGED, following="DROP")
            with m.Else():
                m.next = "TAKEN"
        with kv_call(m, kv, "TAKEN", Opcode.ABORT, sequence, tenant):
            m.next = "ADMITTED"
        with kv_call(m, kv, "DROP", Opcode.ABORT, sequence, tenant):
            m.next = "REFUSED"
