# SPDX-License-Identifier: Apache-2.0
"""A run against the golden model: every traced tensor, every token, every committed byte of KV memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from .simulate import JobResult
from .trace import Kind, Step

__all__ = ["Agreement", "Difference", "Progress", "Verdict", "agree", "check"]

Progress = Callable[[int, int], None]

# Refused before the first command to the KV controller. A bus error without a step is one of the prompt.
NOT_ADMITTED = (
    FaultCode.REQUEST_FLAGS.value,
    FaultCode.REQUEST_EMPTY.value,
    FaultCode.REQUEST_LENGTH.value,
    FaultCode.REQUEST_ADDRESS.value,
    FaultCode.REQUEST_RING.value,
)
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

    ``element`` counts as in the golden model's result, without padding; ``what`` says which it is. A value
    that is ``None`` is missing.
    """

    step: int
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

        place = f"step {self.step} (position {self.position}), packet {self.packet} ({self.name})"
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
        Committed steps of each request.
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


def _assemble(beats: NDArray, rows: int, width: int) -> tuple[NDArray, NDArray]:
    """Values and how often each was shown, [rows, width]; beats beyond it are an error of the caller."""
    lanes = beats["values"].shape[1]
    at = beats["column"].astype(np.int64)[:, None] + np.arange(lanes)
    row = np.broadcast_to(beats["row"].astype(np.int64)[:, None], at.shape)
    inside = (at < width) & (row < rows)
    values = np.zeros((rows, width), dtype=np.int64)
    count = np.zeros((rows, width), dtype=np.int64)
    values[row[inside], at[inside]] = beats["values"][inside]
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
        return Difference(self.step.index, self.step.position, packet, "order", 0, 0, what, None, None)

    def _differ(
        self, result: Result, row: int, element: int, what: str, expected: int | None, found: int | None
    ) -> Difference:
        step = self.step
        return Difference(
            step.index, step.position, result.packet, result.name, row, element, what, expected, found
        )

    def _packet(self, result: Result, beats: NDArray) -> Difference | None:
        kind = self.shapes.kind(result)
        strange = np.flatnonzero(beats["kind"] != kind)
        if len(strange):
            found = int(beats["kind"][strange[0]])
            return self._differ(result, 0, 0, f"kind of beat ({kind.name})", int(kind), found)
        expected = np.asarray(result.values).reshape(self.step.rows, -1)
        columns = self.shapes.columns(result, expected.shape[1])
        width = round_up(int(columns[-1]) + 1, self.shapes.n)
        values, count = _assemble(beats, self.step.rows, width)
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


class _Check:
    """The comparison of a whole run, request after request, with a mirror of the KV controller."""

    def __init__(self, result: JobResult, model: Model, progress: Progress):
        self.result, self.model, self.progress = result, model, progress
        self.done = self.total = 0
        layout, config = result.job.layout, result.job.config
        self.n = config.n
        self.shapes = _Shapes(model, self.n)
        self.golden: list[Result] = []
        self.decoder = Decoder(model, self.n, layout.kv_blocks, trace=self._keep)
        records = len(model.layers) * model.kv_heads
        self.mirror = Mirror(config, layout.kv_blocks, records, self._move)
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
        if opcode is Opcode.SAMPLE:
            # The trace shows the token with its logit.
            tokens, logits = np.asarray(values).reshape(-1), self.golden[-1].values
            values = np.stack((tokens, logits[np.arange(len(tokens)), tokens]), axis=1)
        self.golden.append(Result(packet, opcode, layer, np.array(values)))

    def run(self) -> Verdict:
        verdict = self.verdict
        try:
            steps = self.result.recording.steps()
        except ValueError as error:
            verdict.problems.append(str(error))
            return verdict
        number, self.total = 0, len(steps)
        phases = zip(self.result.job.phases, self.result.phases, strict=True)
        for index, (phase, found) in enumerate(phases):
            if phase.load:
                self.mirror.load()
            self._answers(index, phase, found)
            for request in phase.requests:
                ends = [c for c, record in found.completions if record.id == number and record.ended]
                end = ends[0] if ends else found.end
                own = [step for step in steps if step.begin < end]
                steps = steps[len(own) :]
                if not self._request(number, request, own, found.of(number)):
                    return verdict
                number += 1
            self._phase(index, phase, found)
        if steps:
            verdict.problems.append(f"the trace has {len(steps)} steps behind the end of the last request")
        self._memory()
        return verdict

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
        if found.registers["KV_USED"] != used:
            verdict.problems.append(
                f"phase {index}: {found.registers['KV_USED']} KV blocks are in use at its end, not {used}"
            )

    def _request(self, number: int, request: Request, steps: list[Step], records: list[Completion]) -> bool:
        """One request; False if nothing more can be compared."""
        verdict = self.verdict
        committed = [step for step in steps if step.length is not None]
        verdict.steps.append(committed)
        verdict.violations += check_counters(committed)
        verdict.admissions.append(None)
        status = records[-1].status if records else 0
        tokens: list[int] = []
        verdict.tokens.append(tokens)
        if steps or (records and status not in NOT_ADMITTED):
            self.refused = not steps and status == FaultCode.KV_COMMAND.value
            verdict.admissions[-1] = admission = self.mirror.admit(request)
            self.refused = False
            if admission is not None and not self._admitted(number, request, admission, steps, tokens):
                return False
        self._records(number, request, tokens, records)
        return True

    def _admitted(
        self, number: int, request: Request, admission: Admission, steps: list[Step], tokens: list[int]
    ) -> bool:
        new = [block for block in admission.allocated if block not in admission.copied]
        self.mask[new] = self.blank[new] = False
        self.used[list(admission.allocated)] = True
        sequence, kv = admission.sequence, self.decoder.kv
        self.decoder.open(sequence, admission.table, admission.length)
        committed = [step for step in steps if step.length is not None]
        going = self._steps(number, request, sequence, committed, tokens)
        self.mask |= kv.written()
        if len(committed) != len(steps):
            # A step that was given up may have written what was not committed.
            self.blank[list(admission.copied)] = False
        self.decoder.close(sequence)
        self.mirror.end(request)
        return going

    def _steps(
        self, number: int, request: Request, sequence: int, steps: list[Step], tokens: list[int]
    ) -> bool:
        fed, verdict = list(request.prompt), self.verdict
        for step in steps:
            where = f"request {number}, step {step.index}"
            length = self.decoder.kv.length(sequence)
            if step.position != length or not 0 < step.rows <= len(fed) - length:
                verdict.problems.append(
                    f"{where}: positions {step.position} to {step.length}, the sequence has {length} tokens"
                    f" and {len(fed) - length} to come"
                )
                return False
            end = step.position + step.rows
            sample = end >= len(request.prompt)
            if step.sample != sample:
                verdict.problems.append(f"{where}: it {'must' if sample else 'must not'} sample")
                return False
            self.mirror.step(request, step.rows)
            self.golden.clear()
            self.done += 1
            self.progress(self.done, self.total)
            logits = self.decoder.step(fed[step.position : end], sequence, sample)
            check = _StepCheck(step, self.shapes)
            verdict.difference = check.first_difference(self.golden)
            verdict.elements_compared += check.elements
            verdict.logits_compared += check.logits
            if verdict.difference:
                return False
            if sample:
                tokens.append(int(greedy(logits)[-1]))
                fed.append(tokens[-1])
        return True

    def _records(self, number: int, request: Request, tokens: list[int], records: list[Completion]) -> None:
        """Completion records against the golden model's tokens."""
        problems = self.verdict.problems
        found = [record.token for record in records if record.token is not None]
        if found != tokens:
            problems.append(f"request {number}: tokens {found} in memory, {tokens} by the golden model")
        if [record.ended for record in records] != [False] * (len(records) - 1) + [True]:
            problems.append(f"request {number}: the end flag is not on its last record, and there alone")
            return
        last = records[-1]
        if last.status:
            if last.token is not None:
                problems.append(f"request {number}: the record with status {last.status:#x} has a token")
        elif len(tokens) != request.max_new and (not tokens or tokens[-1] != request.eos):
            problems.append(f"request {number}: ended after {len(tokens)} tokens without reason")

    def _memory(self) -> None:
        """KV memory, and what must not have changed."""
        layout, memory, verdict = self.result.job.layout, self.result.memory, self.verdict
        found, expected = layout.kv(memory), self.decoder.kv.image
        wrong = (found != expected) & (self.mask | self.blank)
        if wrong.any():
            block, offset = (int(index) for index in np.argwhere(wrong)[0])
            verdict.problems.append(
                f"KV memory: block {block}, byte {offset} ({kv_place(self.model, self.n, offset)}):"
                f" expected {expected[block, offset]:#04x}, found {found[block, offset]:#04x};"
                f" {int(wrong.sum())} bytes differ"
            )
        verdict.kv_bytes_compared = int(self.mask.sum())
        noise = kv_noise(layout.kv_bytes).reshape(found.shape)
        strange = np.flatnonzero((found != noise).any(axis=1) & ~self.used)
        if len(strange):
            verdict.problems.append(f"KV memory: block {int(strange[0])} was written and belongs to nobody")
        poked = any(phase.pokes for phase in self.result.job.phases)
        if not poked and memory.read(layout.tape_address, layout.tape_bytes) != self.result.tape:
            verdict.problems.append("the tape was written to")


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
        beats = step.beats[np.lexsort((step.beats["column"], step.beats["packet"]))]
        for row in range(step.rows):
            rows[step.position + row] = step, beats[beats["row"] == row]
    return rows


def agree(one: Sequence[Step], two: Sequence[Step], vocab: int) -> Agreement:
    """Compares what two runs showed of the same positions, hardware against hardware.

    Parameters
    ----------
    one, two : sequence of :class:`~serrano_sim.top.trace.Step`
        Committed steps.
    vocab : :class:`int`
        Logits behind these are padding.
    """
    found = Agreement()
    rows, others = _by_position(one), _by_position(two)
    for position in sorted(rows.keys() & others.keys()):
        (step, left), (other, right) = rows[position], others[position]
        where = f"position {position} (steps {step.index} and {other.index})"
        if step.sample != other.sample:
            # Only one of them ran the head.
            packets = np.intersect1d(left["packet"], right["packet"])
            left, right = (beats[np.isin(beats["packet"], packets)] for beats in (left, right))
        same = len(left) == len(right)
        if not same or any((left[name] != right[name]).any() for name in ("kind", "packet", "column")):
            found.problems.append(f"{where}: the results are not of the same form")
            return found
        columns = left["column"].astype(np.int64)[:, None] + np.arange(left["values"].shape[1])
        logits = (left["kind"] == Kind.LOGITS)[:, None]
        counts = ~logits | (columns < vocab)
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
