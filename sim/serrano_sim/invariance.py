# SPDX-License-Identifier: Apache-2.0
"""The same requests alone, together, and together in another way: tokens, logits and KV bytes are the same.

``python -m serrano_sim.invariance`` draws cases from consecutive seeds. A case depends on its preset and its
seed alone.
"""

import argparse
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serrano.config import PRESETS, AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode

from .golden.decoder import Decoder
from .golden.model import Model
from .golden.synthetic import random_model, write_tape
from .runner import SimulationError, build_root
from .top.compare import Verdict, agree, check
from .top.job import KVCommand, Later, MemorySettings, Phase
from .top.layout import MemoryLayout, Request, blocks_of
from .top.simulate import JobResult, Options, run_job

__all__ = ["Case", "Outcome", "Use", "draw", "examine", "judge", "main", "run_case"]

CONTEXT = 80
LENGTHS = (1, 1, 2, 3, 4, 5, 7, 11, 15, 16, 17, 18, 23, 30, 31, 32, 33, 40)
NEWS = (1, 1, 2, 3, 5, 6, 9, 14, 16, 17, 21)
TENANT = 5
"""Of all sequences that the host opens."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """A request of a case in one of its runs.

    Parameters
    ----------
    text : :class:`int`
        Which prompt it has: requests with the same number must give the same results.
    request : :class:`~serrano_sim.top.layout.Request`
        The request.
    cancelled : :class:`bool`
        Whether the host cancels it, so that it may end early.
    """

    text: int
    request: Request
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    seed : :class:`int`
        Of the draw.
    model : :class:`~serrano_sim.golden.model.Model`
        The model.
    uses : tuple of :class:`Use`
        All requests, in the order of submission.
    phases : tuple of :class:`~serrano_sim.top.job.Phase`
        What the host does.
    tokens : mapping of :class:`int` to list of :class:`int`
        The tokens of each prompt, by the golden model.
    blocks : :class:`int`
        KV blocks, NULL included.
    memory : :class:`~serrano_sim.top.job.MemorySettings`
        How the memory behaves.
    """

    config: AcceleratorConfig
    seed: int
    model: Model
    uses: tuple[Use, ...]
    phases: tuple[Phase, ...]
    tokens: dict[int, list[int]]
    blocks: int
    memory: MemorySettings

    def __str__(self):
        together = sum(len(phase.requests) > 1 for phase in self.phases)
        return (
            f"{len(self.tokens)} prompts, {len(self.uses)} requests, {together} runs together,"
            f" {self.blocks - 1} blocks, latency {self.memory.read_latency}, stalls {self.memory.stall}"
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case. ``errors`` is empty if all was equal; ``folder`` is kept if it is not."""

    cycles: int = 0
    steps: int = 0
    mixed: int = 0
    """Steps with rows of several requests."""
    positions: int = 0
    """Positions compared between two runs of the accelerator."""
    logits: int = 0
    elements: int = 0
    kv_bytes: int = 0
    errors: list[str] = field(default_factory=list)
    folder: str = ""


def _golden(model: Model, n: int, prompt: Sequence[int], new: int, eos: int | None = None) -> list[int]:
    """The tokens of a prompt when nobody else is served."""
    tokens = Decoder(model, n).generate(prompt, new)
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


class _Draw:
    """Draws a case, phase by phase."""

    def __init__(self, config: AcceleratorConfig, seed: int, prompts: int):
        self.config, self.seed, self.rng = config, seed, random.Random(f"invariance {config.name} {seed}")
        rng = self.rng
        kv_heads = rng.choice((1, 2))
        self.model = random_model(
            seed,
            dim=rng.choice((16, 18, 24)),
            ffn=rng.choice((14, 22)),
            layers=rng.choice((1, 2)),
            heads=kv_heads * rng.choice((1, 2)),
            kv_heads=kv_heads,
            head_dim=8,
            vocab=rng.choice((41, 50)),
            context=CONTEXT,
        )
        self.uses: list[Use] = []
        self.phases: list[Phase] = []
        self.tokens: dict[int, list[int]] = {}
        self.texts: list[Request] = [self._request() for _ in range(prompts)]
        self.step = 400 * len(self.model.layers)

    def _prompt(self, count: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(len(self.model.embedding.codes)) for _ in range(count))

    def _request(self, start: tuple[int, ...] = ()) -> Request:
        """A new prompt that begins so, and what is wanted behind it; its tokens are noted."""
        rng = self.rng
        prompt = start + self._prompt(rng.choice(LENGTHS if not start else LENGTHS[:8]))
        new = min(rng.choice(NEWS), CONTEXT - len(prompt))
        tokens = _golden(self.model, self.config.n, prompt, new)
        eos = rng.choice((None, *tokens, len(self.model.embedding.codes) - 1))
        self.tokens[len(self.tokens)] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
        return Request(prompt, new, eos=eos, tenant=rng.randrange(256))

    def add(self, uses: Sequence[Use], **settings: object) -> None:
        """A phase with these requests."""
        self.uses += uses
        self.phases.append(Phase(requests=tuple(use.request for use in uses), **settings))

    def shuffle(self, blocks: int) -> tuple[KVCommand, ...]:
        """Commands that leave the free blocks in another order."""
        rng, left, commands = self.rng, blocks - 1, []
        sequences = rng.sample(range(self.config.sequences_max), min(3, self.config.sequences_max))
        opened = []
        for sequence in sequences:
            take = min(rng.randrange(1, max(2, left)), CONTEXT // 16, left)
            if take < 1:
                break
            commands += [
                KVCommand(Opcode.OPEN, sequence, TENANT),
                KVCommand(Opcode.ALLOC, sequence, TENANT, 16 * take),
            ]
            left -= take
            opened.append(sequence)
        rng.shuffle(opened)
        return (*commands, *(KVCommand(Opcode.FREE, sequence, TENANT) for sequence in opened))

    def arrivals(self, count: int) -> tuple[int, ...]:
        """When requests come: all at once, or one after another."""
        rng = self.rng
        if rng.random() < 0.3:
            return ()
        span = rng.choice((1, 3, 8)) * count * self.step
        return (0, *sorted(rng.randrange(span) for _ in range(count - 1)))

    def together(self, texts: Sequence[int], commands: Sequence[KVCommand] = (), others: int = 2) -> None:
        """These prompts, and some more that are cancelled, in any order and at any time."""
        rng = self.rng
        uses = [Use(text=text, request=self.texts[text]) for text in texts]
        for _ in range(rng.randrange(others + 1)):
            text = rng.randrange(len(self.texts))
            request = dataclasses.replace(self.texts[text], tenant=rng.randrange(256))
            uses.append(Use(text=text, request=request, cancelled=True))
        rng.shuffle(uses)
        arrivals = self.arrivals(len(uses))
        later = []
        for place, use in enumerate(uses):
            if use.cancelled:
                start = arrivals[place] if arrivals else 0
                later.append(Later(cycles=start + rng.randrange(1, 30 * self.step), cancel=place))
        self.add(uses, commands=tuple(commands), arrivals=arrivals, later=tuple(later))

    def branches(self, plain: Sequence[int]) -> None:
        """A prompt whose sequence is kept; then others go on in it and in a fork, among the plain ones."""
        rng = self.rng
        first, second = rng.sample(range(self.config.sequences_max), 2)
        text = rng.randrange(len(self.texts))
        kept = dataclasses.replace(
            self.texts[text], adopt=True, keep=True, sequence=first, tenant=TENANT, max_new=8
        )
        tokens = _golden(self.model, self.config.n, kept.prompt, 8, kept.eos)
        self.texts.append(kept)
        self.tokens[len(self.tokens)] = tokens
        use = Use(text=len(self.texts) - 1, request=kept)
        self.add([use], commands=(KVCommand(Opcode.OPEN, first, TENANT),))
        held = (*kept.prompt, *tokens[:-1])
        # All of it goes on in one sequence, a part of it in the other.
        length = rng.randrange(1, len(held) + 1)
        grown: list[Use] = []
        for sequence, start in ((first, held), (second, held[:length])):
            request = self._request(start)
            self.texts.append(request)
            # The same alone first, as it was never branched.
            self.add([Use(text=len(self.texts) - 1, request=request)])
            request = dataclasses.replace(request, tenant=TENANT, adopt=True, sequence=sequence)
            grown.append(Use(text=len(self.texts) - 1, request=request))
        commands = [
            KVCommand(Opcode.OPEN, second, TENANT),
            KVCommand(Opcode.FORK, first, TENANT, second),
            KVCommand(Opcode.TRIM, second, TENANT, length),
        ]
        uses = grown + [Use(text=place, request=self.texts[place]) for place in plain]
        rng.shuffle(uses)
        self.add(uses, commands=tuple(commands), arrivals=self.arrivals(len(uses)))


def draw(config: AcceleratorConfig, seed: int, prompts: int = 5) -> Case:
    """The case of a seed."""
    drawn = _Draw(config, seed, prompts)
    rng, plain = drawn.rng, range(prompts)
    need = [blocks_of(request.tokens) for request in drawn.texts]
    # Room for all of them, or so little that some wait for others.
    blocks = 1 + rng.choice((sum(need) + 4 * 5, max(2 * max(need), 15)))
    for text, request in enumerate(drawn.texts):
        drawn.add([Use(text=text, request=request)])
    for _ in range(2):
        drawn.together(plain, drawn.shuffle(blocks))
    drawn.branches(plain)
    drawn.phases[0] = dataclasses.replace(drawn.phases[0], load=True)
    latency, stall = rng.choice((1, 7, 20, 60)), rng.choice((0.0, 0.1, 0.4))
    return Case(
        config=config,
        seed=seed,
        model=drawn.model,
        uses=tuple(drawn.uses),
        phases=tuple(drawn.phases),
        tokens=drawn.tokens,
        blocks=blocks,
        memory=MemorySettings.of(latency, stall, seed),
    )


def _of_use(case: Case, number: int, result: JobResult, status: int) -> str:
    """What is wrong with the tokens of a request; empty if nothing is."""
    use, found = case.uses[number], result.tokens[number]
    expected = case.tokens[use.text]
    where = f"request {number} (prompt {use.text})"
    if status == FaultCode.REQUEST_CANCELLED.value and use.cancelled:
        if found != expected[: len(found)]:
            return f"{where}: tokens {found} before it was cancelled, alone {expected}"
    elif status:
        return f"{where}: it ended with {FaultCode(status).name}"
    elif found != expected:
        return f"{where}: tokens {found}, alone {expected}"
    if use.request.eos in found[:-1]:
        return f"{where}: it goes on after its end-of-sequence token"
    return ""


def examine(case: Case, result: JobResult, verdict: Verdict) -> tuple[list[str], int]:
    """What differs between the runs of the same prompts, and how many positions were compared."""
    errors, positions = [], 0
    statuses = [
        phase.of(number)[-1].status if phase.of(number) else -1
        for number, phase in enumerate(
            found for phase, found in zip(case.phases, result.phases, strict=True) for _ in phase.requests
        )
    ]
    first: dict[int, int] = {}
    for number, use in enumerate(case.uses):
        if statuses[number] < 0:
            errors.append(f"request {number} (prompt {use.text}): it has no completion record")
            continue
        if error := _of_use(case, number, result, statuses[number]):
            errors.append(error)
            continue
        other = first.setdefault(use.text, number)
        if number == other or not verdict.steps[number]:
            continue
        vocab = len(case.model.embedding.codes)
        found = agree(verdict.parts(other), verdict.parts(number), vocab)
        errors += [f"requests {other} and {number}: {problem}" for problem in found.problems]
        positions += found.positions
        length = verdict.admissions[number].length
        fed = len(use.request.prompt) + len(result.tokens[number]) - 1 - length
        if not statuses[number] and found.positions != fed:
            errors.append(f"requests {other} and {number}: {found.positions} positions compared, not {fed}")
    return errors, positions


def judge(case: Case, result: JobResult) -> Outcome:
    """Compares all of a run: with the golden model, and the same prompts with each other."""
    verdict = check(result, case.model)
    errors, positions = list(verdict.errors), 0
    if not errors:
        errors, positions = examine(case, result, verdict)
    if not errors and not verdict.bit_exact:
        errors = ["nothing was compared"]
    steps = [step for step in result.recording.steps() if step.committed]
    return Outcome(
        cycles=result.cycles,
        steps=len(steps),
        mixed=sum(len(step.spans) > 1 for step in steps),
        positions=positions,
        logits=verdict.logits_compared,
        elements=verdict.elements_compared,
        kv_bytes=verdict.kv_bytes_compared,
        errors=errors,
        folder=str(result.folder),
    )


def run_case(case: Case, options: Options | None = None, keep: bool = False) -> Outcome:
    """Runs a case and compares all of it. A run that breaks down is an outcome as well."""
    config, model = case.config, case.model
    tape = write_tape(model, config.n, config.tape_align)
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"invariance-{config.name}-{case.seed}-", dir=runs))
    requests = [use.request for use in case.uses]
    layout = MemoryLayout.plan(tape, requests, kv_blocks=case.blocks)
    peeks = ((layout.kv_address, layout.kv_bytes),)
    phases = [dataclasses.replace(phase, peeks=peeks) for phase in case.phases]
    try:
        result = run_job(
            config, tape, requests, folder, options=options, memory=case.memory, layout=layout, phases=phases
        )
    except SimulationError as error:
        return Outcome(errors=[str(error)], folder=str(folder))
    outcome = judge(case, result)
    if outcome.errors or keep:
        return outcome
    shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(outcome, folder="")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.invariance", description=__doc__)
    parser.add_argument("--preset", default="tiny", choices=list(PRESETS), help="accelerator (default: tiny)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--cases", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--json", type=Path, help="report (default: build/reports/invariance-PRESET.json)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every case was the same in all its runs, else 1."""
    args = arguments(argv)
    config, began = preset(args.preset), time.monotonic()
    entries = []
    for seed in range(args.seed, args.seed + args.cases):
        case = draw(config, seed)
        outcome = run_case(case, Options(timeout=900))
        state = "differs" if outcome.errors else "same"
        print(f"{config.name} {seed}: {state}, {outcome.cycles:,} cycles; {case}", flush=True)
        if outcome.errors:
            again = f"python -m serrano_sim.invariance --preset {config.name} --seed {seed} --cases 1"
            print(f"  {outcome.errors[0]}\n  files: {outcome.folder}\n  again: {again}", flush=True)
        entries.append({"seed": seed, "case": str(case), **dataclasses.asdict(outcome)})
    failed = [entry["seed"] for entry in entries if entry["errors"]]
    names = ("cycles", "steps", "mixed", "positions", "logits", "elements", "kv_bytes")
    totals = {name: sum(entry[name] for entry in entries) for name in names}
    seconds = round(time.monotonic() - began, 1)
    report = {"preset": config.name, "cases": len(entries), "failed": failed, **totals, "seconds": seconds}
    file = args.json or build_root() / "reports" / f"invariance-{config.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report | {"runs": entries}, indent=2) + "\n")
    figures = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in totals.items())
    print(f"{len(entries)} cases, {len(failed)} failed; {figures}; {seconds} s")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
