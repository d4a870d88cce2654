# SPDX-License-Identifier: Apache-2.0
"""Random models, requests and memories on the accelerator's RTL, each compared with the golden model.

``python -m serrano_sim.soak`` draws cases from consecutive seeds. A case depends on its preset and its seed
alone, so that the line which reports a failure is all that is needed to have it again.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serrano.config import PRESETS, AcceleratorConfig, preset

from .golden.synthetic import random_model, write_tape
from .golden.tape import head_pad
from .runner import SimulationError, build_root
from .top.compare import check
from .top.job import MemorySettings
from .top.layout import Request
from .top.simulate import Options, run_job

__all__ = ["Case", "Outcome", "draw", "main", "run_case"]

HEAD_DIMS = (2, 6, 8, 12, 16, 18, 20, 24, 32, 34, 48, 50, 64, 66, 80, 96, 100, 112, 128)
GROUPS = (1, 1, 2, 3, 4, 4, 5, 8, 8, 16)
LATENCIES = (1, 2, 7, 60, 60, 200, 333)
STALLS = (0.0, 0.0, 0.1, 0.3, 0.6)
# Tokens of a request: most end just before, at or behind the border of a block.
LENGTHS = (2, 9, 15, 16, 17, 18, 31, 32, 33, 34, 48, 49)
# Cycles that the weights alone may take in a case.
CYCLES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run.

    Parameters
    ----------
    preset : :class:`str`
        The accelerator.
    seed : :class:`int`
        Of the draw, and of the model's weights.
    model : dict
        Arguments of :func:`~serrano_sim.golden.synthetic.random_model`.
    requests : tuple of :class:`~serrano_sim.top.layout.Request`
        Submitted together.
    memory : :class:`~serrano_sim.top.job.MemorySettings`
        How the memory behaves.
    """

    preset: str
    seed: int
    model: dict[str, int]
    requests: tuple[Request, ...]
    memory: MemorySettings

    @property
    def rows(self) -> int:
        """Tokens that go through the model."""
        return sum(request.tokens - 1 for request in self.requests)

    def __str__(self):
        m, memory = self.model, self.memory
        lengths = ", ".join(f"{len(request.prompt)}+{request.max_new}" for request in self.requests)
        stall = f", stalls {memory.stall}" if memory.stall else ""
        return (
            f"dim {m['dim']}, ffn {m['ffn']}, layers {m['layers']}, heads {m['heads']}/{m['kv_heads']}"
            f" of {m['head_dim']}, vocab {m['vocab']}; tokens {lengths};"
            f" latency {memory.read_latency}/{memory.write_latency}{stall}"
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case. ``errors`` is empty if all was equal; ``folder`` is kept if it is not."""

    cycles: int = 0
    tokens: int = 0
    elements: int = 0
    logits: int = 0
    kv_bytes: int = 0
    errors: list[str] = field(default_factory=list)
    folder: str = ""


def _heads(config: AcceleratorConfig, rng: random.Random) -> tuple[int, int, int]:
    """Head dimension, query heads and KV heads that fit the accelerator."""
    while True:
        head_dim, group, kv_heads = rng.choice(HEAD_DIMS), rng.choice(GROUPS), rng.choice((1, 1, 2, 3, 4))
        tail, heads = head_dim % config.n, group * kv_heads
        if tail & (tail - 1) or head_dim > config.head_dim_max or group > config.attention_rows_max:
            continue
        width = heads * head_pad(head_dim, config.n)
        if heads <= config.heads_max and width <= min(config.dim_max, 1024):
            return head_dim, heads, kv_heads


def draw(config: AcceleratorConfig, seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(f"{config.name} {seed}")
    head_dim, heads, kv_heads = _heads(config, rng)
    model = {
        "dim": rng.choice((rng.randrange(8, 65), 64, 96, 128)),
        "ffn": rng.choice((rng.randrange(4, 200), 64, 172)),
        "layers": rng.choice((1, 1, 2, 3)),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab": rng.choice((rng.randrange(17, 400), 256, 97)),
        "context": 64,
    }
    width = head_dim * (2 * heads + 2 * kv_heads)
    size = model["layers"] * model["dim"] * (width + 3 * model["ffn"]) + model["vocab"] * model["dim"]
    requests: list[Request] = []
    # A wide array takes longer to simulate.
    rows = max(LENGTHS[0], CYCLES * min(config.port_bytes, 16) // size)
    for _ in range(rng.randrange(1, 4)):
        fitting = [length for length in LENGTHS if length <= rows]
        if not fitting:
            break
        # The longer half, as little happens within a block.
        length = rng.choice(fitting[len(fitting) // 2 :])
        new = rng.randrange(1, length)
        prompt = [rng.randrange(model["vocab"]) for _ in range(length - new)]
        eos = rng.choice((None, rng.randrange(model["vocab"])))
        requests.append(Request(tuple(prompt), new, eos))
        rows -= length
    stall: Any = rng.choice(STALLS)
    if rng.random() < 0.2:
        stall = {channel: rng.choice(STALLS) for channel in ("ar", "r", "aw", "w", "b")}
    memory = MemorySettings(
        read_latency=rng.choice(LATENCIES),
        write_latency=rng.choice(LATENCIES),
        read_bandwidth=rng.choice(((0, 0), (0, 0), (1, 2), (2, 5))),
        write_bandwidth=rng.choice(((0, 0), (0, 0), (1, 3))),
        shared_port=rng.random() < 0.2,
        stall=stall,
        seed=seed,
    )
    return Case(preset=config.name, seed=seed, model=model, requests=tuple(requests), memory=memory)


def run_case(case: Case, options: Options | None = None) -> Outcome:
    """Runs a case and compares all of it. A run that breaks down is an outcome as well."""
    config = preset(case.preset)
    model = random_model(case.seed, **case.model)
    tape = write_tape(model, config.n, config.tape_align)
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{case.preset}-{case.seed}-", dir=runs))
    blocks = 1 + sum(-(-request.tokens // 16) for request in case.requests)
    try:
        result = run_job(
            config, tape, case.requests, folder, options=options, memory=case.memory, kv_blocks=blocks
        )
    except SimulationError as error:
        return Outcome(errors=[str(error)], folder=str(folder))
    verdict = check(result, model)
    errors = verdict.errors
    if not errors and not verdict.bit_exact:
        errors = ["nothing was compared"]
    outcome = Outcome(
        cycles=result.cycles,
        tokens=sum(len(tokens) for tokens in result.tokens),
        elements=verdict.elements_compared,
        logits=verdict.logits_compared,
        kv_bytes=verdict.kv_bytes_compared,
        errors=errors,
        folder=str(folder) if errors else "",
    )
    if not errors:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.soak", description=__doc__)
    parser.add_argument("--preset", default="tiny", choices=list(PRESETS), help="accelerator (default: tiny)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--cases", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seconds", type=float, help="start no further case after so many seconds")
    parser.add_argument(
        "--random-reset", action="store_true", help="registers and memories start with random contents"
    )
    parser.add_argument("--json", type=Path, help="report (default: build/reports/soak-PRESET.json)")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, runner: Callable[[Case, Options | None], Outcome] = run_case
) -> int:
    """Exit status: 0 if every case was bit exact, else 1."""
    args = arguments(argv)
    config, began = preset(args.preset), time.monotonic()
    cases: list[dict[str, Any]] = []
    for seed in range(args.seed, args.seed + args.cases):
        if args.seconds is not None and time.monotonic() - began > args.seconds:
            break
        case, started = draw(config, seed), time.monotonic()
        options = Options(random_reset=args.random_reset, seed=seed, timeout=900)
        outcome = runner(case, options)
        state = "differs" if outcome.errors else "exact"
        print(f"{case.preset} {seed}: {state}, {outcome.cycles:,} cycles; {case}", flush=True)
        if outcome.errors:
            again = f"python -m serrano_sim.soak --preset {case.preset} --seed {seed} --cases 1"
            again += " --random-reset" if args.random_reset else ""
            print(f"  {outcome.errors[0]}\n  files: {outcome.folder}\n  again: {again}", flush=True)
        cases.append(
            {"seed": seed, "case": str(case), "seconds": time.monotonic() - started, **asdict(outcome)}
        )
    failed = [entry["seed"] for entry in cases if entry["errors"]]
    names = ("cycles", "tokens", "elements", "logits", "kv_bytes")
    totals = {name: sum(entry[name] for entry in cases) for name in names}
    report = {
        "preset": config.name,
        "random_reset": args.random_reset,
        "cases": len(cases),
        "failed": failed,
        **totals,
        "seconds": round(time.monotonic() - began, 1),
        "runs": cases,
    }
    file = args.json or build_root() / "reports" / f"soak-{config.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    figures = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in totals.items())
    print(f"{len(cases)} cases, {len(failed)} failed; {figures}; {report['seconds']} s")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
