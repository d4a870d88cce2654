# SPDX-License-Identifier: Apache-2.0
"""A checkpoint generates text on the accelerator's RTL, checked against the golden model: `make sim`."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
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

from .golden.tape import load_model
from .runner import SimulationError, build_root
from .top.compare import Progress, Verdict, check
from .top.design import Design, source_key, top_design
from .top.display import Display
from .top.figures import Figures, figures
from .top.job import MemorySettings
from .top.layout import Request, blocks_of
from .top.limits import limits_of, misfits
from .top.report import build_report, show_summary
from .top.simulate import JobResult, Options, Simulation, load_result, plan_job, prepare

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "jargon"
PROMPT, OTHER_PROMPT = ":kludge:", "Once upon a time"
STALL = 0.1
LATENCY_MAX = 100_000

DesignSource = Callable[[AcceleratorConfig, Callable[[], None]], Design]


class InputError(SerranoError):
    """What was asked for cannot be done."""


@dataclass(frozen=True)
class Task:
    """What is to be generated, checked as far as it can be before anything runs."""

    config: AcceleratorConfig
    checkpoint: Checkpoint
    prompt: str
    request: Request
    memory: MemorySettings
    seed: int | None
    waves: bool


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.run", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint (default: models/jargon)")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer, if it is not beside it")
    parser.add_argument("--prompt", help=f"text to go on from (default for our own model: {PROMPT!r})")
    parser.add_argument("--prompt-ids", help="token ids instead, separated by blanks or commas")
    parser.add_argument("--tokens", type=int, default=32, help="how many to generate (default: 32)")
    parser.add_argument("--preset", default="base", help=f"{', '.join(PRESETS)} (default: base)")
    parser.add_argument(
        "--latency", type=int, default=60, help="cycles from a request of memory to its answer (default: 60)"
    )
    parser.add_argument("--seed", type=int, help="random stalls on all channels of memory, from this seed")
    parser.add_argument("--waves", action="store_true", help="write waveforms")
    parser.add_argument("--json", type=Path, help="report (default: build/reports/sim.json)")
    return parser.parse_args(argv)


# Before anything runs


def prompt_tokens(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[str, list[int]]:
    """Text and token ids of the prompt."""
    if args.prompt_ids is not None:
        try:
            ids = [int(word, 0) for word in args.prompt_ids.replace(",", " ").split()]
        except ValueError as error:
            raise InputError(f"--prompt-ids takes token ids, not {args.prompt_ids!r}") from error
        text = checkpoint.tokenizer().decode([i for i in ids if 0 <= i < checkpoint.vocab])
    else:
        text = args.prompt
        if text is None:
            text = PROMPT if args.model.resolve() == MODEL else OTHER_PROMPT
        ids = checkpoint.tokenizer().encode(text) if text else []
    if not ids:
        raise InputError("the prompt is empty; give some text to go on from")
    for token in ids:
        if not 0 <= token < checkpoint.vocab:
            raise InputError(f"token {token} of the prompt is outside the vocabulary of {checkpoint.vocab}")
    return text, ids


def check_size(config: AcceleratorConfig, checkpoint: Checkpoint, prompt: int, wanted: int) -> None:
    """The model fits the accelerator, the prompt and its continuation fit the context."""
    names = "dim ffn heads kv_heads vocab".split()
    model = SimpleNamespace(
        n=config.n,
        align=config.tape_align,
        head_pad=head_pad(checkpoint.head_dim, config.n),
        **{name: getattr(checkpoint, name) for name in names},
    )
    if found := misfits(model, limits_of(config)):
        raise InputError(f"{checkpoint.name} does not fit preset {config.name!r}: {'; '.join(found)}")
    whose, context = "model", checkpoint.context
    if config.context_max < context:
        whose, context = f"preset {config.name!r}", config.context_max
    if prompt > context:
        raise InputError(
            f"the prompt has {prompt} tokens and does not fit the context of the {whose}, {context}"
        )
    if prompt + wanted > context:
        raise InputError(
            f"the prompt has {prompt} tokens; with {wanted} more they do not fit the context of the {whose},"
            f" {context}"
        )
    if (blocks := 1 + blocks_of(prompt + wanted)) > config.blocks_max:
        raise InputError(f"{blocks} KV blocks are needed, blocks_max of {config.name} is {config.blocks_max}")


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
    prompt, ids = prompt_tokens(args, checkpoint)
    check_size(config, checkpoint, len(ids), args.tokens)
    return Task(
        config=config,
        checkpoint=checkpoint,
        prompt=prompt,
        request=Request(tuple(ids), args.tokens, checkpoint.eos),
        memory=MemorySettings.of(args.latency, 0.0 if args.seed is None else STALL, args.seed or 0),
        seed=args.seed,
        waves=args.waves,
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


class Watcher:
    """Follows a run's events on the display."""

    def __init__(self, display: Display, task: Task, tape: bytes):
        self.display, self.task = display, task
        self.stream = task.checkpoint.tokenizer().decode_stream(task.request.prompt)
        d = Descriptor.unpack(tape[:256])
        # Until tokens come: the tape's bytes, and some time for what cannot overlap.
        step = (d.program_end - d.program_offset) / task.config.port_bytes
        step += d.packets * (task.memory.read_latency / 4 + 100)
        self.expected = step * (len(task.request.prompt) + task.request.max_new - 1)
        self.begin = (0, 0.0)
        self.tokens: list[tuple[int, int]] = []
        self.text = ""
        self.doorbell = False

    def event(self, event: dict[str, Any]) -> None:
        """Takes an event."""
        match event["event"]:
            case "stage" if event["stage"] == "build":
                self.display.stage("building the simulation (a few minutes the first time)")
            case "stage":
                self.display.stage("loading the tape")
            case "doorbell":
                self.begin = event["cycle"], event["seconds"]
                self.doorbell = True
                self.display.stage(f"reading the prompt, {len(self.task.request.prompt)} tokens")
            case "progress":
                self.display.progress(event["cycle"], *self._rate(event))
            case "completion" if event["record"]["token"] is not None:
                self.tokens.append((event["cycle"], event["record"]["token"]))
                piece = self.stream.push(event["record"]["token"])
                self.text += piece
                self.display.token(piece, event["cycle"], *self._rate(event))
            case "phase":
                self.text += self.stream.finish()

    def _rate(self, event: dict[str, Any]) -> tuple[float, float | None]:
        """Cycles per second so far, and the seconds that the rest will take."""
        cycles, seconds = event["cycle"] - self.begin[0], event["seconds"] - self.begin[1]
        if seconds <= 0 or cycles <= 0:
            return 0.0, None
        left = self.expected - cycles
        if len(self.tokens) > 1:
            (first, _), (last, _) = self.tokens[0], self.tokens[-1]
            per_token = (last - first) / (len(self.tokens) - 1)
            left = per_token * (self.task.request.max_new - len(self.tokens))
        rate = cycles / seconds
        return rate, max(0.0, left) / rate


def simulate(
    task: Task, tape: bytes, design: Design, console: Console, folder: Path
) -> tuple[JobResult, str]:
    """Runs the task and returns what came of it, and the text.

    Raises
    ------
    SimulationError
        If the simulation breaks down.
    """
    job = plan_job(task.config, tape, (task.request,), memory=task.memory)
    if job.layout.size > 1 << task.config.address_bits:
        raise InputError(
            f"tape and KV memory need {job.layout.size:,} bytes; preset {task.config.name!r} has addresses"
            f" of {task.config.address_bits} bits"
        )
    prepare(job, tape, folder)
    with (
        Display(console, task.prompt, task.request.max_new) as display,
        Simulation(design, folder, Options(waves=task.waves, seed=task.seed or 1)) as simulation,
    ):
        watcher = Watcher(display, task, tape)
        for event in simulation.events():
            if event is not None:
                watcher.event(event)
        if failure := simulation.failure():
            raise SimulationError(failure)
    return load_result(folder, tape), watcher.text


def judge(
    result: JobResult, tape: bytes, progress: Progress = lambda done, total: None
) -> tuple[Verdict, Figures | None]:
    """Compares with the golden model and computes the figures. Faults are in the verdict."""
    verdict = check(result, load_model(tape), progress)
    phase = result.phases[-1]
    ends = [record.status for _, record in phase.completions if record.status]
    for status in dict.fromkeys([*ends, phase.registers["FAULT_CODE"]]):
        if status:
            verdict.faults.append(fault_text(status, phase.registers))
    found = None
    steps = verdict.steps[0] if verdict.steps else []
    if any(step.sample for step in steps) and all(step.counters for step in steps):
        found = figures(steps, Descriptor.unpack(tape[:256]), result.job.config)
    return verdict, found


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
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"sim-{task.config.name}-", dir=runs))
    keep, failure = task.waves, ""
    verdict, found, text, result = Verdict(), None, "", None
    try:
        result, text = simulate(task, tape, design, console, folder)
        with console.status("comparing with the golden model") as status:
            verdict, found = judge(
                result, tape, lambda i, n: status.update(f"comparing with the golden model: step {i} of {n}")
            )
        keep = keep or bool(verdict.errors)
    except SimulationError as error:
        keep, failure = True, str(error)
        verdict.violations.append(failure.partition("\n")[0])
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    report = _report(task, verdict, found, text, result)
    file = args.json or build_root() / "reports" / "sim.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    if failure:
        print(f"sim: the simulation failed: {failure}", file=sys.stderr)
        return 1
    show_summary(console, report)
    if keep:
        console.print(f"files of the run: {folder}", highlight=False)
    return 0 if verdict.bit_exact and not verdict.errors else 1


def _say(console: Console, text: str) -> None:
    if not console.is_terminal:
        console.print(text)


def _report(
    task: Task, verdict: Verdict, found: Figures | None, text: str, result: JobResult | None
) -> dict[str, Any]:
    run: dict[str, Any] = {}
    tokens: list[int] = []
    peak = None
    if result is not None:
        bell = next(event for event in result.events if event["event"] == "doorbell")
        phase = result.phases[-1]
        last = next(event for event in reversed(result.events) if event["event"] == "completion")
        cycles, seconds = phase.end - phase.begin, last["seconds"] - bell["seconds"]
        run = {
            "cycles": cycles,
            "seconds": round(seconds, 3),
            "cycles_per_second": round(cycles / seconds) if seconds > 0 else 0,
            "steps": len(verdict.steps[0]) if verdict.steps else 0,
        }
        tokens, peak = result.tokens[0], phase.registers["KV_PEAK"]
    names = ("logits_compared", "elements_compared", "kv_bytes_compared")
    return build_report(
        task.config,
        model=task.checkpoint.name,
        prompt=task.prompt,
        prompt_tokens=len(task.request.prompt),
        tokens=tokens,
        text=text,
        bit_exact=verdict.bit_exact,
        errors=verdict.errors,
        figures=found,
        compared={name: getattr(verdict, name) for name in names},
        blocks_peak=peak,
        settings={"latency": task.memory.read_latency, "seed": task.seed},
        run=run,
    )


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
