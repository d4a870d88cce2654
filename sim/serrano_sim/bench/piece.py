# SPDX-License-Identifier: Apache-2.0
"""One step on the Verilog: the requests that lead to it, the simulation, and what is taken from it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serrano.kvcache.commands import Opcode

from ..golden.decoder import Decoder
from ..golden.model import Model
from ..golden.synthetic import write_tape
from ..runner import SimulationError
from ..timeline import Activity
from ..top.compare import Result, compare_step, keep_result
from ..top.design import Design
from ..top.job import Job, KVCommand, Phase
from ..top.layout import Request, blocks_of
from ..top.mirror import Mirror
from ..top.simulate import JobResult, Options, Simulation, load_result, plan_job, prepare
from ..top.trace import Admit, End, Step
from .cases import MEMORIES, Piece
from .content import kv_content, synthetic_model
from .cycles import Section, check_activity, sections_of

__all__ = ["Measured", "measure_piece", "requests_of"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Measured:
    """What was measured of a step.

    Parameters
    ----------
    piece : :class:`~serrano_sim.bench.cases.Piece`
        What was wanted.
    spans : tuple of (:class:`int`, :class:`int`)
        Position of the first row, and rows, of each sequence.
    sections : list of :class:`~serrano_sim.bench.cycles.Section`
        Its packets, and what was between it and the next step.
    golden : :class:`int` or ``None``
        Elements that equal the golden model's; ``None`` if they were not compared.
    simulated : :class:`int`
        Cycles of the whole simulation.
    seconds : :class:`float`
        How long it took.
    """

    piece: Piece
    spans: tuple[tuple[int, int], ...]
    sections: tuple[Section, ...]
    golden: int | None
    simulated: int
    seconds: float

    @property
    def cycles(self) -> int:
        """From the begin of the step to that of the next one."""
        return sum(section.cycles for section in self.sections)


def requests_of(piece: Piece) -> tuple[list[KVCommand], list[Request], list[Request]]:
    """Commands, requests before the others, and requests by which the step comes about.

    Sequences with committed tokens are opened by the host and adopted; what they have to run of their
    prompts is one token, or more than a step takes. Steps before are of the same requests, which have fewer
    committed tokens then; where there are none yet, they are of a request of its own.
    """
    rng = np.random.default_rng(1)
    commands, before, requests = [], [], []
    fresh = all(span.position == 0 for span in piece.spans)
    settle = 0 if fresh else piece.settle
    if fresh and piece.settle:
        before.append(Request(rng.integers(0, piece.shape.vocab, piece.settle), 1))
    for sequence, span in enumerate(piece.spans):
        single = span.rows == 1
        length = max(0, span.position - settle * span.rows)
        # Requests that are not admitted at once decode meanwhile.
        new = len(piece.spans) + settle + 4 if single else 1
        size = length + (1 if single else (settle + 2) * piece.config.rows_max)
        prompt = rng.integers(0, piece.shape.vocab, size)
        requests.append(Request(prompt, new, adopt=length > 0, sequence=sequence if length else 0))
        if length:
            commands.append(KVCommand(Opcode.OPEN, sequence))
            commands.append(KVCommand(Opcode.APPEND, sequence, argument0=length))
            commands.append(KVCommand(Opcode.COMMIT, sequence, argument0=length))
    return commands, before, requests


def _job(piece: Piece, tape: bytes, expected: float) -> Job:
    commands, before, requests = requests_of(piece)
    phases = [Phase(load=True, commands=tuple(commands), requests=tuple(before or requests))]
    if before:
        phases.append(Phase(requests=tuple(requests)))
    # Those before may look like what is waited for.
    alike = sum(request.max_new for request in before if piece.rows == 1)
    return plan_job(
        piece.config,
        tape,
        [*before, *requests],
        phases=phases,
        memory=MEMORIES[piece.memory],
        kv_blocks=1 + sum(blocks_of(request.tokens) for request in [*before, *requests]),
        activity=True,
        enough=(piece.rows, piece.sampled, 1 + (alike if before else piece.settle)),
        alarm_period=int(min(20_000, max(500, expected / 20))),
    )


def measure_piece(piece: Piece, design: Design, folder: Path, progress: Progress) -> Measured:
    """Simulates a piece.

    Parameters
    ----------
    piece : :class:`~serrano_sim.bench.cases.Piece`
        The step.
    design : :class:`~serrano_sim.top.design.Design`
        The Verilog of its preset.
    folder : path
        A new folder, which is removed if all is well.
    progress : callable
        Called with what is being done, and which share of it is done.

    Raises
    ------
    SimulationError
        If the simulation breaks down, or the step does not come.
    PartitionError
        If the partitions of the cycles do not add up.
    ValueError
        If the step's results are not the golden model's.
    """
    progress("weights", 0)
    _, before, requests = requests_of(piece)
    model = synthetic_model(piece.shape, max(request.tokens for request in [*before, *requests]))
    tape = write_tape(model, piece.config.n, piece.config.tape_align)
    if not piece.golden:
        # Large ones are in the way.
        model = None
    expected = piece.cycles()
    job = _job(piece, tape, expected)
    path = prepare(job, tape, folder)
    memory = load_result(path, tape).memory
    memory.write(job.layout.kv_address, kv_content(piece.shape, job.layout.kv_blocks))
    del memory
    with Simulation(design, path, Options()) as simulation:
        told: tuple[str, float] = ("starting", 0.0)
        for event in simulation.events(0.2):
            if event is not None and event["event"] == "stage":
                told = ("building the simulator" if event["stage"] == "build" else "simulating", 0.0)
            elif event is not None and event["event"] == "progress":
                told = ("simulating", min(1.0, event["cycle"] / (expected * (1 + piece.settle))))
            # Whoever listens may end it.
            progress(*told)
        if failure := simulation.failure():
            raise SimulationError(f"{piece.name}: {failure}")
    measured = _take(load_result(path, tape), piece, model, progress)
    shutil.rmtree(path)
    return measured


def _take(result: JobResult, piece: Piece, model: Model | None, progress: Progress) -> Measured:
    progress("reading the trace", 1)
    steps = result.recording.steps()
    for step in steps:
        if step.faults:
            raise SimulationError(f"{piece.name}: step {step.index} has the faults {step.faults}")
    place = _place(steps, piece)
    step, after = steps[place], steps[place + 1]
    activity = Activity.read(result.cycles, result.folder)
    sections = sections_of(activity, step.begin, after.begin)
    check_activity(activity, steps[: place + 1])
    compared = None
    if model is not None:
        progress("comparing", 1)
        compared = _compare(result, piece, model, steps[: place + 1])
    spans = tuple((span.position, span.rows) for span in step.spans)
    return Measured(piece, spans, tuple(sections), compared, result.cycles, result.seconds)


def _place(steps: list[Step], piece: Piece) -> int:
    """The first step of the form that is wanted, behind those that shall be before it."""
    shape = sorted(span.rows for span in piece.spans)
    _, before, requests = requests_of(piece)
    wanted, run = 1 if before else 1 + piece.settle, 0
    for place, step in enumerate(steps[:-1]):
        fits = sorted(span.rows for span in step.spans) == shape and step.sampled == piece.sampled
        run = run + 1 if fits and min(step.numbers) >= len(before) else 0
        if run == wanted:
            return place
    forms = [f"{step.rows} rows of {len(step.spans)} of {len(requests)} sequences" for step in steps]
    raise SimulationError(f"{piece.name}: there was no step with {piece.rows} rows, only {', '.join(forms)}")


def _compare(result: JobResult, piece: Piece, model: Model, steps: list[Step]) -> int:
    """Follows all steps with the golden model; returns how many elements are equal.

    Raises
    ------
    ValueError
        With the first difference.
    """
    found: list[Result] = []
    layout, requests = result.job.layout, result.job.requests

    def keep(*of_packet: object) -> None:
        keep_result(found, *of_packet)

    decoder = Decoder(model, piece.config.n, layout.kv_blocks, trace=keep)
    decoder.kv.image[:] = kv_content(piece.shape, layout.kv_blocks)
    mirror = Mirror(piece.config, layout.kv_blocks, piece.shape.layers * piece.shape.kv_heads)
    mirror.load()
    for command in result.job.phases[0].commands:
        mirror.command(command)
    fed = {number: list(request.prompt) for number, request in enumerate(requests)}
    count, last = 0, steps[-1].index
    for event in result.recording.events():
        if isinstance(event, Admit):
            admission = mirror.admit(requests[event.number], event.sequence)
            decoder.open(event.sequence, admission.table, admission.length)
        elif isinstance(event, End) and event.sequence is not None:
            mirror.end(requests[event.number], event.sequence)
            decoder.close(event.sequence)
        elif isinstance(event, Step) and event.index <= last:
            found.clear()
            parts = [(span.sequence, fed[span.number][span.position : span.end]) for span in event.spans]
            decoder.step_batch(parts, event.sampled > 0, event.sampled_rows)
            difference, equal = compare_step(event, found, model, piece.config.n)
            if difference is not None:
                raise ValueError(f"{piece.name}: not the golden model's: {difference}")
            count += equal
            tokens = found[-1].values[:, 0] if event.sampled else ()
            for span, token in zip(event.spans, tokens, strict=False):
                fed[span.number].append(int(token))
    return count
