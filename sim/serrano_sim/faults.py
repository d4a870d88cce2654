# SPDX-License-Identifier: Apache-2.0
"""Bus errors, corrupt packets and cancels by the hundred while many requests are served.

``python -m serrano_sim.faults`` draws runs from consecutive seeds. In each of them sixteen sequences are busy
while the memory answers bursts of all kinds with errors, bytes of the tape flip, for a while or for good, and
the host cancels requests. Then every request must have come to the end that docs/rings.md promises: what was
hit ends with its fault's code, whatever else was in the same step; everything else gives the tokens that it
gives alone. A run depends on its accelerator and its seed alone.
"""

import argparse
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from serrano.config import AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode

from .golden.decoder import Decoder
from .golden.model import Model
from .golden.synthetic import random_model, write_tape
from .golden.tape import read_tape
from .memory.handle import ErrorBurst
from .runner import SimulationError, build_root
from .top.compare import Verdict, check, fault_name
from .top.job import BusError, KVCommand, Later, MemorySettings, Phase
from .top.layout import ENTRY_BYTES, MemoryLayout, Request
from .top.simulate import JobResult, Options, run_job
from .top.trace import Kind

__all__ = ["CONFIGS", "Case", "Outcome", "draw", "judge", "main", "run_case"]

CONFIGS = {
    "tiny": dataclasses.replace(preset("tiny"), name="tiny16", sequences_max=16, rows_max=8),
    "base": preset("base"),
}
"""The accelerators by preset. A ``tiny`` with sixteen sequences is the small one."""

CONTEXT, TENANT = 64, 9
AT_ONCE = 16
"""Sequences that are to be busy at a time."""
CALM = 6
"""Requests that are served when all is well again."""
DELAY = range(2, 8)
"""Cycles from an erroneous answer of the memory until the trace shows the fault."""

PACKET = {
    code.value
    for code in (
        FaultCode.PACKET_OPCODE,
        FaultCode.PACKET_INDEX,
        FaultCode.PACKET_LENGTH,
        FaultCode.PACKET_DIMENSION,
        FaultCode.PACKET_CRC,
    )
}
BUS = {"SLVERR": FaultCode.BUS_SLVERR.value, "DECERR": FaultCode.BUS_DECERR.value}
CANCELLED = FaultCode.REQUEST_CANCELLED.value


@dataclass(frozen=True, kw_only=True)
class Area:
    """A class of addresses that errors are injected to.

    Parameters
    ----------
    low, high : :class:`int`
        Its addresses.
    on : :class:`str`
        ``"read"`` or ``"write"``.
    chance : :class:`float`
        Probability of an error of each burst.
    """

    low: int
    high: int
    on: str
    chance: float


# How many errors a burst of each kind is to get, on average. A step has dozens of the first four kinds, and
# more than one error of the tape in a row ends everything in it.
CHANCES = {
    "program": 0.004,
    "tables": 0.004,
    "kv read": 0.003,
    "kv write": 0.0008,
    "prompts": 0.04,
    "entries": 0.08,
    "records": 0.006,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run.

    Parameters
    ----------
    config, seed
        The accelerator, and the seed of the draw.
    model, tape
        The model.
    requests : tuple of :class:`~serrano_sim.top.layout.Request`
        All requests.
    layout : :class:`~serrano_sim.top.layout.MemoryLayout`
        Memory.
    phases : tuple of :class:`~serrano_sim.top.job.Phase`
        One request, the storm, some more requests, and the end of what was kept.
    flips : tuple of :class:`int`
        Addresses at which the tape is corrupted.
    memory : :class:`~serrano_sim.top.job.MemorySettings`
        How the memory behaves.
    """

    config: AcceleratorConfig
    seed: int
    model: Model
    tape: bytes
    requests: tuple[Request, ...]
    layout: MemoryLayout
    phases: tuple[Phase, ...]
    flips: tuple[int, ...]
    memory: MemorySettings


@dataclass(kw_only=True)
class Outcome:
    """What came of a case. ``errors`` is empty if all is as it must be; ``folder`` is kept if it is not."""

    cycles: int = 0
    steps: int = 0
    busiest: int = 0
    """Most sequences in use at a time."""
    injected: dict[str, int] = field(default_factory=dict)
    """Bus errors by class of address."""
    flips: int = 0
    cancels: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    """Requests by the status with which they ended."""
    retried: int = 0
    """Steps that were tried again after a fault of the tape and then went well."""
    given_up: int = 0
    """Steps that failed."""
    tokens: int = 0
    logits: int = 0
    kv_bytes: int = 0
    errors: list[str] = field(default_factory=list)
    folder: str = ""


def areas(layout: MemoryLayout, tape: bytes) -> dict[str, Area]:
    """The classes of addresses."""
    fields, at = read_tape(tape).fields, layout.tape_address
    places = {
        "program": (at + fields["program_offset"], at + fields["program_end"], "read"),
        "tables": (at + min(fields["rope_offset"], fields["embed_offset"]), at + len(tape), "read"),
        "kv read": (layout.kv_address, layout.kv_address + layout.kv_bytes, "read"),
        "kv write": (layout.kv_address, layout.kv_address + layout.kv_bytes, "write"),
        "prompts": (layout.prompts[0], layout.tape_address, "read"),
        "entries": (layout.submit_address, layout.submit_address + ENTRY_BYTES * layout.submit_size, "read"),
        "records": (layout.complete_address, layout.prompts[0], "write"),
    }
    return {
        name: Area(low=low, high=high, on=on, chance=CHANCES[name])
        for name, (low, high, on) in places.items()
    }


def _requests(rng: random.Random, count: int, vocab: int) -> list[Request]:
    found = []
    for _ in range(count):
        prompt = tuple(rng.randrange(vocab) for _ in range(rng.choice((1, 2, 3, 5, 8, 9, 14, 17, 24))))
        eos = rng.choice((None, rng.randrange(vocab)))
        found.append(Request(prompt, rng.randrange(1, 17), eos=eos, tenant=rng.randrange(256)))
    return found


def _flips(rng: random.Random, layout: MemoryLayout, tape: bytes, step: int, span: int) -> list[Later]:
    """Bytes of packets that are wrong for a while, and maybe one that stays so."""
    parsed, align = read_tape(tape), read_tape(tape).align
    starts, at = [], parsed.fields["program_offset"]
    for packet in parsed.packets:
        starts.append((at, align + packet.payload_bytes))
        at += align + packet.payload_bytes
    actions, used = [], set()
    for number in range(rng.randrange(5, 9)):
        start, size = rng.choice(starts)
        place = start + (rng.randrange(32) if rng.random() < 0.4 else rng.randrange(size))
        if place in used:
            continue
        used.add(place)
        good, since = tape[place], rng.randrange(step, span)
        bad = bytes([good ^ 1 << rng.randrange(8)])
        # Most last for less than a step, some for several, and one may never be put back.
        lasting, forever = (
            rng.choice((step // 3, step // 2, step, 4 * step)),
            not number and rng.random() < 0.25,
        )
        since = span if forever else since
        actions.append(Later(cycles=since, address=layout.tape_address + place, data=bad))
        if not forever:
            actions.append(
                Later(cycles=since + lasting, address=layout.tape_address + place, data=bytes([good]))
            )
    return actions


def draw(name: str, seed: int, count: int = 48) -> Case:
    """The case of a seed, for the accelerator of this name in :data:`CONFIGS`."""
    config, rng = CONFIGS[name], random.Random(f"faults {name} {seed}")
    kv_heads, layers = rng.choice((1, 2)), rng.choice((1, 2))
    model = random_model(
        seed,
        dim=rng.choice((16, 24)),
        ffn=rng.choice((14, 22)),
        layers=layers,
        heads=2 * kv_heads,
        kv_heads=kv_heads,
        head_dim=8,
        vocab=41,
        context=CONTEXT,
    )
    tape = write_tape(model, config.n, config.tape_align)
    vocab = len(model.embedding.codes)
    storm = _requests(rng, count, vocab)
    # Two of them go on in sequences that the host has opened, and keep them.
    kept = (config.sequences_max - 1, config.sequences_max - 2)
    for sequence, place in zip(kept, sorted(rng.sample(range(count), 2)), strict=True):
        storm[place] = dataclasses.replace(
            storm[place], adopt=True, keep=True, sequence=sequence, tenant=TENANT
        )
    first, calm = _requests(rng, 1, vocab), _requests(rng, CALM, vocab)
    requests = (*first, *storm, *calm)
    layout = MemoryLayout.plan(tape, requests, kv_blocks=rng.choice((30, 40, 60)))
    step = {"tiny": 3500, "base": 1500}[name] * layers
    span = step * sum(len(request.prompt) + request.max_new for request in storm) // config.rows_max
    # Some come at once, the others while they are served.
    early = rng.randrange(AT_ONCE, count + 1)
    arrivals = sorted([0] * early + [rng.randrange(span // 2) for _ in range(count - early)])
    later = _flips(rng, layout, tape, step, span // 2)
    flips = tuple({action.address for action in later})
    for place in rng.sample(range(count), 6):
        later.append(Later(cycles=arrivals[place] + rng.randrange(span // 2), cancel=place))
    errors = tuple(
        BusError(
            response=rng.choice(("SLVERR", "DECERR")),
            on=area.on,
            low=area.low,
            high=area.high,
            limit=30,
            # Bursts of a wide port are fewer.
            chance=min(0.5, area.chance * rng.choice((0.5, 1, 1, 2)) * (3 if name == "base" else 1)),
        )
        for area in areas(layout, tape).values()
    )
    mend = tuple((address, tape[address - layout.tape_address :][:1]) for address in flips)
    phases = (
        Phase(load=True, requests=tuple(first)),
        Phase(
            commands=tuple(KVCommand(Opcode.OPEN, sequence, TENANT) for sequence in kept),
            errors=errors,
            requests=tuple(storm),
            arrivals=tuple(arrivals),
            later=tuple(later),
        ),
        Phase(pokes=mend, requests=tuple(calm)),
        Phase(commands=tuple(KVCommand(Opcode.FREE, sequence, TENANT) for sequence in kept)),
    )
    return Case(
        config=config,
        seed=seed,
        model=model,
        tape=tape,
        requests=requests,
        layout=layout,
        phases=phases,
        flips=flips,
        memory=MemorySettings.of(rng.choice((7, 20, 60)), rng.choice((0.0, 0.1, 0.3)), seed),
    )


class Mark(NamedTuple):
    """A beat of the trace that tells of requests, steps or faults."""

    cycle: int
    kind: Kind
    first: int
    second: int


@dataclass
class _Execution:
    """A step that runs."""

    numbers: tuple[int, ...]
    begin: int
    failed: int | None = None
    """The cycle of its first fault."""


class _Walk:
    """Goes through a run and says what must have become of each request.

    It knows which bursts the memory answered with an error, and from the trace when each fault was counted;
    from the addresses follows who was hit.
    """

    def __init__(self, case: Case, result: JobResult, verdict: Verdict, log: Sequence[ErrorBurst]):
        self.case, self.result, self.verdict = case, result, verdict
        self.areas = areas(case.layout, case.tape)
        self.errors: list[str] = []
        self.log = list(log)
        self.shown: dict[int, int] = {}
        """Entry of the log to the mark that shows it."""
        self.windows: list[tuple[int, int]] = []
        """Cycles in which the bus was being silenced."""
        self.retried = self.given_up = self.busiest = 0
        self.running: dict[int, int] = {}
        self.due: dict[int, int] = {}
        """Requests that must end before the next step, and their codes."""
        self.left_out: set[int] = set()
        """Requests whose prompt could not be read."""
        self.entries: Counter[int] = Counter()
        self.tried = False
        self.step: _Execution | None = None
        self.cancels = {number: cycle for phase in result.phases for cycle, number in phase.cancels}
        self.begun_after_cancel: Counter[int] = Counter()

    def _tell(self, mark: Mark | None, text: str) -> None:
        self.errors.append(f"cycle {mark.cycle}: {text}" if mark else text)

    def marks(self) -> list[Mark]:
        """The beats that matter, in order."""
        recording, wanted = self.result.recording, (6, 7, 9, 10, 11, 12)
        found = []
        for place in (recording.beats["kind"][:, None] == wanted).any(axis=1).nonzero()[0]:
            beat = recording.beats[place]
            first, second = (int(value) & 0xFFFFFFFF for value in beat["values"][:2])
            found.append(Mark(int(recording.cycles[place]), Kind(int(beat["kind"])), first, second))
        return found

    def area(self, error: ErrorBurst) -> str:
        """The class of an error; empty if it lies in none."""
        on = "write" if error.write else "read"
        for name, area in self.areas.items():
            if area.on == on and area.low <= error.address < area.high:
                return name
        # A burst may begin before what it was hit in.
        after = error.address + 2 * self.case.config.read_burst_bytes
        if on == "read" and error.address < self.areas["tables"].low <= after:
            return "tables"
        return ""

    def owner(self, address: int) -> int | None:
        """The request that runs and has the block of an address."""
        layout = self.case.layout
        block = (address - layout.kv_address) // layout.block_bytes
        for number in self.running.values():
            if block in self.verdict.admissions[number].table:
                return number
        return None

    def run(self) -> None:
        """All of it."""
        marks = self.marks()
        spans: list[int] = []
        for place, mark in enumerate(marks):
            match mark.kind:
                case Kind.SPAN:
                    spans.append(mark.second)
                case Kind.BEGIN:
                    self._begin(mark, tuple(spans))
                    spans = []
                case Kind.COMMIT:
                    if self.step is None or self.step.failed is not None:
                        self._tell(mark, "a step was committed in spite of a fault")
                    self.retried += self.tried
                    self.step, self.tried = None, False
                case Kind.ADMIT:
                    self.running[mark.first] = mark.second
                    self.busiest = max(self.busiest, len(self.running))
                case Kind.END:
                    self._end(mark)
                case Kind.FAULT:
                    following = (other.cycle for other in marks[place + 1 :] if other.kind is not Kind.FAULT)
                    self._fault(place, mark, next(following, mark.cycle))
        for number, code in (self.due | dict.fromkeys(self.left_out, FaultCode.BUS_SLVERR.value)).items():
            self._tell(None, f"request {number} must have ended with {fault_name(code)}")
        self._unseen(marks)
        self._counts(marks)

    def _begin(self, mark: Mark, numbers: tuple[int, ...]) -> None:
        for number, code in self.due.items():
            self._tell(mark, f"a step begins; request {number} must have ended with {fault_name(code)}")
        self.due = dict.fromkeys(self.left_out, FaultCode.BUS_SLVERR.value)
        self.left_out.clear()
        if wrong := self.due.keys() & set(numbers):
            self._tell(mark, f"request {min(wrong)} has rows in a step, and its prompt could not be read")
        if self.step is not None and self.step.failed is None:
            self._tell(mark, "a step was neither committed nor given up for a fault")
        self.step = _Execution(numbers, mark.cycle)
        for number in numbers:
            if number in self.cancels and mark.cycle > self.cancels[number] + 2 * AT_ONCE + 64:
                self.begun_after_cancel[number] += 1
                if self.begun_after_cancel[number] > 1:
                    self._tell(mark, f"request {number} goes on though it was cancelled")

    def _fault(self, place: int, mark: Mark, following: int) -> None:
        code = mark.first
        error = self._error(place, mark)
        area = self.area(error) if error else ""
        if error and not area:
            self._tell(mark, f"a fault at address {error.address:#x}, which belongs to nobody")
        elif area == "records":
            return
        elif area == "prompts":
            # The step that is being formed goes without it, and it ends before the next one.
            self.left_out.add(self._prompt(error.address))
        elif area == "entries":
            number = self._entry(error.address)
            self.entries[number] += 1
            if self.entries[number] == 2:
                self.due[number] = FaultCode.BUS_SLVERR.value
        elif self.step is None or (self.step.failed is not None and mark.cycle > self.windows[-1][1]):
            if code != CANCELLED:
                self._tell(mark, f"{fault_name(code)} ({area or 'no bus error'}) while no step runs")
        elif self.step.failed is not None:
            self._tell(mark, f"{fault_name(code)} was counted while a step was being given up")
        elif area or code in PACKET:
            self._fail(mark, error if area.startswith("kv") else None, code)
            self.windows.append((mark.cycle, following))
        else:
            self._tell(mark, f"{fault_name(code)} has no cause")

    def _fail(self, mark: Mark, error: ErrorBurst | None, code: int) -> None:
        """The step that runs is given up, for an error of KV memory or for one of the tape."""
        self.step.failed = mark.cycle
        self.given_up += 1
        if error is not None:
            owner = self.owner(error.address)
            if owner not in self.step.numbers:
                self._tell(mark, f"KV memory of request {owner} was used, which has no rows in the step")
            else:
                self.due.setdefault(owner, code)
        elif not self.tried:
            self.tried = True
        else:
            self.tried = False
            for number in self.step.numbers:
                self.due.setdefault(number, code)

    def _error(self, place: int, mark: Mark) -> ErrorBurst | None:
        """The answer of the memory that a fault comes from."""
        for number, error in enumerate(self.log):
            late = mark.cycle - error.cycle
            if late in DELAY and BUS[error.response] == mark.first and number not in self.shown:
                self.shown[number] = place
                return error
        return None

    def _prompt(self, address: int) -> int:
        """The request whose prompt has an address."""
        prompts = self.case.layout.prompts
        return max(number for number, start in enumerate(prompts) if start <= address)

    def _entry(self, address: int) -> int:
        """The request whose ring entry has an address; the ring has room for all."""
        return (address - self.case.layout.submit_address) // ENTRY_BYTES

    def _end(self, mark: Mark) -> None:
        sequence, status, number = mark.first & 0xFFFF, mark.first >> 16, mark.second
        self.running.pop(sequence, None)
        expected = self.due.pop(number, None)
        if number in self.left_out:
            self.left_out.remove(number)
            expected = FaultCode.BUS_SLVERR.value
        if expected is not None:
            if status != expected:
                told = f"{fault_name(status)}, it must end with {fault_name(expected)}"
                self._tell(mark, f"request {number} ends with {told}")
        elif status == CANCELLED:
            if self.cancels.get(number, mark.cycle) >= mark.cycle:
                self._tell(mark, f"request {number} ends as cancelled, and nobody has cancelled it")
        elif status:
            self._tell(mark, f"request {number} ends with {fault_name(status)}, and nothing has hit it")
        if not self.running:
            self.tried = False

    def _unseen(self, marks: Sequence[Mark]) -> None:
        """What was not counted came while the bus was being silenced, or together with another error."""
        seen = [self.log[number].cycle for number in self.shown]
        self.together = 0
        for number, error in enumerate(self.log):
            if number in self.shown:
                continue
            if self.area(error) != "records" and any(
                begin - DELAY.stop <= error.cycle <= end for begin, end in self.windows
            ):
                continue
            if any(abs(cycle - error.cycle) <= 1 for cycle in seen):
                self.together += 1
                continue
            self._tell(None, f"cycle {error.cycle}: an error at {error.address:#x} was not counted")

    def _counts(self, marks: Sequence[Mark]) -> None:
        """FAULT_COUNT of each phase."""
        before = -1
        for index, phase in enumerate(self.result.phases):
            own = [mark for mark in marks if before < mark.cycle <= phase.end and mark.kind is Kind.FAULT]
            count = phase.registers["FAULT_COUNT"]
            if not len(own) <= count <= len(own) + self.together:
                self.errors.append(f"phase {index}: FAULT_COUNT is {count}, {len(own)} faults were shown")
            before = phase.end


def alone(case: Case) -> Iterator[list[int]]:
    """The tokens of each request when nobody else is served and nothing goes wrong."""
    for request in case.requests:
        tokens = Decoder(case.model, case.config.n).generate(request.prompt, request.max_new)
        yield tokens[: tokens.index(request.eos) + 1] if request.eos in tokens else tokens


def _corrupts(case: Case, action: Later) -> bool:
    """Whether the host spoils a byte of the tape."""
    if action.address is None:
        return False
    return case.tape[action.address - case.layout.tape_address :][:1] != action.data


def judge(case: Case, result: JobResult, log: Sequence[ErrorBurst] | None = None) -> Outcome:
    """What has become of a run. ``log`` are the bursts that got errors, if not those of the run's memory."""
    verdict = check(result, case.model)
    log = result.memory.errors() if log is None else log
    walk = _Walk(case, result, verdict, log)
    errors = list(verdict.errors)
    if not errors:
        walk.run()
        errors += walk.errors
    ends: Counter[str] = Counter()
    number = 0
    golden = alone(case)
    for phase, found in zip(case.phases, result.phases, strict=True):
        for _ in phase.requests:
            records, tokens, expected = found.of(number), result.tokens[number], next(golden)
            status = records[-1].status if records else -1
            ends[fault_name(status)] += 1
            if (tokens != expected[: len(tokens)]) if status else (tokens != expected):
                errors.append(f"request {number}: tokens {tokens}, alone {expected}")
            if status and phase is not case.phases[1]:
                errors.append(f"request {number} ended with {fault_name(status)} in calm weather")
            number += 1
    if used := result.phases[-1].registers["KV_USED"]:
        errors.append(f"{used} KV blocks are in use at the end")
    injected = Counter(walk.area(error) for error in log)
    return Outcome(
        cycles=result.cycles,
        steps=sum(step.committed for step in result.recording.steps()),
        busiest=walk.busiest,
        injected=dict(injected),
        flips=sum(_corrupts(case, case.phases[1].later[place]) for place, _ in result.phases[1].done),
        cancels=len(result.phases[1].cancels),
        ends=dict(ends),
        retried=walk.retried,
        given_up=walk.given_up,
        tokens=sum(len(tokens) for tokens in result.tokens),
        logits=verdict.logits_compared,
        kv_bytes=verdict.kv_bytes_compared,
        errors=errors,
        folder=str(result.folder),
    )


def run_case(case: Case, options: Options | None = None, keep: bool = False) -> Outcome:
    """Runs a case and compares all of it. A run that breaks down is an outcome as well."""
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{case.config.name}-{case.seed}-", dir=runs))
    settings = {"memory": case.memory, "layout": case.layout, "phases": case.phases, "watchdog": 200_000}
    try:
        result = run_job(case.config, case.tape, case.requests, folder, options=options, **settings)
    except SimulationError as error:
        return Outcome(errors=[str(error)], folder=str(folder))
    outcome = judge(case, result)
    if not outcome.errors and not keep:
        shutil.rmtree(folder, ignore_errors=True)
        outcome.folder = ""
    return outcome


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.faults", description=__doc__)
    parser.add_argument("--preset", default="", choices=["", *CONFIGS], help="one accelerator (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--runs", type=int, help="how many runs of each (default: 16 tiny, 4 base)")
    parser.add_argument("--json", type=Path, help="report (default: build/reports/faults.json)")
    return parser.parse_args(argv)


def _line(name: str, seed: int, outcome: Outcome) -> str:
    """A run in a line."""
    state = "WRONG" if outcome.errors else "right"
    hit = sum(count for end, count in outcome.ends.items() if end != "NONE")
    return (
        f"{name} {seed}: {state}, {outcome.cycles:,} cycles, {outcome.busiest} sequences;"
        f" {sum(outcome.injected.values())} bus errors, {outcome.flips} flips, {outcome.cancels} cancels:"
        f" {outcome.given_up} steps given up, {hit} requests ended early,"
        f" {outcome.ends.get('NONE', 0)} untouched"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every run was right, else 1."""
    args, began = arguments(argv), time.monotonic()
    entries, failed = [], []
    for name, runs in {"tiny": 16, "base": 4}.items():
        if args.preset not in ("", name):
            continue
        for seed in range(args.seed, args.seed + (runs if args.runs is None else args.runs)):
            started = time.monotonic()
            outcome = run_case(draw(name, seed), Options(timeout=900))
            print(_line(name, seed, outcome), flush=True)
            if outcome.errors:
                failed.append(f"{name} {seed}")
                again = f"python -m serrano_sim.faults --preset {name} --seed {seed} --runs 1"
                print(f"  {outcome.errors[0]}\n  files: {outcome.folder}\n  again: {again}", flush=True)
            seconds = round(time.monotonic() - started, 1)
            entries.append({"preset": name, "seed": seed, "seconds": seconds} | dataclasses.asdict(outcome))
    report = _report(entries, failed, round(time.monotonic() - began, 1))
    file = args.json or build_root() / "reports" / "faults.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    _show(report)
    return 1 if failed or not entries else 0


def _report(entries: Sequence[dict], failed: Sequence[str], seconds: float) -> dict:
    """Sums over all runs."""
    totals: dict[str, Counter[str]] = {"injected": Counter(), "ends": Counter()}
    for entry in entries:
        for name, counter in totals.items():
            counter.update(entry[name])
    names = ("cycles", "steps", "flips", "cancels", "retried", "given_up", "tokens", "logits", "kv_bytes")
    sums = {name: sum(entry[name] for entry in entries) for name in names}
    return {
        "failed": list(failed),
        "bus_errors": sum(totals["injected"].values()),
        **{name: dict(counter) for name, counter in totals.items()},
        **sums,
        "seconds": seconds,
        "runs": list(entries),
    }


def _show(report: dict) -> None:
    """The summary."""
    print(f"\n{len(report['runs'])} runs, {len(report['failed'])} wrong; {report['seconds']} s")
    rows = [(f"bus errors, {name}", count) for name, count in sorted(report["injected"].items())]
    rows += [
        ("bus errors", report["bus_errors"]),
        ("bytes of the tape flipped", report["flips"]),
        ("cancels", report["cancels"]),
        ("steps committed", report["steps"]),
        ("steps given up", report["given_up"]),
        ("steps that went well when tried again", report["retried"]),
    ]
    rows += [(f"requests ended with {name}", count) for name, count in sorted(report["ends"].items())]
    for name, count in rows:
        print(f"  {name:40} {count:>9,}")


if __name__ == "__main__":
    sys.exit(main())
