# SPDX-License-Identifier: Apache-2.0
"""Random commands on the KV controller's Verilog, each compared with the golden model.

``python -m serrano_sim.kv_random --commands 200000`` runs the bench of
:mod:`serrano_sim.cocotb.bench_kvcache` with many seeds. What a seed does depends on the seed and on its
number of commands alone, so that the line which reports a mismatch is all that is needed to have it again.
"""

import argparse
import dataclasses
import json
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import data
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serrano.config import AcceleratorConfig
from serrano.kvcache import Controller
from serrano.kvcache.payloads import BlockState, SequenceState, entry_bits
from serrano.verilog import generate

from .cocotb.testbench import axi_testbench
from .golden.block_manager import Opcode, Status
from .kv_commands import SMALL, BlockView, SequenceView, View
from .runner import build_root, run

__all__ = [
    "LEAST",
    "PORTS",
    "SEEN",
    "VARIANTS",
    "Bench",
    "Variant",
    "decode",
    "main",
    "missing_coverage",
    "run_random",
    "run_seed",
    "write_bench",
]

PORTS = ("host", "steps")
SEEN = (
    *(f"{port}__{signal}" for port in PORTS for signal in ("commands__ready", "responses__valid")),
    "moves__command__valid",
    "moves__response__ready",
)
"""What the bench looks at in every cycle: the bits of its signal ``seen``, lowest first."""

LEAST = 500
"""How often every command and every status must come up in a full run."""


@dataclass(frozen=True)
class Variant:
    """A controller to be built. Narrow counts and generations reach their highest values."""

    name: str
    config: AcceleratorConfig
    generation_bits: int
    reference_bits: int

    def controller(self) -> Controller:
        return Controller(
            self.config, generation_bits=self.generation_bits, reference_bits=self.reference_bits
        )


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("narrow", SMALL, 3, 2),
        Variant(
            "wide",
            dataclasses.replace(SMALL, context_max=112, blocks_max=17, sequences_max=5),
            32,
            8,
        ),
    )
}


def _variant(seed: int) -> Variant:
    """Three of four seeds take the narrow controller."""
    return VARIANTS["wide" if seed % 4 == 0 else "narrow"]


# The state as one signal: words of 32 bits.

_POOL = ("size", "used", "peak", "head", "tail")
_BLOCK = ("references", "tenant", "sealed", "written", "generation")
_SEQUENCE = ("tenant", "length", "reserved", "entries", "first")


def _field(layout: data.StructLayout, word: str, name: str) -> str:
    """Verilog of a field of a word."""
    field = layout[name]
    return f"{word}[{field.offset + field.width - 1}:{field.offset}]"


def _state_words(variant: Variant) -> list[str]:
    """Verilog of everything that makes up the state, in the order in which :func:`decode` takes it."""
    config = variant.config
    pool, tables = "dut.core.pool", "dut.core.tables"
    block = BlockState(variant.generation_bits, variant.reference_bits)
    state = SequenceState(config)
    words = [f"{pool}.{name}" for name in _POOL]
    for number in range(config.blocks_max):
        words += [_field(block, f"{pool}.states.words[{number}]", name) for name in _BLOCK]
        words += [f"{pool}.{memory}.words[{number}]" for memory in ("followers", "predecessors")]
    for seq in range(config.sequences_max):
        word = f"{tables}.states.words[{seq}]"
        words.append(f"{tables}.opened[{seq}]")
        words += [_field(state, word, name) for name in _SEQUENCE]
        for index in range(config.table_entries):
            place = seq << entry_bits(config) | index
            words.append(f"{tables}.block_table.words[{place}]")
    return words


def decode(word: int, config: AcceleratorConfig) -> View:
    """The state from the bench's signal ``state``."""
    count = len(_POOL) + 7 * config.blocks_max + (6 + config.table_entries) * config.sequences_max
    values = struct.unpack(f"<{count}I", word.to_bytes(4 * count, "little"))
    place = len(_POOL)
    blocks = []
    for _ in range(config.blocks_max):
        blocks.append(BlockView(*values[place : place + 7]))
        place += 7
    sequences = []
    for _ in range(config.sequences_max):
        is_open, tenant, length, reserved, entries, first = values[place : place + 6]
        table = values[place + 6 : place + 6 + config.table_entries]
        place += 6 + config.table_entries
        if is_open:
            live = tuple(table[first:entries])
            sequences.append(SequenceView(1, tenant, length, reserved, entries, first, live))
        else:
            sequences.append(_CLOSED)
    return View(*values[: len(_POOL)], tuple(blocks), tuple(sequences))


_CLOSED = SequenceView(0, 0, 0, 0, 0, 0, ())


@dataclass(frozen=True)
class Bench:
    """A variant's Verilog and what is around it: arguments of :func:`serrano_sim.runner.run`."""

    files: list[Path]
    top: str
    sources: tuple[Path, ...]
    public: tuple[str, ...] = ("state", "seen")


def write_bench(variant: Variant, folder: Path, controller: Any = None) -> Bench:
    """Writes the files of a bench into a folder; ``controller`` stands in for the variant's own."""
    folder.mkdir(parents=True, exist_ok=True)
    design = generate(controller or variant.controller(), "kv_controller")
    bench = axi_testbench("kv_controller", design.ports)
    words = _state_words(variant)
    lines = [
        "",
        f"    wire [{32 * len(words) - 1}:0] state;",
        *(f"    assign state[{32 * place} +: 32] = 32'({word});" for place, word in enumerate(words)),
        f"    wire [{len(SEEN) - 1}:0] seen = {{{', '.join(reversed(SEEN))}}};",
        "endmodule",
    ]
    text = bench.text.replace("\nendmodule", "\n".join(lines), 1)
    bench = dataclasses.replace(bench, text=text)
    return Bench([*design.write(folder), *bench.write(folder)], bench.top, bench.cpp_sources)


def run_seed(
    bench: Bench,
    variant: Variant,
    seed: int,
    commands: int,
    folder: Path | str,
    module: str | Path = "serrano_sim.cocotb.bench_kvcache",
) -> dict[str, Any]:
    """One run of a bench: what the cocotb test of a module writes as its outcome.

    ``commands``, ``episodes``, ``cycles`` and ``leaked`` are numbers, ``pairs`` and ``events`` counts by
    name, ``mismatches`` texts.
    """
    folder = Path(folder) / f"seed-{seed}"
    plan = {"variant": variant.name, "seed": seed, "commands": commands}
    run(
        bench.files,
        bench.top,
        module,
        name=f"kv_random-{variant.name}",
        sources=bench.sources,
        public=bench.public,
        env={"PLAN": json.dumps(plan)},
        random_reset=True,
        seed=seed,
        run_dir=folder,
    )
    return json.loads((folder / "outcome.json").read_text())


def run_random(
    commands: int,
    seeds: Sequence[int],
    folder: Path | str,
    progress: Callable[[int, list[str]], None] | None = None,
) -> dict[str, Any]:
    """Runs random commands on the RTL.

    Parameters
    ----------
    commands : :class:`int`
        How many in all, shared out among the seeds.
    seeds : sequence of :class:`int`
        The seeds; each is a run of its own.
    folder : path
        Where benches and runs go.
    progress : callable
        Called after each seed with its number of commands and its mismatches in words.

    Returns
    -------
    dict
        ``random_commands``; ``random_mismatches``; ``command_coverage`` and ``error_coverage``, counts by
        name; ``pair_coverage``, counts by command and status; ``events``, how often what is rare happened;
        ``leaked_blocks``, blocks held after everything was closed; ``mismatches`` in words; ``episodes``,
        ``cycles`` and ``seconds``.

    Raises
    ------
    ValueError
        If there are no seeds, or fewer commands than seeds.
    SimulationError
        If a build or a run breaks down.
    """
    if not seeds or commands < len(seeds):
        raise ValueError(f"There must be at least one seed, and a command for each, not {len(seeds)} seeds")
    folder, began = Path(folder), time.monotonic()
    benches: dict[str, Bench] = {}
    pairs, events, totals = Counter(), Counter(), Counter()
    mismatches: list[str] = []
    for place, seed in enumerate(seeds):
        share = (place + 1) * commands // len(seeds) - place * commands // len(seeds)
        variant = _variant(seed)
        if variant.name not in benches:
            benches[variant.name] = write_bench(variant, folder / variant.name)
        outcome = run_seed(benches[variant.name], variant, seed, share, folder)
        pairs.update(outcome["pairs"])
        events.update(outcome["events"])
        totals.update({name: outcome[name] for name in ("commands", "leaked", "episodes", "cycles")})
        again = f"again: python -m serrano_sim.kv_random --seeds {seed} --commands {share}"
        found = [f"{text}\n  {again}" for text in outcome["mismatches"]]
        mismatches += found
        if progress:
            progress(share, found)
    by_command, by_status = Counter(), Counter()
    for pair, count in pairs.items():
        name, status = pair.split()
        by_command[name] += count
        by_status[status] += count
    return {
        "random_commands": totals["commands"],
        "random_mismatches": len(mismatches),
        "command_coverage": {opcode.name: by_command[opcode.name] for opcode in Opcode},
        "error_coverage": {status.name: by_status[status.name] for status in Status},
        "pair_coverage": dict(sorted(pairs.items())),
        "events": dict(sorted(events.items())),
        "leaked_blocks": totals["leaked"],
        "mismatches": mismatches,
        "episodes": totals["episodes"],
        "cycles": totals["cycles"],
        "seconds": round(time.monotonic() - began, 1),
    }


def missing_coverage(result: dict[str, Any], least: int = LEAST) -> list[str]:
    """Commands and statuses that came up less often than they must."""
    return [
        f"{name} came up {count:,} times only"
        for kind in ("command_coverage", "error_coverage")
        for name, count in result[kind].items()
        if count < least
    ]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.kv_random", description=__doc__)
    parser.add_argument("--commands", type=int, default=200_000, help="how many in all (default: 200000)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="which seeds (default: 1, 2, ..., one for each 4,000 commands)"
    )
    parser.add_argument("--json", type=Path, help="report (default: build/reports/kv-random.json)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, runner: Callable[..., dict[str, Any]] = run_random) -> int:
    """Exit status: 0 if nothing differed and, in a run of 200,000 commands or more, all came up."""
    args = arguments(argv)
    seeds = args.seeds or range(1, 2 + args.commands // 4000)
    columns = (TextColumn("random commands"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kv-random-", dir=runs) as folder, Progress(*columns) as bar:
        task = bar.add_task("", total=args.commands)

        def show(done: int, found: list[str]) -> None:
            bar.advance(task, done)
            for text in found:
                bar.console.print(text, markup=False, highlight=False)

        result = runner(args.commands, list(seeds), folder, show)
    file = args.json or build_root() / "reports" / "kv-random.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
    problems = missing_coverage(result) if args.commands >= 200_000 else []
    for kind in ("command_coverage", "error_coverage", "events"):
        print(f"{kind.replace('_', ' ')}: " + ", ".join(f"{n} {c:,}" for n, c in result[kind].items()))
    print("\n".join(problems), end="\n" if problems else "")
    print(
        f"{result['random_commands']:,} commands, {len(seeds)} seeds, {result['episodes']} episodes:"
        f" {result['random_mismatches']} mismatches, {result['leaked_blocks']} blocks leaked;"
        f" {result['cycles']:,} cycles, {result['seconds']} s; report in {file}"
    )
    return 1 if problems or result["random_mismatches"] or result["leaked_blocks"] else 0


if __name__ == "__main__":
    sys.exit(main())
