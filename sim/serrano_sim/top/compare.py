# SPDX-License-Identifier: Apache-2.0
"""A run against the golden model: every traced tensor, every token, every committed byte of KV memory."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from serrano.faults import FaultCode

from ..golden.block_manager import Kind as MoveKind
from ..golden.block_manager import Move, Status
from ..golden.decoder import Decoder
from ..golden.kvcache import BLOCK_SIZE, run_offsets
from ..golden.model import Model
from ..golden.sample import greedy
from ..golden.tape import NO_LAYER, Opcode, head_pad, round_up
from .figures import check_counters
from .job import KVCommand, Phase, PhaseResult
from .layout import Completion, Request, kv_noise
from .mirror import Admission, Mirror, command_text, status_text
from .schedule import Schedule
from .simulate import JobResult
from .trace import SAMPLED, Admit, End, Event, Kind, Step

__all__ = [
    "Agreement",
    "Difference",
    "Progress",
    "Result",
    "Verdict",
    "agree",
    "check",
    "compare_step",
    "keep_result",
]

Progress = Callable[[int, int], None]

# Refused after commands to the KV controller, whose answers say so.
FROM_KV = (FaultCode.REQUEST_SPACE.value, FaultCode.KV_COMMAND.value)
KINDS = {
    Opcode.EMBED: Kind.RESIDUAL,
    Opcode.NORM: Kind.CODES,
    Opcode.QKV: Kind.HEADS,
    Opcode.ATTEND: Kind.CODES,
    Opcode.GATE_UP: Kind.CODES,
    Opcode.SAMPLE: Kind.TOKEN,
}


@dataclass(frozen=True)
class Result:
    """A packet's result in the golden model, [rows, ...]."""

    packet: int
    opcode: Opcode
    layer: int
    values: NDArray

    @property
    def name(self) -> str:
        """Opcode and layer for people."""
        return self.opcode.name if self.layer == NO_LAYER else f"{self.opcode.name} of layer {self.layer}"


@dataclass(frozen=True)
class Difference:
    """The first place where hardware and golden model differ.

    ``row`` is that of the step, ``request`` and ``position`` whose row it is and which of its tokens.
    ``element`` counts as in the golden model's result, without padding; ``what`` says which it is. A value
    that is ``None`` is missing.
    """

    step: int
    request: int
    position: int
    packet: int
    name: str
    row: int
    element: int
    what: str
    expected: int | None
    found: int | None

    def __str__(self):
        def value(number: int | None) -> str:
            return "nothing" if number is None else str(number)

        place = (
            f"step {self.step} (request {self.request}, position {self.position}),"
            f" packet {self.packet} ({self.name})"
        )
        if self.expected is None and self.found is None:
            return f"{place}: {self.what}"
        values = f"expected {value(self.expected)}, found {value(self.found)}"
        return f"{place}, row {self.row}, {self.what}: {values}"


@dataclass
class Verdict:
    """What a comparison found.

    Parameters
    ----------
    difference : :class:`Difference` or ``None``
        The first element that differs; nothing behind it was compared.
    problems : list of :class:`str`
        Whatever else differs: tokens, bytes of KV memory, the order of results.
    violations : list of :class:`str`
        What is wrong apart from results: registers touched while the accelerator works, the interrupt, the
        counters.
    faults : list of :class:`str`
        Faults that the accelerator reported, for whoever did not provoke them to fill in.
    tokens : list of list of :class:`int`
        The golden model's tokens of each request, as far as the hardware committed steps.
    steps : list of list of :class:`~serrano_sim.top.trace.Step`
        Committed steps with rows of each request.
    admissions : list of :class:`~serrano_sim.top.mirror.Admission` or ``None``
        What each request began with.
    elements_compared, logits_compared, kv_bytes_compared, answers_compared : :class:`int`
        How much was compared; logits are among the elements. Answers are those to the host's KV commands.
    """

    difference: Difference | None = None
    problems: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    steps: list[list[Step]] = field(default_factory=list)
    admissions: list[Admission | None] = field(default_factory=list)
    elements_compared: int = 0
    logits_compared: int = 0
    kv_bytes_compared: int = 0
    answers_compared: int = 0

    @property
    def bit_exact(self) -> bool:
        """Whether all is equal, and something was compared."""
        return not self.difference and not self.problems and self.logits_compared > 0

    def parts(self, request: int) -> list[Step]:
        """The steps of a request with its rows alone."""
        return [step.part(request) for step in self.steps[request]]

    @property
    def errors(self) -> list[str]:
        """All that is wrong, one line each."""
        difference = [str(self.difference)] if self.difference else []
        return [*self.faults, *difference, *self.problems, *self.violations]


class _Shapes:
    """Where the elements of golden results are in the trace."""

    def __init__(self, model: Model, n: int):
        self.model, self.n = model, n
        self.pad = head_pad(model.head_dim, n)

    def kind(self, result: Result) -> Kind:
        if result.opcode is Opcode.MATMUL:
            return Kind.LOGITS if result.layer == NO_LAYER else Kind.RESIDUAL
        return KINDS[result.opcode]

    def columns(self, result: Result, width: int) -> NDArray[np.int64]:
        """The column of each element."""
        elements = np.arange(width)
        if result.opcode in (Opcode.QKV, Opcode.ATTEND):
            return elements // self.model.head_dim * self.pad + elements % self.model.head_dim
        return elements

    def element(self, result: Result, element: int) -> str:
        """An element for people."""
        head, channel = divmod(element, self.model.head_dim)
        if result.opcode is Opcode.ATTEND:
            return f"element {element} (head {head}, channel {channel})"
        if result.opcode is Opcode.QKV:
            kv = self.model.kv_heads
            kind, head = ("q", head - 2 * kv) if head >= 2 * kv else ("kv"[head // kv], head % kv)
            return f"element {element} ({kind} head {head}, channel {channel})"
        return f"element {element}"


def _lanes(beats: NDArray) -> int:
    """Values of a result that a beat shows. It has room for two even with one lane: odd columns tell."""
    return 1 if (beats["column"] % 2).any() else beats["values"].shape[1]


def _assemble(beats: NDArray, rows: int, width: int) -> tuple[NDArray, NDArray]:
    """Values and how often each was shown, [rows, width]; beats beyond it are an error of the caller."""
    lanes = _lanes(beats)
    at = beats["column"].astype(np.int64)[:, None] + np.arange(lanes)
    row = np.broadcast_to(beats["row"].astype(np.int64)[:, None], at.shape)
    inside = (at < width) & (row < rows)
    values = np.zeros((rows, width), dtype=np.int64)
    count = np.zeros((rows, width), dtype=np.int64)
    values[row[inside], at[inside]] = beats["values"][:, :lanes][inside]
    np.add.at(count, (row[inside], at[inside]), 1)
    return values, count


class _StepCheck:
    """Compares the results of one step."""

    def __init__(self, step: Step, shapes: _Shapes):
        self.step, self.shapes = step, shapes
        self.elements = self.logits = 0

    def first_difference(self, results: Sequence[Result]) -> Difference | None:
        """The first difference from the golden model's results."""
        shown: dict[int, NDArray] = {}
        for packet, beats in self.step.packets():
            if shown and packet <= max(shown):
                return self._structure(packet, f"results after those of packet {max(shown)}")
            shown[packet] = beats
        for result in results:
            beats = shown.pop(result.packet, None)
            if shown and (early := min(shown)) < result.packet:
                return self._structure(early, "results of a packet that has none")
            if beats is None:
                beats = self.step.beats[:0]
            if difference := self._packet(result, beats):
                return difference
        return self._structure(min(shown), "results of a packet that has none") if shown else None

    def _structure(self, packet: int, what: str) -> Difference:
        span = self.step.spans[0]
        place = (self.step.index, span.number, span.position)
        return Difference(*place, packet, "order", 0, 0, what, None, None)

    def _differ(
        self, result: Result, row: int, element: int, what: str, expected: int | None, found: int | None
    ) -> Difference:
        step = self.step
        if self.shapes.kind(result) in SAMPLED:
            row = step.sampled_rows[row]
        span = next(span for span in step.spans if row < span.row + span.rows)
        place = (step.index, span.number, span.position + row - span.row)
        return Difference(*place, result.packet, result.name, row, element, what, expected, found)

    def _packet(self, result: Result, beats: NDArray) -> Difference | None:
        kind = self.shapes.kind(result)
        rows = self.step.sampled if kind in SAMPLED else self.step.rows
        strange = np.flatnonzero(beats["kind"] != kind)
        if len(strange):
            found = int(beats["kind"][strange[0]])
            return self._differ(result, 0, 0, f"kind of beat ({kind.name})", int(kind), found)
        if (beats["row"] >= rows).any():
            return self._differ(result, rows - 1, 0, "rows behind it", 0, int(beats["row"].max()) + 1 - rows)
        expected = np.asarray(result.values).reshape(rows, -1)
        columns = self.shapes.columns(result, expected.shape[1])
        width = round_up(int(columns[-1]) + 1, self.shapes.n)
        values, count = _assemble(beats, rows, width)
        wrong = (count[:, columns] != 1) | (values[:, columns] != expected)
        if wrong.any():
            row, element = (int(index) for index in np.argwhere(wrong)[0])
            times, column = int(count[row, columns[element]]), columns[element]
            what = self.shapes.element(result, element)
            if times > 1:
                what += f" (shown {times} times)"
            found = int(values[row, column]) if times else None
            return self._differ(result, row, element, what, int(expected[row, element]), found)
        if kind is Kind.CODES:
            values[:, columns] = 0
            if values.any():
                row, column = (int(index) for index in np.argwhere(values)[0])
                what = f"padding in column {column}"
                return self._differ(result, row, column, what, 0, int(values[row, column]))
        self.elements += expected.size
        self.logits += expected.size if kind is Kind.LOGITS else 0
        return None


def keep_result(results: list[Result], packet: int, opcode: Opcode, layer: int, values: NDArray) -> None:
    """Adds what a golden decoder tells of a packet to the results before it, as the trace shows it."""
    if opcode is Opcode.SAMPLE:
        # The trace shows the token with its logit.
        tokens, logits = np.asarray(values).reshape(-1), results[-1].values
        values = np.stack((tokens, logits[np.arange(len(tokens)), tokens]), axis=1)
    results.append(Result(packet, opcode, layer, np.array(values)))


def compare_step(
    step: Step, results: Sequence[Result], model: Model, n: int
) -> tuple[Difference | None, int]:
    """The first difference of a step from the golden model's results, and how many elements are equal."""
    check = _StepCheck(step, _Shapes(model, n))
    return check.first_difference(results), check.elements


@dataclass
class _Served:
    """A request, and what has become of it. ``fed`` are its prompt and the tokens made."""

    number: int
    request: Request
    fed: list[int]
    tokens: list[int]
    steps: list[Step]
    admission: Admission | None = None
    status: int | None = None
    """Why it has ended; ``None`` as long as it has not."""
    dropped: bool = False
    """Whether a step with rows of it was given up."""

    @property
    def running(self) -> bool:
        """Whether it has a sequence."""
        return self.admission is not None and self.status is None


class _Stop(Exception):
    """Nothing more can be compared; the verdict says why."""


class _Check:
    """The comparison of a whole run, event after event, with a mirror of the KV controller."""

    def __init__(self, result: JobResult, model: Model, progress: Progress):
        self.result, self.model, self.progress = result, model, progress
        self.done = self.total = 0
        self.layout = layout = result.job.layout
        config = result.job.config
        self.n = config.n
        self.shapes = _Shapes(model, self.n)
        self.golden: list[Result] = []
        self.decoder = Decoder(model, self.n, layout.kv_blocks, trace=self._keep)
        records = len(model.layers) * model.kv_heads
        self.mirror = Mirror(config, layout.kv_blocks, records, self._move)
        self.schedule = Schedule(config.rows_max, config.sequences_max, layout.complete_size)
        self.served: list[_Served] = []
        # Completion records that have come.
        self.records = 0
        # Bytes that some request has committed; zeros that a copy has left; blocks ever used.
        self.mask = np.zeros(self.decoder.kv.image.shape, dtype=bool)
        self.blank = np.zeros(self.decoder.kv.image.shape, dtype=bool)
        self.used = np.zeros(layout.kv_blocks, dtype=bool)
        # The memory refuses the move that comes next.
        self.refused = False
        self.verdict = Verdict()

    def _move(self, move: Move) -> bool:
        """The golden memory follows the controller's moves; what goes to the host's buffer it does not."""
        kv, block = self.decoder.kv, move.destination
        if move.kind is MoveKind.GATHER:
            return not self.refused
        self.used[block] = True
        self.blank[block] = not self.refused
        self.mask[block] = False
        if self.refused:
            return False
        if move.kind is MoveKind.COPY:
            kv.copy(move.source, block, move.high, move.low)
        else:
            kv.scrub(block)
        return True

    def _keep(self, packet: int, opcode: Opcode, layer: int, values: NDArray) -> None:
        keep_result(self.golden, packet, opcode, layer, values)

    def run(self) -> Verdict:
        verdict = self.verdict
        try:
            events = self.result.recording.events()
            self.total = sum(isinstance(event, Step) and event.committed for event in events)
            phases = zip(self.result.job.phases, self.result.phases, strict=True)
            for index, (phase, found) in enumerate(phases):
                own = [event for event in events if event.cycle <= found.end]
                events = events[len(own) :]
                self._serve(index, phase, found, own)
        except ValueError as error:
            verdict.problems.append(str(error))
            return verdict
        except _Stop:
            return verdict
        finally:
            verdict.violations += self.schedule.problems
        if events:
            verdict.problems.append(f"the trace has {len(events)} events behind the end of the last request")
        self._memory()
        return verdict

    def _stop(self, problem: str) -> NoReturn:
        self.verdict.problems.append(problem)
        raise _Stop

    def _serve(self, index: int, phase: Phase, found: PhaseResult, events: Sequence[Event]) -> None:
        """One phase."""
        verdict, first = self.verdict, len(self.served)
        if phase.load:
            self.mirror.load()
        self._answers(index, phase, found)
        for number, request in enumerate(phase.requests, first):
            served = _Served(number, request, list(request.prompt), [], [])
            self.served.append(served)
            verdict.steps.append(served.steps)
            verdict.tokens.append(served.tokens)
            verdict.admissions.append(None)
        steps = [event for event in events if isinstance(event, Step) and event.committed]
        verdict.violations += check_counters(steps)
        arrivals = list(zip(found.submitted, phase.requests, strict=True))
        self.schedule.consume()
        for place, event in enumerate(events):
            while arrivals and arrivals[0][0] <= event.cycle:
                self.schedule.submit([arrivals.pop(0)[1]])
            match event:
                case Admit():
                    self._admit(event)
                case End():
                    self.schedule.end(event, self.mirror.must_wait)
                    self._end(event)
                case Step():
                    later = itertools.islice(events, place + 1, None)
                    self.schedule.step(event, later, self.mirror.must_wait)
                    self._step(event)
        self.schedule.finish()
        for served in self.served[first:]:
            self._records(served, found.of(served.number))
        self._phase(index, phase, found)

    def _of(self, number: int, what: str) -> _Served:
        """The request of an event."""
        if number >= len(self.served) or self.served[number].status is not None:
            self._stop(f"{what}: there is no request {number} to be served")
        return self.served[number]

    def _admit(self, event: Admit) -> None:
        where = f"request {event.number}, admission"
        served = self._of(event.number, where)
        request = served.request
        if served.admission is not None:
            self._stop(f"{where}: it has been admitted already")
        if request.adopt and event.sequence != request.sequence:
            self._stop(f"{where}: sequence {event.sequence}, it adopts {request.sequence}")
        if any(one.running and one.admission.sequence == event.sequence for one in self.served):
            self._stop(f"{where}: another request is using sequence {event.sequence}")
        taken = set(self.mirror.manager.sequences)
        admission = self.mirror.admit(request, event.sequence)
        if not isinstance(admission, Admission):
            self._stop(f"{where}: with sequence {event.sequence} it must be refused with {admission.name}")
        self.schedule.admit(event, admission.length, taken)
        served.admission = self.verdict.admissions[event.number] = admission
        new = [block for block in admission.allocated if block not in admission.copied]
        self.mask[new] = self.blank[new] = False
        self.used[list(admission.allocated)] = True
        self.decoder.open(admission.sequence, admission.table, admission.length)

    def _end(self, event: End) -> None:
        where = f"request {event.number}, end"
        served = self._of(event.number, where)
        admission = served.admission
        has = None if admission is None else admission.sequence
        if event.sequence != has:
            self._stop(f"{where}: sequence {event.sequence}, it has {has}")
        served.status = event.status
        if admission is None:
            self._refused(served)
            return
        self.mask |= self.decoder.kv.written()
        if served.dropped:
            # A step that was given up may have written what was not committed.
            self.blank[list(admission.copied)] = False
        self.decoder.close(admission.sequence)
        self.mirror.end(served.request, admission.sequence)

    def _refused(self, served: _Served) -> None:
        """What the KV controller says is to be true; a copy that fails leaves its traces."""
        where = f"request {served.number}"
        if served.status == 0:
            self._stop(f"{where}: it has ended well without a sequence")
        if served.status not in FROM_KV:
            return
        self.refused = served.status == FaultCode.KV_COMMAND.value
        found = self.mirror.admit(served.request)
        self.refused = False
        if isinstance(found, Admission):
            self._stop(f"{where}: it was refused, and can be served")
        if found.value != served.status:
            told = fault_name(served.status)
            self._stop(f"{where}: it was refused with {told}, not with {found.name}")

    def _answers(self, index: int, phase: Phase, found: PhaseResult) -> None:
        """Answers to the host's KV commands; the first that is wrong is told, as others follow from it."""
        wrong = ""
        if len(found.answers) != len(phase.commands):
            wrong = f"{len(found.answers)} answers to {len(phase.commands)} KV commands"
        for place, (command, answer) in enumerate(zip(phase.commands, found.answers, strict=False)):
            text = self._answer(command, *answer)
            if text and not wrong:
                wrong = f"KV command {place}, {text}"
        if wrong:
            self.verdict.problems.append(f"phase {index}: {wrong}")

    def _answer(self, command: KVCommand, status: int, aux: int) -> str:
        """Carries a command out; what is wrong with its answer, if anything."""
        self.refused = status == Status.BUS_ERROR
        expected, value = self.mirror.command(command)
        self.refused = False
        self.verdict.answers_compared += 1
        if (status, aux) == (expected, value):
            return ""
        return (
            f"{command_text(command)}: expected {status_text(expected)} {value},"
            f" found {status_text(status)} {aux}"
        )

    def _phase(self, index: int, phase: Phase, found: PhaseResult) -> None:
        """What is left when a phase ends."""
        verdict, used = self.verdict, self.mirror.manager.used
        if found.axil_handshakes:
            verdict.violations.append(
                f"{found.axil_handshakes} AXI4-Lite handshakes between doorbell and last completion"
            )
        if phase.requests and not found.irq:
            verdict.violations.append("the interrupt line was low after the last completion")
        known = {served.number for served in self.served[-len(phase.requests) :]} if phase.requests else set()
        self.records += len(found.completions)
        if strange := [record for _, record in found.completions if record.id not in known]:
            verdict.problems.append(f"phase {index}: {strange[0]} is of no request of it")
        for name, expected in (("COMPLETE_TAIL", self.records), ("SUBMIT_HEAD", len(self.served))):
            if found.registers[name] != expected % 2**32:
                verdict.problems.append(f"phase {index}: {name} is {found.registers[name]}, not {expected}")
        if (self.layout.kv_address, self.layout.kv_bytes) in phase.peeks:
            place = phase.peeks.index((self.layout.kv_address, self.layout.kv_bytes))
            kv = np.frombuffer(found.peeks[place], np.uint8).reshape(self.decoder.kv.image.shape)
            self._kv(kv, f"phase {index}: ")
        if found.registers["KV_USED"] != used:
            verdict.problems.append(
                f"phase {index}: {found.registers['KV_USED']} KV blocks are in use at its end, not {used}"
            )

    def _step(self, step: Step) -> None:
        """A step: its form, its results, and what they leave."""
        if not step.committed:
            for span in step.spans:
                self._of(span.number, f"step {step.index}").dropped = True
            return
        self.done += 1
        self.progress(self.done, self.total)
        self._form(step)
        results = self._results(step)
        check = _StepCheck(step, self.shapes)
        self.verdict.difference = check.first_difference(results)
        self.verdict.elements_compared += check.elements
        self.verdict.logits_compared += check.logits
        if self.verdict.difference:
            raise _Stop
        for span in step.spans:
            served = self.served[span.number]
            served.steps.append(step)
            status = self.mirror.step(served.request, span.sequence, span.rows)
            if status is not Status.OK:
                self._stop(f"step {step.index}: rows of request {span.number} cannot be: {status.name}")

    def _form(self, step: Step) -> None:
        """The rows of a step are those that come next, each once."""
        row = 0
        for place, span in enumerate(step.spans):
            where = f"request {span.number}, step {step.index}"
            served = self._of(span.number, where)
            if not served.running or served.admission.sequence != span.sequence:
                self._stop(f"{where}: it does not have sequence {span.sequence}")
            if span.number in step.numbers[:place]:
                self._stop(f"{where}: it has two spans")
            length = self.decoder.kv.length(span.sequence)
            if span.position != length or not 0 < span.rows <= len(served.fed) - length:
                self._stop(
                    f"{where}: positions {span.position} to {span.end}, the sequence has {length} tokens"
                    f" and {len(served.fed) - length} to come"
                )
            if span.row != row:
                self._stop(f"{where}: its first row is {span.row}, not {row}")
            row += span.rows
            sample = span.end >= len(served.request.prompt)
            if sample != (place < step.sampled):
                self._stop(f"{where}: it {'must' if sample else 'must not'} sample")
        if row != step.rows or step.sampled > len(step.spans):
            self._stop(
                f"step {step.index}: {step.rows} rows, {step.sampled} of them sampled;"
                f" {len(step.spans)} spans have {row}"
            )

    def _results(self, step: Step) -> list[Result]:
        """The golden model's results, sequence by sequence; tokens are added to what is fed."""
        merged: dict[int, list[Result]] = {}
        for place, span in enumerate(step.spans):
            served = self.served[span.number]
            self.golden.clear()
            sampled = [span.rows - 1] if place < step.sampled else []
            tokens = served.fed[span.position : span.end]
            logits = self.decoder.step(tokens, span.sequence, step.sampled > 0, sampled)
            for result in self.golden:
                merged.setdefault(result.packet, []).append(result)
            if sampled:
                served.tokens.append(int(greedy(logits)[0]))
                served.fed.append(served.tokens[-1])
        return [
            Result(packet, parts[0].opcode, parts[0].layer, np.concatenate([part.values for part in parts]))
            for packet, parts in sorted(merged.items())
        ]

    def _records(self, served: _Served, records: list[Completion]) -> None:
        """Completion records against the golden model's tokens."""
        problems, where = self.verdict.problems, f"request {served.number}"
        request, tokens = served.request, served.tokens
        found = [record.token for record in records if record.token is not None]
        if found != tokens:
            problems.append(f"{where}: tokens {found} in memory, {tokens} by the golden model")
        if [record.ended for record in records] != [False] * (len(records) - 1) + [True]:
            problems.append(f"{where}: the end flag is not on its last record, and there alone")
            return
        sequence = served.admission.sequence if served.admission else None
        if wrong := {record.sequence for record in records} - {sequence}:
            problems.append(f"{where}: sequence {wrong.pop()} in its records, it has {sequence}")
        status = records[-1].status
        if status != served.status:
            told = "no end" if served.status is None else f"the end {fault_name(served.status)}"
            problems.append(f"{where}: status {fault_name(status)} in memory, {told} in the trace")
        if status:
            if records[-1].token is not None:
                problems.append(f"{where}: the record with status {status:#x} has a token")
        elif len(tokens) != request.max_new and (not tokens or tokens[-1] != request.eos):
            problems.append(f"{where}: ended after {len(tokens)} tokens without reason")
        if request.eos in tokens[:-1]:
            problems.append(f"{where}: it went on after its last token")

    def _kv(self, found: NDArray[np.uint8], where: str = "") -> None:
        """The bytes of committed tokens, and what copies have blanked."""
        expected, verdict = self.decoder.kv.image, self.verdict
        wrong = (found != expected) & (self.mask | self.blank)
        if wrong.any():
            block, offset = (int(index) for index in np.argwhere(wrong)[0])
            verdict.problems.append(
                f"{where}KV memory: block {block}, byte {offset} ({kv_place(self.model, self.n, offset)}):"
                f" expected {expected[block, offset]:#04x}, found {found[block, offset]:#04x};"
                f" {int(wrong.sum())} bytes differ"
            )
        verdict.kv_bytes_compared += int(self.mask.sum())

    def _memory(self) -> None:
        """KV memory, and what must not have changed."""
        layout, memory, verdict = self.layout, self.result.memory, self.verdict
        found = layout.kv(memory)
        self._kv(found)
        noise = kv_noise(layout.kv_bytes).reshape(found.shape)
        strange = np.flatnonzero((found != noise).any(axis=1) & ~self.used)
        if len(strange):
            verdict.problems.append(f"KV memory: block {int(strange[0])} was written and belongs to nobody")
        poked = any(phase.pokes or phase.later for phase in self.result.job.phases)
        if not poked and memory.read(layout.tape_address, layout.tape_bytes) != self.result.tape:
            verdict.problems.append("the tape was written to")


def fault_name(code: int) -> str:
    """A fault for people."""
    names = {fault.value: fault.name for fault in FaultCode}
    return names.get(code, f"{code:#04x}")


def kv_place(model: Model, n: int, offset: int) -> str:
    """What a byte of a KV block is, for people."""
    run = BLOCK_SIZE * model.head_dim
    record, byte = divmod(offset, 2 * run + 4 * BLOCK_SIZE)
    layer, head = divmod(record, model.kv_heads)
    if byte < 4 * BLOCK_SIZE:
        kind, token = divmod(byte // 2, BLOCK_SIZE)
        what = f"{'KV'[kind]} scale of token {token}"
    else:
        kind, code = divmod(byte - 4 * BLOCK_SIZE, run)
        token, channel = (int(index) for index in np.argwhere(run_offsets(model.head_dim, n) == code)[0])
        what = f"{'KV'[kind]} code {channel} of token {token}"
    return f"layer {layer}, KV head {head}, {what}"


def check(result: JobResult, model: Model, progress: Progress = lambda done, total: None) -> Verdict:
    """Compares a run with the golden model.

    Everything that the trace shows of committed steps, the tokens in the completion ring, the committed bytes
    of KV memory; and that nothing was written where nothing belongs. Requests that failed are compared as far
    as they came.

    Parameters
    ----------
    result : :class:`~serrano_sim.top.simulate.JobResult`
        The run.
    model : :class:`~serrano_sim.golden.model.Model`
        The model of the job's tape.
    progress : callable
        Called before each step with its number, from 1, and how many there are.
    """
    return _Check(result, model, progress).run()


@dataclass
class Agreement:
    """How two runs of the same prompt compare with each other.

    Parameters
    ----------
    positions, elements, logits : :class:`int`
        Positions that both computed, and what of them was compared.
    problems : list of :class:`str`
        What differs: the first element of the first position that is not the same.
    """

    positions: int = 0
    elements: int = 0
    logits: int = 0
    problems: list[str] = field(default_factory=list)


def _by_position(steps: Sequence[Step]) -> dict[int, tuple[Step, NDArray]]:
    """Step and beats of each position, the beats in the order of packets and columns."""
    rows = {}
    for step in steps:
        (span,) = step.spans
        beats = step.beats[np.lexsort((step.beats["column"], step.beats["packet"]))]
        place = beats["row"].astype(np.int64)
        place[np.isin(beats["kind"], SAMPLED)] += span.rows - 1
        for row in range(span.rows):
            rows[span.position + row] = step, beats[place == row]
    return rows


def agree(one: Sequence[Step], two: Sequence[Step], vocab: int) -> Agreement:
    """Compares what two runs showed of the same positions, hardware against hardware.

    Parameters
    ----------
    one, two : sequence of :class:`~serrano_sim.top.trace.Step`
        Committed steps, of one request alone: :meth:`Verdict.parts`.
    vocab : :class:`int`
        Logits behind these are padding.
    """
    found = Agreement()
    rows, others = _by_position(one), _by_position(two)
    for position in sorted(rows.keys() & others.keys()):
        (step, left), (other, right) = rows[position], others[position]
        where = f"position {position} (steps {step.index} and {other.index})"
        # Rows that are not sampled may be in a step that runs the head.
        packets = np.intersect1d(left["packet"], right["packet"])
        sampled = [np.isin(beats["kind"], SAMPLED).any() for beats in (left, right)]
        if sampled[0] == sampled[1]:
            left, right = (beats[np.isin(beats["packet"], packets)] for beats in (left, right))
        same = len(left) == len(right) > 0
        if not same or any((left[name] != right[name]).any() for name in ("kind", "packet", "column")):
            found.problems.append(f"{where}: the results are not of the same form")
            return found
        lanes = _lanes(left[~np.isin(left["kind"], (Kind.TOKEN,))])
        columns = left["column"].astype(np.int64)[:, None] + np.arange(left["values"].shape[1])
        logits, token = ((left["kind"] == kind)[:, None] for kind in (Kind.LOGITS, Kind.TOKEN))
        counts = (~logits | (columns < vocab)) & (token | (np.arange(columns.shape[1]) < lanes))
        wrong = (left["values"] != right["values"]) & counts
        if wrong.any():
            beat, lane = (int(index) for index in np.argwhere(wrong)[0])
            values = " and ".join(str(beats["values"][beat, lane]) for beats in (left, right))
            place = f"packet {left['packet'][beat]}, column {columns[beat, lane]}"
            found.problems.append(f"{where}, {place}: {values} are not the same")
            return found
        found.positions += 1
        found.elements += int(counts.sum())
        found.logits += int((counts & logits).sum())
    return found
