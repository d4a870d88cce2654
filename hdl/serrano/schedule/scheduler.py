# SPDX-License-Identifier: Apache-2.0
"""Serving many requests at a time: continuous batching without the host."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.bus import ReadPort
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Status
from serrano.kvcache.payloads import KVPort, sequence_bits
from serrano.primitives.memory import OnChipMemory
from serrano.schedule.admission import Admission
from serrano.schedule.calls import judged, kv_call, share_kv
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.embed import EmbedCommand
from serrano.schedule.formation import Formation
from serrano.schedule.rings import NO_SEQUENCE, Completion, Submission
from serrano.schedule.slots import CancelSearch, Served, Slot, one_of
from serrano.schedule.spans import Span, StepCommand
from serrano.stream import HalfRegister, StreamFIFO, StreamRegister
from serrano.stream.pace import paced, settled, take_turns
from serrano.stream.slices import slice_before, sliced

__all__ = ["Scheduler"]


class Scheduler(wiring.Component):
    """Takes requests in the order of submission and serves up to ``sequences_max`` of them at a time.

    Between two steps requests end that were cancelled or have failed, others are admitted
    (:class:`~serrano.schedule.admission.Admission`), and the next step is formed
    (:class:`~serrano.schedule.formation.Formation`). When it has been executed, every sequence of it is
    committed, and its sampled token given to the host in a completion record. A request ends with its
    end-of-sequence token, or when it has as many tokens as it wanted; its sequence is then freed, or, if it
    keeps it, trimmed to its committed tokens.

    A step that fails is dropped: all its reservations are released. It is formed anew, without new requests,
    if ``retry`` is set with ``failed`` and it has not failed before. If the fault is ``own``, the request of
    ``fault_sequence`` ends with the fault's code and the others go on; otherwise all of the step end.

    Sequences are ``locked`` from the answer to a step's APPEND to that of its COMMIT or ABORT: whoever else
    has a command for them gets in between two steps. If the accelerator is ``registered``, ``locked`` follows
    up to six cycles after the answer was offered, the outcome of a step is taken two cycles later, and spans
    and steps are given a cycle later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    pause : ``In(1)``
        Take no request.
    requests : ``In(stream.Signature(Submission))``
        Requests.
    waiting, reading : ``In(1)``
        There are requests to be taken; one has been asked for.
    taking : ``Out(1)``
        Requests may be looked for: no step is running.
    cancel_write, cancel_number, cancel_busy : ``In(1)``, ``In(32)``, ``Out(1)``
        The host cancels a request: :class:`~serrano.schedule.slots.CancelSearch`.
    ring_free, ring_size : ``In(32)``
        Free records and size of the completion ring.
    completions : ``Out(stream.Signature(Completion))``
        Completion records.
    memory : ``Out(ReadPort(config))``
        Port to memory, for prompts.
    kv : ``Out(KVPort())``
        Commands to the KV controller.
    span : ``Out(stream.Signature(Span(config)))``
        The sequences of the next step.
    step : ``Out(stream.Signature(StepCommand(config)))``
        Steps to be executed.
    embed : ``Out(stream.Signature(EmbedCommand(config)))``
        Rows of the step.
    tokens : ``In(stream.Signature({"row", "token"}))``
        Sampled tokens, by the place of their row among those that are sampled.
    done : ``In(1)``
        The step has been executed, all its packets were right and all its writes are acknowledged.
    failed, retry, code : ``In(1)``, ``In(1)``, ``In(FaultCode)``
        The step was given up, whether it may be tried again, and why.
    own, fault_sequence : ``In(1)``, ``In(range)``
        Whether that concerns one sequence alone, and which.
    busy : ``Out(1)``
        A request is being served.
    running : ``Out(1)``
        Steps are running: from the begin of the first one until no request is served.
    begin : ``Out(1)``
        A step begins.
    committed : ``Out(1)``
        A step has been committed.
    sequence : ``Out(range)``
        The first sequence of the step.
    locked : ``Out(config.sequences_max)``
        The sequences of the running step, one bit for each.
    number : ``Out(32)``
        With ``span``: the request's number.
    admitted, ended : ``Out(Served(config))``
        A request got its sequence; one has ended.
    refused : ``Out({"valid", "code", "detail"})``
        A request is refused or fails between steps: code, and status of the KV controller if that is why.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        token = data.StructLayout({"row": ceil_log2(config.rows_max), "token": 32})
        super().__init__(
            {
                "model": In(ModelInfo),
                "pause": In(1),
                "requests": In(stream.Signature(Submission)),
                "waiting": In(1),
                "reading": In(1),
                "taking": Out(1),
                "cancel_write": In(1),
                "cancel_number": In(32),
                "cancel_busy": Out(1),
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
                "own": In(1),
                "fault_sequence": In(sequence_bits(config)),
                "busy": Out(1),
                "running": Out(1),
                "begin": Out(1),
                "committed": Out(1),
                "sequence": Out(sequence_bits(config)),
                "locked": Out(config.sequences_max),
                "number": Out(32),
                "admitted": Out(Served(config)),
                "ended": Out(Served(config)),
                "refused": Out(data.StructLayout({"valid": 1, "code": FaultCode, "detail": 8})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.admission = self._admission = Admission(config)
        m.submodules.formation = self._formation = Formation(config)
        m.submodules.search = self._search = CancelSearch(config)
        # Sequences with a request; of one row per step; to be ended for a reason; cancelled.
        self._active, self._decoding = Signal(config.sequences_max), Signal(config.sequences_max)
        self._failing, self._cancels = Signal(config.sequences_max), Signal(config.sequences_max)
        # The request that has been taken and not been decided on; it has to wait until something ends.
        self._held, self._taken, self._blocked = Signal(Submission), Signal(), Signal()
        self._cancelled, self._retried, self._may_admit = Signal(), Signal(), Signal()
        # An admission is under way; what is known of a request after a step.
        self._admits, self._after = Signal(), Signal(Slot(config))
        # What the record in hand says: the request ends, between two steps, and why. All of a step fail.
        self._ends, self._alone, self._status = Signal(), Signal(), Signal(FaultCode)
        self._all_fail = Signal()
        # Their slots are reserved since an earlier cycle.
        self._locked = Signal(config.sequences_max)
        # The span or row in hand, and the sequence in hand.
        self._index = Signal.like(self._formation.spans)
        following = self._index + 1
        self._is_last_span = settled(m, config, following == self._formation.spans, "is_last_span")
        self._is_last_row = settled(m, config, following == self._formation.step.rows, "is_last_row")
        self._sequence = Signal(sequence_bits(config))
        self._kv = KVPort().create(path=("own_kv",))
        share_kv(m, config, self.kv, [self._admission.kv, self._formation.kv, self._kv])
        self._build_outcome(m)
        self._build_memories(m)
        self._build_after(m)
        self._build_records(m)
        self._fill_record(m)
        self._build_requests(m)
        self._build_formation(m)
        to_end = self._failing | self._cancels
        self._ending = one_of(m, config, to_end, Const(0), "ending")
        some_end = settled(m, config, to_end.any(), "some_end")
        self._some_end = settled(m, config, some_end, "some_end_settled")
        self._some_active = settled(m, config, self._active.any(), "some_active")
        self._acts = take_turns(m, config)
        with m.FSM(name="scheduler") as fsm:
            self._build_gap(m)
            self._build_admission(m)
            self._build_ending(m)
            self._build_step(m)
            self._build_commit(m)
            self._build_drop(m)
        self._apply_events(m)
        m.d.comb += [
            self.begin.eq(self.step.valid & self.step.ready),
            self._admits.eq(fsm.ongoing("ADMIT")),
            self.embed.payload.eq(self._rows.r_data),
            self.tokens.ready.eq(settled(m, config, fsm.ongoing("EXECUTE"), "executing")),
        ]
        between = fsm.ongoing("GAP")
        if config.registered:
            between |= fsm.ongoing("CHOOSE")
        may_take = ~self._taken & ~self._search.busy & ~self._retried & ~self.pause
        m.d.comb += [
            self.busy.eq(~between | self._active.any() | self._taken | self.reading | self._recorded),
            self.taking.eq(fsm.ongoing("GAP") & settled(m, config, may_take, "may_take")),
            # Not to be found while it is in nobody's hands.
            self._search.pause.eq(self.reading | fsm.ongoing("ADMIT") | fsm.ongoing("REFUSE")),
        ]
        return m

    def _build_outcome(self, m: Module) -> None:
        """How the step ended, a cycle later with registers; and what is told, and kept, of requests."""
        config = self.config
        outcome = Signal(
            data.StructLayout(
                {
                    "done": 1,
                    "failed": 1,
                    "retry": 1,
                    "code": FaultCode,
                    "own": 1,
                    "fault_sequence": sequence_bits(config),
                }
            )
        )
        for name in ("done", "failed", "retry", "code", "own", "fault_sequence"):
            m.d.comb += outcome[name].eq(getattr(self, name))
        early = settled(m, config, outcome, "outcome_early")
        self._outcome = settled(m, config, early, "outcome_before")
        # A request is to end for a reason.
        given = data.StructLayout({"valid": 1, "sequence": sequence_bits(config), "code": FaultCode})
        self._given = Signal(given)
        # A sequence's request has begun, its slots are reserved, or released, or it has ended.
        event = data.StructLayout({"valid": 1, "sequence": sequence_bits(config)})
        self._events = {name: Signal(event, name=name) for name in ("begins", "locks", "unlocks", "ends")}
        self._begins_decoding = Signal()
        self._told = Signal.like(self.refused, name="told")
        m.d.comb += self.refused.eq(settled(m, config, self._told, "told_before"))

    def _apply_events(self, m: Module) -> None:
        """What events, a cycle later with registers, do to the bits of their sequences."""
        config = self.config
        late = {name: settled(m, config, event, f"{name}_before") for name, event in self._events.items()}
        decoding = settled(m, config, self._begins_decoding, "begins_decoding_before")
        for name, bits, value in (
            ("begins", (self._active,), 1),
            ("begins", (self._decoding,), decoding),
            ("unlocks", (self._locked,), 0),
            ("locks", (self._locked,), 1),
            ("ends", (self._active, self._decoding, self._failing, self._cancels, self._locked), 0),
        ):
            with m.If(late[name].valid):
                for of_sequences in bits:
                    m.d.sync += of_sequences.bit_select(late[name].sequence, 1).eq(value)

    def _happens(self, m: Module, name: str, sequence: Value) -> None:
        m.d.comb += [self._events[name].valid.eq(1), self._events[name].sequence.eq(sequence)]

    def _build_memories(self, m: Module) -> None:
        config = self.config
        sequences, rows = max(2, config.sequences_max), max(2, config.rows_max)
        m.submodules.slots = self._slots = OnChipMemory(Slot(config), sequences, transparent=False)
        m.submodules.reasons = self._reasons = OnChipMemory(FaultCode, sequences, transparent=False)
        m.submodules.span_memory = self._spans = OnChipMemory(Span(config), rows, transparent=False)
        m.submodules.rows = self._rows = OnChipMemory(EmbedCommand(config), rows, transparent=False)
        m.submodules.sampled = self._sampled = OnChipMemory(32, rows, transparent=False)
        self._forming = Signal()
        update = data.StructLayout({"valid": 1, "sequence": sequence_bits(config), "slot": Slot(config)})
        self._change = Signal(update)
        # Whether admission or what follows from a step says what is changed has been known for a cycle.
        admission = Value.cast(self._admission.slot)
        admits = settled(m, config, self._admits, "admits_before")
        m.d.comb += [
            self._change.sequence.eq(self._sequence),
            Value.cast(self._change.slot).eq(Mux(admits, admission, Value.cast(self._after))),
        ]
        self._update = settled(m, config, self._change, "update")
        given = settled(m, config, self._given, "given_before")
        known = self._failing.bit_select(given.sequence, 1)
        with m.If(given.valid):
            m.d.sync += known.eq(1)
        formation, slots = self._formation, self._slots
        forming = settled(m, config, self._forming, "forming_before")
        told = Signal(data.StructLayout({"valid": 1, "row": EmbedCommand(config)}))
        m.d.comb += [told.valid.eq(formation.row_en), told.row.eq(formation.row)]
        told = settled(m, config, told, "told_row")
        # What is in hand is read in every cycle. The spans that are sampled come first: one token of each.
        m.d.comb += [
            slots.r_en.eq(1),
            slots.r_addr.eq(Mux(forming, formation.slot_sequence, self._sequence)),
            slots.w_en.eq(self._update.valid),
            slots.w_addr.eq(self._update.sequence),
            slots.w_data.eq(self._update.slot),
            formation.slot.eq(slots.r_data),
            self._reasons.w_en.eq(given.valid & ~known),
            self._reasons.w_addr.eq(given.sequence),
            self._reasons.w_data.eq(given.code),
            self._reasons.r_en.eq(1),
            self._reasons.r_addr.eq(self._sequence),
            self._spans.r_en.eq(1),
            self._spans.r_addr.eq(self._index),
            self._spans.w_en.eq(formation.span.valid & formation.span.ready),
            self._spans.w_addr.eq(formation.spans),
            self._spans.w_data.eq(formation.span.payload),
            self._rows.r_en.eq(1),
            self._rows.r_addr.eq(self._index),
            self._rows.w_en.eq(told.valid),
            self._rows.w_addr.eq(told.row.row),
            self._rows.w_data.eq(told.row),
            self._sampled.r_en.eq(1),
            self._sampled.r_addr.eq(self._index),
            self._sampled.w_en.eq(self.tokens.valid & self.tokens.ready),
            self._sampled.w_addr.eq(self.tokens.payload.row),
            self._sampled.w_data.eq(self.tokens.payload.token),
        ]

    def _give_reason(self, m: Module, sequence: Value, code: Any) -> None:
        """The request of a sequence is to end for this reason, unless it has one already."""
        m.d.comb += [
            self._given.valid.eq(1),
            self._given.sequence.eq(sequence),
            self._given.code.eq(code),
        ]

    def _build_records(self, m: Module) -> None:
        """Completion records wait here while the next step runs already; ``claimed`` are promised."""
        # The record in hand is that of a request which has been refused.
        self._refusing = Signal()
        m.submodules.records = records = StreamFIFO(
            Completion, 2 * self.config.rows_max, paused=self.config.registered
        )
        given = sliced(m, "given_record", records.o, registered=self.config.registered, kind=HalfRegister)
        wiring.connect(m, given, wiring.flipped(self.completions))
        self._record, self._recorded = records.i, self.completions.valid
        if self.config.registered:
            m.submodules.record = behind = StreamRegister(Completion)
            wiring.connect(m, behind.o, records.i)
            self._record = behind.i
            self._recorded = records.i.valid | records.o.valid | self.completions.valid
        self._claimed, self._claims = Signal(32), Signal(32)
        written = self.completions.valid & self.completions.ready
        change = settled(m, self.config, self._claims, "change")
        m.d.sync += self._claimed.eq(self._claimed + change - written)
        self._room = Signal(32)
        m.d.comb += self._room.eq(settled(m, self.config, (self.ring_free - self._claimed)[:32], "room"))

    def _fill_record(self, m: Module) -> None:
        """What a record says, whenever it is given: of a request that ends or goes on, or is refused."""
        slot, held, content = self._slots.r_data, self._held, self._record.payload
        good = self._status == FaultCode.NONE
        self._releases = settled(m, self.config, -(slot.remaining + good), "releases")
        m.d.comb += [
            content.id.eq(slot.id),
            content.token.eq(Mux(good, slot.token, 0)),
            content.status.eq(self._status),
            content.has_token.eq(good),
            content.ended.eq(self._ends),
            content.sequence.eq(self._sequence),
        ]
        with m.If(self._refusing):
            m.d.comb += [
                content.id.eq(held.request.id),
                content.token.eq(0),
                content.status.eq(self._admission.code),
                content.has_token.eq(0),
                content.ended.eq(1),
                content.sequence.eq(NO_SEQUENCE),
            ]

    def _build_requests(self, m: Module) -> None:
        admission, search = self._admission, self._search
        m.d.comb += [
            admission.model.eq(self.model),
            admission.submission.eq(self._held),
            admission.cancelled.eq(self._cancelled),
            admission.active.eq(self._active),
            admission.ring_size.eq(self.ring_size),
            admission.ring_room.eq(self._room),
            search.write.eq(self.cancel_write),
            search.number.eq(self.cancel_number),
            search.waiting.eq(self._taken),
            search.waiting_number.eq(self._held.number),
            search.active.eq(self._active),
            search.sequence.eq(admission.sequence),
            search.begin_number.eq(self._held.number),
            self.cancel_busy.eq(search.busy),
        ]
        may = self._taken & ~self._blocked & ~self._retried & (self._room != 0)
        m.d.comb += self._may_admit.eq(settled(m, self.config, may, "may_admit_before"))
        m.d.comb += [
            self.admitted.has_sequence.eq(1),
            self.admitted.sequence.eq(admission.sequence),
            self.admitted.number.eq(self._held.number),
        ]
        m.d.sync += self._cancels.eq(self._cancels | search.hits)
        with m.If(search.hit):
            m.d.sync += [self._cancelled.eq(1), self._blocked.eq(0)]

    def _build_after(self, m: Module) -> None:
        """What is known of the request in hand when the span in hand is committed."""
        slot, span = self._slots.r_data, self._spans.r_data
        token = settled(m, self.config, self._sampled.r_data, "token_read")
        after = self._after
        self._is_sampled, self._is_last = sampled, last = Signal(), Signal()
        position = settled(m, self.config, slot.position + span.rows, "position_after")
        is_last = (slot.remaining == 1) | (token == slot.eos)
        m.d.comb += [
            after.eq(slot),
            after.position.eq(position),
            sampled.eq(settled(m, self.config, position >= slot.prompt_tokens, "sampled_settled")),
            last.eq(settled(m, self.config, is_last, "last_settled")),
        ]
        remaining = settled(m, self.config, slot.remaining - 1, "remaining_after")
        with m.If(sampled):
            m.d.comb += [after.token.eq(token), after.remaining.eq(remaining)]
        self._decodes = settled(m, self.config, after.decoding, "decodes")

    def _build_formation(self, m: Module) -> None:
        formation, config = self._formation, self.config
        self._given_step, span = (
            slice_before(m, f"{name}_slice", target, registered=config.registered, kind=HalfRegister)
            for name, target in (("step", wiring.flipped(self.step)), ("span", wiring.flipped(self.span)))
        )
        wiring.connect(m, formation.memory, wiring.flipped(self.memory))
        m.d.comb += [
            formation.vocab.eq(self.model.vocab),
            formation.decoding.eq(self._active & self._decoding & ~self._failing),
            formation.prompting.eq(self._active & ~self._decoding & ~self._failing),
            span.valid.eq(formation.span.valid),
            span.payload.eq(formation.span.payload),
            formation.span.ready.eq(span.ready),
            self.number.eq(formation.number),
            self._given_step.payload.eq(formation.step),
        ]
        # Without registers they are locked in the very cycle of the answer.
        now = Signal(config.sequences_max)
        with m.If(formation.reserved):
            self._happens(m, "locks", formation.slot_sequence)
            if not config.registered:
                m.d.comb += now.bit_select(formation.slot_sequence, 1).eq(1)
        m.d.comb += self.locked.eq(self._locked | now)
        with m.If(span.valid & span.ready & (formation.spans == 0)):
            m.d.sync += self.sequence.eq(span.payload.sequence)
        failed = formation.failed
        with m.If(failed.valid):
            self._give_reason(m, failed.sequence, failed.code)
            self._tell(m, failed.code, formation.detail)

    def _tell(self, m: Module, code: Any, detail: Any) -> None:
        """Reports what is wrong with a request, to the fault registers; they know of errors of the memory."""
        m.d.comb += [
            self._told.valid.eq(code != FaultCode.BUS_SLVERR),
            self._told.code.eq(code),
            self._told.detail.eq(detail),
        ]

    def _build_gap(self, m: Module) -> None:
        search, held = self._search, self._held
        with paced(m, "GAP", self._acts):
            m.d.sync += [self._sequence.eq(self._ending), self._index.eq(0)]
            with m.If(self.requests.valid & ~self._taken):
                m.d.comb += self.requests.ready.eq(1)
                m.d.sync += [held.eq(self.requests.payload), self._taken.eq(1), self._cancelled.eq(0)]
            with m.Elif(self.reading | search.busy):
                pass
            with m.Elif(~self._some_end & self.waiting & self.taking):
                pass
            with m.Else():
                if self.config.registered:
                    m.next = "CHOOSE"
                else:
                    self._choose(m)
        if self.config.registered:
            # No request is looked for any more; what has changed before has settled.
            with paced(m, "CHOOSE", self._acts):
                m.d.sync += self._sequence.eq(self._ending)
                m.next = "GAP"
                self._choose(m)
        with m.State("FORM"):
            m.d.comb += self._forming.eq(1)
            with m.If(self._formation.done):
                m.next = "GAP"
                with m.If(self._formation.step.rows != 0):
                    m.next = "STEP"

    def _choose(self, m: Module) -> None:
        """What comes next: an end, an admission, a step."""
        with m.If(self._some_end):
            m.next = "ENDING"
        with m.Elif(self._may_admit):
            m.d.comb += self._admission.start.eq(1)
            m.next = "ADMIT"
        with m.Elif(self._some_active):
            m.d.sync += self._blocked.eq(0)
            m.d.comb += self._formation.start.eq(1)
            m.next = "FORM"
        with m.Else():
            m.d.sync += [self.running.eq(0), self._blocked.eq(0), self._retried.eq(0)]

    def _build_admission(self, m: Module) -> None:
        admission, held, record = self._admission, self._held, self._record
        claim = settled(m, self.config, held.request.max_new + 1, "claim")
        with m.State("ADMIT"):
            m.d.sync += self._sequence.eq(admission.sequence)
            with m.If(admission.done):
                m.next = "GAP"
                with m.If(admission.admitted):
                    m.d.comb += [
                        self._change.valid.eq(1),
                        self._claims.eq(claim),
                        self._search.begin.eq(1),
                        self.admitted.valid.eq(1),
                    ]
                    m.d.sync += [
                        self._taken.eq(0),
                    ]
                    m.d.comb += self._begins_decoding.eq(admission.slot.decoding)
                    self._happens(m, "begins", admission.sequence)
                with m.Elif(admission.wait):
                    m.d.sync += self._blocked.eq(1)
                with m.Else():
                    self._tell(m, admission.code, admission.detail)
                    m.d.sync += self._refusing.eq(1)
                    m.next = "REFUSE"
        with m.State("REFUSE"):
            m.d.comb += [
                record.valid.eq(1),
                self.ended.number.eq(held.number),
                self.ended.code.eq(admission.code),
            ]
            with m.If(record.ready):
                m.d.comb += [self._claims.eq(1), self.ended.valid.eq(1)]
                m.d.sync += [self._taken.eq(0), self._refusing.eq(0)]
                m.next = "GAP"

    def _build_ending(self, m: Module) -> None:
        """A request ends: because its last token is there, or for a reason; then its last record."""
        slot, record, sequence = self._slots.r_data, self._record, self._sequence
        failing = self._failing.bit_select(sequence, 1)
        with m.State("ENDING"):
            m.d.sync += [self._ends.eq(1), self._alone.eq(1)]
            m.next = "REASON"
        with m.State("REASON"):
            m.d.sync += self._status.eq(Mux(failing, self._reasons.r_data, FaultCode.REQUEST_CANCELLED))
            m.next = "CLOSE"
        # Each of them drops a reservation. What is given back is given back whatever the answer.
        closing = Mux(slot.keep, Opcode.TRIM, Opcode.FREE)
        with kv_call(m, self._kv, "CLOSE", closing, sequence, slot.tenant, slot.position):
            m.next = "RECORD"
        with m.State("RECORD"):
            m.d.comb += [
                record.valid.eq(1),
                self.ended.has_sequence.eq(1),
                self.ended.sequence.eq(sequence),
                self.ended.number.eq(slot.number),
                self.ended.code.eq(self._status),
            ]
            with m.If(record.ready):
                m.next = "GAP"
                with m.If(~self._alone):
                    m.next = "NEXT"
                with m.If(self._ends):
                    m.d.comb += [self.ended.valid.eq(1), self._claims.eq(self._releases)]
                    self._happens(m, "ends", sequence)

    def _build_step(self, m: Module) -> None:
        step = self._given_step
        with m.State("STEP"):
            m.d.comb += step.valid.eq(1)
            with m.If(step.ready):
                m.d.sync += self.running.eq(1)
                m.next = "ROW_READ"
        with m.State("ROW_READ"):
            m.next = "ROW"
            self._watch_step(m)
        with m.State("ROW"):
            m.d.comb += self.embed.valid.eq(1)
            with m.If(self.embed.ready):
                m.d.sync += self._index.eq(self._index + 1)
                m.next = "ROW_READ"
                with m.If(self._is_last_row):
                    m.next = "EXECUTE"
            self._watch_step(m)
        with m.State("EXECUTE"):
            m.d.sync += self._index.eq(0)
            with m.If(self._outcome.done):
                m.d.comb += [self.committed.eq(1), self._formation.commit.eq(1)]
                m.d.sync += self._retried.eq(0)
                m.next = "SPAN"
            self._watch_step(m)

    def _watch_step(self, m: Module) -> None:
        """In the present state the step may be given up."""
        outcome = self._outcome
        with m.If(outcome.failed):
            m.d.sync += [self._index.eq(0), self._status.eq(outcome.code), self._all_fail.eq(0)]
            m.next = "DROP"
            with m.If(outcome.retry & ~self._retried):
                m.d.sync += self._retried.eq(1)
            with m.Elif(outcome.own):
                self._give_reason(m, outcome.fault_sequence, outcome.code)
            with m.Else():
                m.d.sync += [self._all_fail.eq(1), self._retried.eq(0)]

    def _build_commit(self, m: Module) -> None:
        slot, span, sequence = self._slots.r_data, self._spans.r_data, self._sequence
        sampled, last = self._is_sampled, self._is_last
        found = judged(m, self.config, self._kv, Status.OK)
        # The span in hand, its slot and its token come one after another.
        with m.State("SPAN"):
            m.next = "SPAN_SLOT"
        with m.State("SPAN_SLOT"):
            m.d.sync += sequence.eq(span.sequence)
            m.next = "SPAN_TOKEN"
        with m.State("SPAN_TOKEN"):
            m.next = "COMMIT"
        with kv_call(m, self._kv, "COMMIT", Opcode.COMMIT, sequence, slot.tenant, span.rows) as answer:
            self._happens(m, "unlocks", sequence)
            m.next = "UPDATE"
            with m.If(~found[Status.OK]):
                self._tell(m, FaultCode.KV_COMMAND, answer.status)
                self._give_reason(m, sequence, FaultCode.KV_COMMAND)
                m.next = "NEXT"
        with m.State("UPDATE"):
            m.d.comb += self._change.valid.eq(1)
            m.d.sync += [self._ends.eq(last), self._alone.eq(0), self._status.eq(FaultCode.NONE)]
            m.next = "NEXT"
            with m.If(self._decodes):
                m.d.sync += self._decoding.bit_select(sequence, 1).eq(1)
            with m.If(sampled):
                m.next = "WRITTEN" if self.config.registered else "UPDATED"
        if self.config.registered:
            with m.State("WRITTEN"):
                m.next = "UPDATED"
        with m.State("UPDATED"):
            m.next = "RECORD"
            with m.If(self._ends):
                m.next = "CLOSE"
        with m.State("NEXT"):
            m.d.sync += self._index.eq(self._index + 1)
            m.next = "SPAN"
            with m.If(self._is_last_span):
                m.next = "GAP"

    def _build_drop(self, m: Module) -> None:
        span, slot, sequence = self._spans.r_data, self._slots.r_data, self._sequence
        with m.State("DROP"):
            m.next = "DROP_SLOT"
        with m.State("DROP_SLOT"):
            m.d.sync += sequence.eq(span.sequence)
            with m.If(self._all_fail):
                self._give_reason(m, span.sequence, self._status)
            m.next = "DROP_TENANT"
        with m.State("DROP_TENANT"):
            m.next = "RELEASE"
        with kv_call(m, self._kv, "RELEASE", Opcode.ABORT, sequence, slot.tenant):
            self._happens(m, "unlocks", sequence)
            m.d.sync += self._index.eq(self._index + 1)
            m.next = "DROP"
            with m.If(self._is_last_span):
                m.next = "GAP"
