# SPDX-License-Identifier: Apache-2.0
"""A checkpoint generates text on the accelerator's RTL, checked against the golden model: `make sim`."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from serrano.config import PRESETS, AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano_host.checkpoints import Checkpoint, open_checkpoint
from serrano_host.compile import Geometry, compile_tape, write_atomically
from serrano_host.errors import SerranoError
from serrano_host.quantize import quantize
from serrano_host.tape import Descriptor, head_pad

from .golden.model import Model
from .golden.tape import load_model
from .runner import SimulationError, build_root
from .timeline import write_timeline
from .top.compare import Agreement, Progress, Verdict, agree, check
from .top.design import Design, source_key, top_design
from .top.display import Display
from .top.figures import Figures, figures
from .top.job import MemorySettings
from .top.layout import Request, blocks_of
from .top.limits import limits_of, misfits
from .top.prefix import (
    ALONE,
    SECOND,
    Method,
    PrefixPlan,
    blocks_needed,
    golden_tokens,
    plan_prefix,
    reused_tokens,
)
from .top.report import build_report, request_report, show_summary
from .top.savings import counters_before, savings
from .top.simulate import JobResult, Options, Simulation, load_result, plan_job, prepare

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "jargon"
PROMPT, OTHER_PROMPT = ":kludge:", "Once upon a time"
STALL = 0.1
LATENCY_MAX = 100_000
# Seconds after which a build is not one that was there already.
BUILD_PATIENCE = 2.0

DesignSource = Callable[[AcceleratorConfig, Callable[[], None]], Design]


class InputError(SerranoError):
    """What was asked for cannot be done."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with the request that follows from it."""

    text: str
    request: Request


@dataclass(frozen=True)
class Task:
    """What is to be generated, checked as far as it can be before anything runs."""

    config: AcceleratorConfig
    checkpoint: Checkpoint
    prompts: tuple[Prompt, ...]
    memory: MemorySettings
    seed: int | None
    waves: bool
    trace: bool


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.run", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint (default: models/jargon)")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer, if it is not beside it")
    parser.add_argument("--prompt", help=f"text to go on from (default for our own model: {PROMPT!r})")
    parser.add_argument("--prompt-ids", help="token ids instead, separated by blanks or commas")
    parser.add_argument("--prompt2", help="second text, which uses KV blocks of the first as far as it can")
    parser.add_argument("--prompt2-ids", help="its token ids instead")
    parser.add_argument("--tokens", type=int, default=32, help="how many to generate (default: 32)")
    parser.add_argument("--preset", default="base", help=f"{', '.join(PRESETS)} (default: base)")
    parser.add_argument(
        "--latency", type=int, default=60, help="cycles from a request of memory to its answer (default: 60)"
    )
    parser.add_argument("--seed", type=int, help="random stalls on all channels of memory, from this seed")
    parser.add_argument("--waves", action="store_true", help="write waveforms")
    parser.add_argument("--trace", action="store_true", help="write timeline.json beside the report")
    parser.add_argument("--json", type=Path, help="report (default: build/reports/sim.json)")
    return parser.parse_args(argv)


# Before anything runs


def prompt_tokens(
    option: str, name: str, text: str | None, ids: str | None, checkpoint: Checkpoint
) -> tuple[str, list[int]]:
    """Text and token ids of a prompt, from its text or from the ids of an option; ``name`` in messages."""
    if ids is not None:
        try:
            tokens = [int(word, 0) for word in ids.replace(",", " ").split()]
        except ValueError as error:
            raise InputError(f"{option} takes token ids, not {ids!r}") from error
        text = checkpoint.tokenizer().decode([i for i in tokens if 0 <= i < checkpoint.vocab])
    else:
        tokens = checkpoint.tokenizer().encode(text) if text else []
    if not tokens:
        raise InputError(f"{name} is empty; give some text to go on from")
    for token in tokens:
        if not 0 <= token < checkpoint.vocab:
            raise InputError(f"token {token} of {name} is outside the vocabulary of {checkpoint.vocab}")
    return text or "", tokens


def read_prompts(args: argparse.Namespace, checkpoint: Checkpoint) -> list[tuple[str, str, list[int]]]:
    """Of each prompt what it is called in messages, its text and its token ids."""
    first = args.prompt
    if first is None:
        first = PROMPT if args.model.resolve() == MODEL else OTHER_PROMPT
    given = [("--prompt-ids", "the prompt", first, args.prompt_ids)]
    if args.prompt2 is not None or args.prompt2_ids is not None:
        given.append(("--prompt2-ids", "PROMPT2", args.prompt2, args.prompt2_ids))
    return [(name, *prompt_tokens(option, name, text, ids, checkpoint)) for option, name, text, ids in given]


def check_model(config: AcceleratorConfig, checkpoint: Checkpoint) -> None:
    """The model fits the accelerator."""
    names = "dim ffn heads kv_heads vocab".split()
    model = SimpleNamespace(
        n=config.n,
        align=config.tape_align,
        head_pad=head_pad(checkpoint.head_dim, config.n),
        **{name: getattr(checkpoint, name) for name in names},
    )
    if found := misfits(model, limits_of(config)):
        raise InputError(f"{checkpoint.name} does not fit preset {config.name!r}: {'; '.join(found)}")


def check_size(
    config: AcceleratorConfig, checkpoint: Checkpoint, name: str, prompt: int, wanted: int
) -> None:
    """A prompt and its continuation fit the context."""
    whose, context = "model", checkpoint.context
    if config.context_max < context:
        whose, context = f"preset {config.name!r}", config.context_max
    if prompt > context:
        raise InputError(f"{name} has {prompt} tokens and does not fit the context of the {whose}, {context}")
    if prompt + wanted > context:
        raise InputError(
            f"{name} has {prompt} tokens; with {wanted} more they do not fit the context of the {whose},"
            f" {context}"
        )


def check_blocks(config: AcceleratorConfig, checkpoint: Checkpoint, requests: Sequence[Request]) -> None:
    """There are enough KV blocks."""
    blocks, what = 1 + blocks_of(requests[0].tokens), ""
    if len(requests) > 1:
        first, second = requests
        reused = reused_tokens(first.prompt, second.prompt, checkpoint.bos)
        blocks, what = blocks_needed(first, second, reused), " for the prompt and PROMPT2"
    if blocks > config.blocks_max:
        raise InputError(
            f"{blocks} KV blocks are needed{what}, blocks_max of {config.name} is {config.blocks_max}"
        )


def prepare_task(args: argparse.Namespace) -> Task:
    """Checks all that was given.

    Raises
    ------
    SerranoError
        Naming what is wrong.
    """
    try:
        config = preset(args.preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    if args.tokens < 1:
        raise InputError(f"TOKENS must be at least 1, not {args.tokens}")
    if not 1 <= args.latency <= LATENCY_MAX:
        raise InputError(f"LATENCY must be from 1 to {LATENCY_MAX} cycles, not {args.latency}")
    checkpoint = open_checkpoint(args.model, args.tokenizer)
    check_model(config, checkpoint)
    prompts = []
    for name, text, ids in read_prompts(args, checkpoint):
        check_size(config, checkpoint, name, len(ids), args.tokens)
        prompts.append(Prompt(text, Request(tuple(ids), args.tokens, checkpoint.eos)))
    check_blocks(config, checkpoint, [prompt.request for prompt in prompts])
    return Task(
        config=config,
        checkpoint=checkpoint,
        prompts=tuple(prompts),
        memory=MemorySettings.of(args.latency, 0.0 if args.seed is None else STALL, args.seed or 0),
        seed=args.seed,
        waves=args.waves,
        trace=args.trace,
    )


def checkpoint_key(path: Path) -> str:
    """A key for what a checkpoint holds."""
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".safetensors")]
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def compiled_tape(
    checkpoint: Checkpoint, config: AcceleratorConfig, waiting: Callable[[], None] = lambda: None
) -> bytes:
    """The tape of a checkpoint, kept in ``build/tapes``."""
    parts = (checkpoint_key(Path(checkpoint.path)), str(config.n), str(config.tape_align))
    key = source_key("serrano_host", parts=parts)
    file = build_root() / "tapes" / f"n{config.n}-{key}.tape"
    if file.exists():
        return file.read_bytes()
    waiting()
    image = compile_tape(quantize(checkpoint), Geometry(config.n, config.tape_align))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, image)
    return image


# The run


def plan_second(task: Task, model: Model) -> PrefixPlan | None:
    """What the host does for two prompts; ``None`` for one."""
    if len(task.prompts) == 1:
        return None
    first, second = (prompt.request for prompt in task.prompts)
    made = [len(golden_tokens(model, task.config.n, request)) for request in (first, second)]
    return plan_prefix(task.config, first, second, (made[0], made[1]), task.checkpoint.bos)


def prefix_text(plan: PrefixPlan) -> str:
    """The common prefix for people."""
    if plan.method is Method.NOTHING:
        if plan.common == 0:
            why = "none, not even the first token is the same"
        elif plan.common == 1 and len(plan.requests[SECOND].prompt) > 1:
            why = "none, only the bos token is the same"
        else:
            why = "one token, which is all that PROMPT2 has"
        return f"common prefix: {why}; the second prompt runs with nothing shared"
    text = f"common prefix: {plan.common:,} tokens"
    if plan.reused < plan.common:
        text += f", of which the second prompt has to compute the last one; {plan.reused:,} are shared"
    return f"{text} ({plan.method.value})"


class Watcher:
    """Follows a run's events on the display."""

    def __init__(self, display: Display, task: Task, plan: PrefixPlan | None, tape: bytes):
        self.display = display
        prompts = task.prompts
        requests = [prompts[0].request] if plan is None else list(plan.requests)
        reused = plan.reused if plan else 0
        texts, titles = [prompts[0].text], [""]
        if plan:
            texts += 2 * [prompts[1].text]
            titles = ["first prompt", f"second prompt, {reused:,} tokens shared", "second prompt alone"]
        skipped = [0, reused, 0]
        self.requests = list(zip(requests, texts, titles, skipped, strict=False))
        self.tokenizer = task.checkpoint.tokenizer()
        d = Descriptor.unpack(tape[:256])
        # Cycles of a step until tokens come: the tape's bytes, and some time for what cannot overlap.
        self.step = (d.program_end - d.program_offset) / task.config.port_bytes
        self.step += d.packets * (task.memory.read_latency / 4 + 100)
        self.rows = task.config.rows_max
        self.number = -1
        self.start: tuple[int, float] | None = None
        self.begin = 0
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self.building: float | None = None
        self._next_request()

    @property
    def doorbell(self) -> bool:
        """Whether a request has been submitted."""
        return self.start is not None

    def _next_request(self) -> None:
        self.number += 1
        self.request, text, title, self.skipped = self.requests[self.number]
        self.stream = self.tokenizer.decode_stream(self.request.prompt)
        self.tokens = []
        self.texts.append("")
        self.display.begin(text, self.request.max_new, title)

    def event(self, event: dict[str, Any]) -> None:
        """Takes an event."""
        match event["event"]:
            case "stage" if event["stage"] == "build":
                self.building = time.monotonic()
            case "stage":
                self.building = None
                self.display.stage("loading the tape")
            case "doorbell":
                if self.start is None:
                    self.start = event["cycle"], event["seconds"]
                else:
                    self._next_request()
                self.begin = event["cycle"]
                rest = f", {self.skipped} of them shared" if self.skipped else ""
                self.display.stage(f"reading the prompt, {len(self.request.prompt)} tokens{rest}")
            case "progress":
                self.display.progress(event["cycle"], *self._rate(event))
            case "completion" if event["record"]["token"] is not None:
                self.tokens.append(event["cycle"])
                piece = self.stream.push(event["record"]["token"])
                self.texts[-1] += piece
                self.display.token(piece, event["cycle"], *self._rate(event))
            case "phase":
                self.texts[-1] += self.stream.finish()

    def idle(self) -> None:
        """Nothing has happened for a moment."""
        if self.building is not None and time.monotonic() - self.building > BUILD_PATIENCE:
            self.building = None
            self.display.stage("building the simulation (a few minutes the first time)")

    def _steps(self, request: Request, skipped: int) -> int:
        return -(-(len(request.prompt) - skipped) // self.rows) + request.max_new - 1

    def _rate(self, event: dict[str, Any]) -> tuple[float, float | None]:
        """Cycles per second so far, and the seconds that the rest will take."""
        if self.start is None:
            return 0.0, None
        cycles, seconds = event["cycle"] - self.start[0], event["seconds"] - self.start[1]
        if seconds <= 0 or cycles <= 0:
            return 0.0, None
        if len(self.tokens) > 1:
            self.step = (self.tokens[-1] - self.tokens[0]) / (len(self.tokens) - 1)
            left = self.step * (self.request.max_new - len(self.tokens))
        else:
            left = self.step * self._steps(self.request, self.skipped) - (event["cycle"] - self.begin)
        following = self.requests[self.number + 1 :]
        left = max(0.0, left) + self.step * sum(self._steps(one[0], one[3]) for one in following)
        rate = cycles / seconds
        return rate, left / rate


def simulate(
    task: Task, plan: PrefixPlan | None, tape: bytes, design: Design, console: Console, folder: Path
) -> tuple[JobResult, list[str]]:
    """Runs the task and returns what came of it, and the text of each request.

    Raises
    ------
    SimulationError
        If the simulation breaks down.
    """
    settings: dict[str, Any] = {"memory": task.memory, "activity": task.trace}
    if plan is None:
        job = plan_job(task.config, tape, [task.prompts[0].request], **settings)
    else:
        settings |= {"phases": plan.phases, "kv_blocks": plan.kv_blocks}
        job = plan_job(task.config, tape, plan.requests, **settings)
    if job.layout.size > 1 << task.config.address_bits:
        raise InputError(
            f"tape and KV memory need {job.layout.size:,} bytes; preset {task.config.name!r} has addresses"
            f" of {task.config.address_bits} bits"
        )
    prepare(job, tape, folder)
    with (
        Display(console) as display,
        Simulation(design, folder, Options(waves=task.waves, seed=task.seed or 1)) as simulation,
    ):
        watcher = Watcher(display, task, plan, tape)
        for event in simulation.events():
            if event is None:
                watcher.idle()
            else:
                watcher.event(event)
        if failure := simulation.failure():
            raise SimulationError(failure)
    return load_result(folder, tape), watcher.texts


def judge(
    result: JobResult, model: Model, progress: Progress = lambda done, total: None
) -> tuple[Verdict, list[Figures | None]]:
    """Compares with the golden model and computes each request's figures. Faults are in the verdict."""
    verdict = check(result, model, progress)
    for phase in result.phases:
        ends = [record.status for _, record in phase.completions if record.status]
        for status in dict.fromkeys([*ends, phase.registers["FAULT_CODE"]]):
            if status:
                verdict.faults.append(fault_text(status, phase.registers))
    # There is one request in each phase that has any.
    served = [index for index, phase in enumerate(result.job.phases) if phase.requests]
    found: list[Figures | None] = []
    for request, phase in enumerate(served):
        steps = verdict.steps[request] if request < len(verdict.steps) else []
        found.append(None)
        if any(step.sampled for step in steps) and all(step.counters for step in steps):
            start = counters_before(result, phase)
            found[-1] = figures(steps, Descriptor.unpack(result.tape[:256]), result.job.config, start)
    return verdict, found


def compare_alone(result: JobResult, verdict: Verdict, vocab: int) -> Agreement:
    """Compares both runs of the second prompt with each other; what differs is added to the verdict."""
    agreement = Agreement()
    if len(verdict.steps) > ALONE:
        agreement = agree(verdict.parts(SECOND), verdict.parts(ALONE), vocab)
    problems = list(agreement.problems)
    if result.tokens[SECOND] != result.tokens[ALONE]:
        problems.append(f"tokens {result.tokens[SECOND]} are not {result.tokens[ALONE]}")
    verdict.problems += [f"second prompt with blocks of the first and alone: {text}" for text in problems]
    return agreement


def fault_text(code: int, registers: dict[str, int]) -> str:
    """A fault for people, with what the registers say about it."""
    names = {fault.value: fault.name for fault in FaultCode}
    text = f"the accelerator reports the fault {names.get(code, 'unknown')} ({code:#04x})"
    if registers["FAULT_CODE"] == code:
        address = registers["FAULT_ADDRESS_LO"] | registers["FAULT_ADDRESS_HI"] << 32
        text += f", packet {registers['FAULT_PACKET']}, detail {registers['FAULT_DETAIL']:#x}"
        text += f", address {address:#x}"
    return text


def introduce(console: Console, task: Task) -> None:
    """Says what is going to happen."""
    c, config, checkpoint = task.memory, task.config, task.checkpoint
    stalls = "" if task.seed is None else f", random stalls from seed {task.seed}"
    console.print(
        f"[bold]{checkpoint.name}[/]: {checkpoint.parameters:,} parameters, {len(checkpoint.layers)} layers,"
        f" dim {checkpoint.dim}, {checkpoint.heads} heads on {checkpoint.kv_heads}, vocabulary"
        f" {checkpoint.vocab:,}",
        highlight=False,
    )
    console.print(
        f"[bold]{config.name}[/]: {config.n} x {config.n} array, {config.port_bytes} bytes per cycle from"
        f" memory, latency {c.read_latency}{stalls}",
        highlight=False,
    )


def run(args: argparse.Namespace, console: Console, source: DesignSource) -> int:
    """The whole of it; returns the exit status."""
    task = prepare_task(args)
    introduce(console, task)
    with console.status("compiling the tape"):
        tape = compiled_tape(task.checkpoint, task.config, lambda: _say(console, "compiling the tape"))
    with console.status("generating the Verilog"):
        design = source(task.config, lambda: _say(console, "generating the Verilog"))
    model = load_model(tape)
    with console.status("asking the golden model how long the texts become"):
        plan = plan_second(task, model)
    if plan:
        console.print(prefix_text(plan), highlight=False)
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"sim-{task.config.name}-", dir=runs))
    keep, failure = task.waves, ""
    file = args.json or build_root() / "reports" / "sim.json"
    timeline = file.parent / "timeline.json"
    report = _Report(task, plan)
    verdict = report.verdict
    try:
        result, report.texts = simulate(task, plan, tape, design, console, folder)
        if task.trace:
            write_timeline(result, timeline)
        with console.status("comparing with the golden model") as status:
            verdict, report.figures = judge(
                result, model, lambda i, n: status.update(f"comparing with the golden model: step {i} of {n}")
            )
        report.result, report.verdict = result, verdict
        if plan:
            agreement = compare_alone(result, verdict, model.vocab)
            report.prefix = savings(result, verdict, plan, agreement, Descriptor.unpack(tape[:256]))
        keep = keep or bool(verdict.errors)
    except SimulationError as error:
        keep, failure = True, str(error)
        verdict.violations.append(failure.partition("\n")[0])
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    values = report.build()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n")
    if failure:
        print(f"sim: the simulation failed: {failure}", file=sys.stderr)
        return 1
    show_summary(console, values)
    if task.trace:
        console.print(f"timeline: {timeline}", highlight=False)
    if keep:
        console.print(f"files of the run: {folder}", highlight=False)
    return 0 if verdict.bit_exact and not verdict.errors else 1


def _say(console: Console, text: str) -> None:
    if not console.is_terminal:
        console.print(text)


class _Report:
    """What has become of a run so far, and the report that follows from it."""

    def __init__(self, task: Task, plan: PrefixPlan | None):
        self.task = task
        self.prompts = task.prompts if plan is None else (*task.prompts, task.prompts[1])
        self.verdict = Verdict()
        self.figures: list[Figures | None] = []
        self.texts: list[str] = []
        self.result: JobResult | None = None
        self.prefix: dict[str, Any] | None = None

    def build(self) -> dict[str, Any]:
        """The contents of the file."""
        task, verdict = self.task, self.verdict
        names = ["logits_compared", "elements_compared", "kv_bytes_compared"]
        return build_report(
            task.config,
            model=task.checkpoint.name,
            requests=[self._request(number) for number in range(len(self.prompts))],
            bit_exact=verdict.bit_exact,
            errors=verdict.errors,
            compared={name: getattr(verdict, name) for name in names},
            settings={"latency": task.memory.read_latency, "seed": task.seed},
            prefix=self.prefix,
        )

    def _request(self, number: int) -> dict[str, Any]:
        prompt, result = self.prompts[number], self.result
        return request_report(
            prompt=prompt.text,
            prompt_tokens=len(prompt.request.prompt),
            tokens=result.tokens[number] if result else [],
            text=self.texts[number] if number < len(self.texts) else "",
            figures=self.figures[number] if number < len(self.figures) else None,
            blocks_peak=result.phases[number].registers["KV_PEAK"] if result else None,
            run=self._run(result, number) if result else {},
        )

    def _run(self, result: JobResult, number: int) -> dict[str, Any]:
        """The run of a request from its doorbell to its last completion."""
        bells = [event for event in result.events if event["event"] == "doorbell"]
        ends = [e for e in result.events if e["event"] == "completion" and e["record"]["id"] == number]
        phase = result.phases[number]
        cycles, seconds = phase.end - phase.begin, ends[-1]["seconds"] - bells[number]["seconds"]
        steps = self.verdict.steps
        return {
            "cycles": cycles,
            "seconds": round(seconds, 3),
            "cycles_per_second": round(cycles / seconds) if seconds > 0 else 0,
            "steps": len(steps[number]) if number < len(steps) else 0,
        }


def main(argv: Sequence[str] | None = None, source: DesignSource = top_design) -> int:
    """Exit status: 0 if all is bit exact, 1 if not or if the run failed, 2 for wrong input.

    ``source`` gives the accelerator's Verilog.
    """
    args = arguments(argv)
    try:
        console = Console()
        return run(args, console if console.is_terminal else Console(width=110), source)
    except SerranoError as error:
        print(f"sim: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sim: interrupted; the simulation was stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
