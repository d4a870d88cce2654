# SPDX-License-Identifier: Apache-2.0
"""A 4 x 4 matrix product on the array engine, cycle by cycle: `make demo`.

The smallest engine there is (preset tiny) multiplies two random int8 matrices in Amaranth's simulator. What
is printed is what the simulated hardware did, and the product is compared with numpy's.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from amaranth import *
from amaranth.sim import Simulator
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from serrano.config import AcceleratorConfig, preset
from serrano.matmul import Engine
from serrano_sim.golden.fixed import Int

__all__ = ["Cycle", "Recording", "main", "record"]

ROOT = Path(__file__).resolve().parents[2]
VCD = ROOT / "build" / "demo" / "matmul.vcd"

_COLOURS = ("cyan", "magenta", "yellow", "green")
_LIMIT = 200  # Cycles after which an engine that still owes results is given up.


@dataclasses.dataclass(frozen=True)
class Cycle:
    """What happened in one clock cycle.

    Parameters
    ----------
    cycle
        Its number.
    unit
        Unit of the tile that the engine took, or ``None``.
    row
        Row that the engine took.
    waits
        Row that was offered and not taken.
    bottom
        For each column the row and the sum at its bottom edge, or ``None``.
    result
        Row whose product left the engine.
    """

    cycle: int
    unit: int | None
    row: int | None
    waits: int | None
    bottom: tuple[tuple[int, int] | None, ...]
    result: int | None


@dataclasses.dataclass(frozen=True)
class Recording:
    """A run of the engine: the operands, what came out, and every cycle."""

    a: Int
    b: Int
    product: Int
    cycles: tuple[Cycle, ...]

    @property
    def expected(self) -> Int:
        """The product as numpy computes it."""
        return self.a @ self.b

    @property
    def is_right(self) -> bool:
        """Whether all rows came out, and every element is exact."""
        return np.array_equal(self.product, self.expected)


class _OpenEngine(Engine):
    """An engine whose parts can be looked at."""

    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        self.array = m.submodules.array
        self.columns = [m.submodules[f"column_{j}"] for j in range(self.config.n)]
        return m


def _tile_units(config: AcceleratorConfig, b: Int) -> list[NDArray[np.int64]]:
    return list(b.reshape(config.tile_units, config.load_vectors, config.n))


def record(a: Int, b: Int, vcd: Path) -> Recording:
    """Multiplies ``a`` [rows, 4] by ``b`` [4, 4] on the tiny preset's engine and writes waveforms.

    ``vcd`` is the waveform's file; a view of it for GTKWave is written beside it, as ``.gtkw``.
    """
    config = preset("tiny")
    engine = _OpenEngine(config)
    simulator = Simulator(engine)
    simulator.add_clock(1e-8)
    cycles: list[Cycle] = []
    product: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        units, unit, row = _tile_units(config, b), 0, 0
        ctx.set(engine.results.ready, 1)
        while len(product) < len(a) and len(cycles) < _LIMIT:
            ctx.set(engine.tiles.valid, unit < len(units))
            if unit < len(units):
                ctx.set(engine.tiles.payload, {"vectors": units[unit].tolist(), "by_column": 0})
            ctx.set(engine.rows.valid, row < len(a))
            if row < len(a):
                tag = {"address": row, "first": 1, "emit": 1}
                ctx.set(
                    engine.rows.payload, {"operand": a[row].tolist(), "tag": tag, "last": row == len(a) - 1}
                )
            loads = unit < len(units) and ctx.get(engine.tiles.ready)
            takes = row < len(a) and ctx.get(engine.rows.ready)
            bottom = tuple(
                (ctx.get(column.tag_i.tag.address), ctx.get(column.sum))
                if ctx.get(column.tag_i.valid)
                else None
                for column in engine.columns
            )
            leaves = ctx.get(engine.results.valid)
            cycles.append(
                Cycle(
                    cycle=len(cycles),
                    unit=unit if loads else None,
                    row=row if takes else None,
                    waits=row if row < len(a) and not takes else None,
                    bottom=bottom,
                    result=len(product) if leaves else None,
                )
            )
            if leaves:
                product.append(list(ctx.get(engine.results.payload)))
            unit, row = unit + bool(loads), row + bool(takes)
            await ctx.tick()

    simulator.add_testbench(bench)
    vcd.parent.mkdir(parents=True, exist_ok=True)
    watched = [engine.tiles, engine.rows, *engine.array.sums, engine.results]
    with simulator.write_vcd(str(vcd), str(vcd.with_suffix(".gtkw")), traces=watched):
        simulator.run()
    return Recording(a, b, np.array(product, dtype=np.int64).reshape(-1, config.n), tuple(cycles))


def _colour(row: int) -> str:
    return _COLOURS[row % len(_COLOURS)]


def _matrix(title: str, values: Int, *, coloured: bool) -> Group:
    grid = Table.grid(padding=(0, 1))
    for _ in range(values.shape[1]):
        grid.add_column(justify="right")
    for index, row in enumerate(values.tolist()):
        grid.add_row(*map(str, row), style=_colour(index) if coloured else None)
    return Group(Text(title, style="bold"), grid)


def _cycle_table(recording: Recording) -> Table:
    table = Table(title="cycle by cycle", title_style="bold", title_justify="left", header_style="bold")
    table.add_column("cycle", justify="right")
    table.add_column("loads")
    table.add_column("takes")
    for j in range(recording.b.shape[1]):
        table.add_column(f"col {j}", justify="right")
    table.add_column("gives")
    vectors = preset("tiny").load_vectors
    for cycle in recording.cycles:
        unit, row = Text(), Text()
        if cycle.unit is not None:
            first = cycle.unit * vectors
            unit = Text(f"B[{first}..{first + vectors - 1}]")
        if cycle.row is not None:
            row = Text(f"A[{cycle.row}]", style=_colour(cycle.row))
        elif cycle.waits is not None:
            row = Text(f"A[{cycle.waits}] waits", style="dim")
        sums = [
            Text("") if sum_ is None else Text(str(sum_[1]), style=_colour(sum_[0])) for sum_ in cycle.bottom
        ]
        result = Text()
        if cycle.result is not None:
            result = Text(f"C[{cycle.result}]", style=f"bold {_colour(cycle.result)}")
        table.add_row(str(cycle.cycle), unit, row, *sums, result)
    return table


def _explanation(recording: Recording) -> list[str]:
    rows = [cycle.cycle for cycle in recording.cycles if cycle.row is not None]
    results = [cycle.cycle for cycle in recording.cycles if cycle.result is not None]
    edges = [cycle.cycle for cycle in recording.cycles if cycle.bottom[0] is not None]
    return [
        f"loads  rows of B go into a weight plane, {preset('tiny').load_vectors} in a cycle",
        "takes  a row of A enters from the left, element k going k cycles after element 0",
        f"col j  its sum at the bottom edge of column j, {edges[0] - rows[0]} + j cycles later",
        f"gives  a row of C, put together again, {results[0] - rows[0]} cycles after its row of A",
    ]


def _shown(path: Path) -> str:
    """A path as the reader would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def show(recording: Recording, vcd: Path, console: Console) -> None:
    """Prints a run for a person."""
    console.print("C = A B on a 4 x 4 systolic array: int8 operands, exact sums.\n", style="bold")
    console.print(
        Columns(
            [
                _matrix("A, row by row", recording.a, coloured=True),
                _matrix("B, in the array", recording.b, coloured=False),
            ],
            padding=(0, 6),
        )
    )
    console.print()
    console.print(_cycle_table(recording))
    if recording.is_right:
        for line in _explanation(recording):
            console.print(line, style="dim", highlight=False)
    console.print()
    console.print(_matrix("C, as it came out", recording.product, coloured=True))
    console.print()
    if recording.is_right:
        console.print("equal to numpy's A @ B, element by element", style="bold green")
    else:
        console.print(_matrix("numpy's A @ B", recording.expected, coloured=True))
        console.print("WRONG: C is not A @ B", style="bold red")
    console.print(f"\nwaveforms: {_shown(vcd)}", highlight=False, soft_wrap=True)
    console.print(f"  gtkwave {_shown(vcd.with_suffix('.gtkw'))}", highlight=False, soft_wrap=True)
    console.print(f"  surfer {_shown(vcd)}", highlight=False, soft_wrap=True)


def report(recording: Recording, seed: int, vcd: Path) -> dict[str, Any]:
    """A run for a program: lists of numbers, ``None`` where nothing happened."""
    return {
        "seed": seed,
        "a": recording.a.tolist(),
        "b": recording.b.tolist(),
        "product": recording.product.tolist(),
        "expected": recording.expected.tolist(),
        "ok": recording.is_right,
        "cycles": [dataclasses.asdict(cycle) for cycle in recording.cycles],
        "vcd": str(vcd),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration and returns the exit status: 1 if the product is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.demo",
        description="Multiply two random 4 x 4 int8 matrices on the array engine and show every clock cycle.",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the matrices (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the run as JSON")
    parser.add_argument("--vcd", type=Path, default=VCD, help="waveforms (default: build/demo/matmul.vcd)")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error(f"argument --seed: must not be negative, not {options.seed}")
    n = preset("tiny").n
    a, b = np.random.default_rng(options.seed).integers(-128, 128, (2, n, n))
    recording = record(a, b, options.vcd)
    if options.json:
        print(json.dumps(report(recording, options.seed, options.vcd), indent=2))
    else:
        show(recording, options.vcd, Console())
    return int(not recording.is_right)


if __name__ == "__main__":
    sys.exit(main())
