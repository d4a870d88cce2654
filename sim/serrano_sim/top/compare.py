# SPDX-License-Identifier: Apache-2.0
"""A run against the golden model: every traced tensor, every token, every committed byte of KV memory."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serrano.faults import FaultCode

from ..golden.decoder import Decoder
from ..golden.kvcache import BLOCK_SIZE, run_offsets
from ..golden.model import Model
from ..golden.sample import greedy
from ..golden.tape import NO_LAYER, Opcode, head_pad, round_up
from .figures import check_counters
from .layout import Completion, Request, blocks_of, kv_noise
from .simulate import JobResult
from .trace import Kind, Step

__all__ = ["Difference", "Progress", "Verdict", "check"]

Progress = Callable[[int, int], None]

SEQUENCE = 0
# Refused before blocks were allocated. A bus error without a step is one of the prompt.
NOT_ADMITTED = (
    FaultCode.REQUEST_EMPTY.value,
    FaultCode.REQUEST_LENGTH.value,
    FaultCode.REQUEST_SPACE.value,
    FaultCode.REQUEST_ADDRESS.value,
    FaultCode.REQUEST_RING.value,
    FaultCode.KV_COMMAND.value,
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
    elements_compared, logits_compared, kv_bytes_compared : :class:`int`
        How much was compared; logits are among the elements.
    """

    difference: Difference | None = None
    problems: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    steps: list[list[Step]] = field(default_factory=list)
    elements_compared: int = 0
    logits_compared: int = 0
    kv_bytes_compared: int = 0

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
    """The comparison of a whole run, request after request, with a mirror of the device's free list."""

    def __init__(self, result: JobResult, model: Model, progress: Progress):
        self.result, self.model, self.progress = result, model, progress
        self.done = self.total = 0
        layout, self.n = result.job.layout, result.job.config.n
        self.shapes = _Shapes(model, self.n)
        self.golden: list[Result] = []
        self.decoder = Decoder(model, self.n, layout.kv_blocks, trace=self._keep)
        self.mask = np.zeros(self.decoder.kv.image.shape, dtype=bool)
        self.used = np.zeros(layout.kv_blocks, dtype=bool)
        self.free: deque[int] = deque()
        self.verdict = Verdict()

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
        for phase, found in zip(self.result.job.phases, self.result.phases, strict=True):
            if phase.load:
                self.free = deque(range(1, self.result.job.layout.kv_blocks))
            for request in phase.requests:
                ends = [c for c, record in found.completions if record.id == number and record.ended]
                end = ends[0] if ends else found.end
                own = [step for step in steps if step.begin < end]
                steps = steps[len(own) :]
                if not self._request(number, request, own, found.of(number)):
                    return verdict
                number += 1
            if found.axil_handshakes:
                verdict.violations.append(
                    f"{found.axil_handshakes} AXI4-Lite handshakes between doorbell and last completion"
                )
            if phase.requests and not found.irq:
                verdict.violations.append("the interrupt line was low after the last completion")
        if steps:
            verdict.problems.append(f"the trace has {len(steps)} steps behind the end of the last request")
        self._memory()
        return verdict

    def _request(self, number: int, request: Request, steps: list[Step], records: list[Completion]) -> bool:
        """One request; False if nothing more can be compared."""
        verdict = self.verdict
        committed = [step for step in steps if step.length is not None]
        verdict.steps.append(committed)
        verdict.violations += check_counters(committed)
        status = records[-1].status if records else 0
        tokens: list[int] = []
        verdict.tokens.append(tokens)
        if steps or (records and status not in NOT_ADMITTED):
            table = [self.free.popleft() for _ in range(min(blocks_of(request.tokens), len(self.free)))]
            self.used[table] = True
            self.mask[table] = False
            self.decoder.open(SEQUENCE, table)
            going = self._steps(number, request, committed, tokens)
            self.mask |= self.decoder.kv.written()
            self.decoder.close(SEQUENCE)
            self.free.extend(reversed(table))
            if not going:
                return False
        self._records(number, request, tokens, records)
        return True

    def _steps(self, number: int, request: Request, steps: list[Step], tokens: list[int]) -> bool:
        fed, verdict = list(request.prompt), self.verdict
        for step in steps:
            where = f"request {number}, step {step.index}"
            length = self.decoder.kv.length(SEQUENCE)
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
            self.golden.clear()
            self.done += 1
            self.progress(self.done, self.total)
            logits = self.decoder.step(fed[step.position : end], SEQUENCE, sample)
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
        wrong = (found != expected) & self.mask
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
