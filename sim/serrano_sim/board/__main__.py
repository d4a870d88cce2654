# SPDX-License-Identifier: Apache-2.0
"""A checkpoint generates text on a whole simulated board: `make sim-board`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from serrano.boards import BOARDS, board
from serrano.config import preset
from serrano_host.checkpoints import open_checkpoint
from serrano_host.compile import write_atomically
from serrano_host.errors import SerranoError
from serrano_host.estimate import Shape
from serrano_host.tape import DESCRIPTOR_BYTES, Descriptor

from ..bench.content import synthetic_model
from ..golden.synthetic import write_tape
from ..golden.tape import load_model
from ..run import MODEL, OTHER_PROMPT, PROMPT, compiled_tape
from ..runner import SimulationError, build_root
from ..synthesis.tools import ToolError
from ..top.layout import Request
from ..top.prefix import golden_tokens
from .build import Settings, build_board
from .simulate import BoardRun, BoardTask, decode_figures, simulate_board

FIFTEEN_MILLION = Shape(dim=288, ffn=768, layers=6, heads=6, kv_heads=6, head_dim=48, vocab=32000)
"""The shape that boards are compared with."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.board", description=__doc__)
    parser.add_argument("--board", default="ulx3s_85f", help=f"{', '.join(BOARDS)} (default: ulx3s_85f)")
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint (default: models/jargon)")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer, if it is not beside it")
    parser.add_argument(
        "--shape", choices=["15m"], help="random weights of this shape instead of a checkpoint"
    )
    parser.add_argument("--prompt", help=f"text to go on from (default for our own model: {PROMPT!r})")
    parser.add_argument("--tokens", type=int, default=16, help="how many to generate (default: 16)")
    parser.add_argument(
        "--divisor", type=int, default=4, help="clock cycles in a bit of the line (default: 4)"
    )
    parser.add_argument("--clock", type=float, help="MHz, instead of the board's clock")
    parser.add_argument(
        "--by-line",
        type=int,
        default=1 << 14,
        help="bytes of the tape that go over the line (default: 16384)",
    )
    parser.add_argument(
        "--netlist",
        action="store_true",
        help="what synthesis makes of the Verilog for the board's ECP5, cell by cell, instead of the Verilog",
    )
    parser.add_argument("--json", type=Path, help="report (default: build/reports/sim-board.json)")
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, console: Console) -> tuple[BoardTask, str, Any]:
    """What is to be done, the model's name, and its tokenizer if it has one."""
    config = preset(board(args.board).preset)
    if args.tokens < 1:
        raise SerranoError(f"TOKENS must be at least 1, not {args.tokens}")
    if args.shape:
        model = synthetic_model(FIFTEEN_MILLION, 64)
        tape = write_tape(model, config.n, config.tape_align)
        return (
            BoardTask(tape=tape, prompt=(1,), max_new=args.tokens, by_line=args.by_line, verify=False),
            args.shape,
            None,
        )
    checkpoint = open_checkpoint(args.model, args.tokenizer)
    tape = compiled_tape(checkpoint, config, lambda: console.print("compiling the tape"))
    tokenizer = checkpoint.tokenizer()
    text = args.prompt
    if text is None:
        text = PROMPT if args.model.resolve() == MODEL else OTHER_PROMPT
    prompt = tuple(tokenizer.encode(text))
    task = BoardTask(tape=tape, prompt=prompt, max_new=args.tokens, eos=checkpoint.eos, by_line=args.by_line)
    return task, checkpoint.name, tokenizer


def build_report(args: argparse.Namespace, name: str, task: BoardTask, run: BoardRun, build: Any) -> dict:
    """The report as it goes to a file."""
    model = load_model(task.tape)
    expected = golden_tokens(model, build.config.n, Request(tuple(task.prompt), task.max_new, eos=task.eos))
    descriptor = Descriptor.unpack(task.tape[:DESCRIPTOR_BYTES])
    errors = []
    if list(run.tokens) != expected:
        errors.append(f"tokens are {list(run.tokens)}, the golden model's {expected}")
    if run.verified is False:
        errors.append("memory does not hold the tape")
    errors += [f"fault: {fault}" for fault in run.faults]
    return {
        "board": build.board.name,
        "preset": build.config.name,
        "netlist": build.netlist,
        "clock_hz": build.board.clock_hz,
        "model": name,
        "prompt_tokens": len(task.prompt),
        "tokens": list(run.tokens),
        "tokens_equal": list(run.tokens) == expected,
        "tape_bytes": descriptor.image_bytes,
        "tape_bytes_by_line": min(task.by_line, len(task.tape)),
        "tape_verified": run.verified,
        "decode": decode_figures(build, task, run),
        "line": {
            "divisor": build.settings.divisor,
            "bytes_to_board": run.line_bytes[0],
            "bytes_to_host": run.line_bytes[1],
            "repeated": run.repeated,
        },
        "sdram": {**run.statistics.sums, "violations": 0},
        "counters": run.counters,
        "errors": errors,
    }


def show(console: Console, report: dict) -> None:
    """The summary."""
    decode, sdram = report["decode"], report["sdram"]
    console.print(
        f"\n{report['board']}{', its netlist' if report['netlist'] else ''}, preset {report['preset']},"
        f" {report['model']}: {len(report['tokens'])} tokens,"
        f" {'equal to' if report['tokens_equal'] else 'NOT those of'} the golden model's"
    )
    console.print(
        f"SDRAM: no rule violated in {sdram['cycles']:,} cycles with {sdram['refreshes']:,} refreshes;"
        f" {report['tape_bytes_by_line']:,} bytes of the tape loaded and verified over the line"
    )
    if decode["steps"]:
        console.print(
            f"decode: {decode['cycles_per_token']:,.0f} cycles per token, MBU {decode['mbu']:.1%},"
            f" data bus busy {decode['bus_busy']:.1%}; computed for {report['clock_hz'] / 1e6:g} MHz:"
            f" {decode['tokens_per_second_at_clock']:,.1f} tokens/s,"
            f" {decode['megabytes_per_second']:,.0f} MB/s"
        )
    for error in report["errors"]:
        console.print(f"ERROR: {error}", highlight=False, markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 if anything differs."""
    args = arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    begun = time.monotonic()
    try:
        try:
            found = board(args.board)
            if args.clock is not None:
                found = replace(found, clock_hz=round(args.clock * 1e6))
        except ValueError as error:
            raise SerranoError(str(error)) from error
        task, name, tokenizer = prepare(args, console)
        settings = Settings(divisor=args.divisor)
        build = build_board(found, preset(found.preset), settings, console.print, netlist=args.netlist)
        stream = tokenizer.decode_stream(task.prompt) if tokenizer else None

        def show_token(token: int) -> None:
            piece = stream.push(token) if stream else str(token)
            console.print(f"  {time.monotonic() - begun:7.1f} s  {piece!r}", markup=False)

        run = simulate_board(build, task, console.print, show_token)
        report = build_report(args, name, task, run, build)
    except (SerranoError, SimulationError, ToolError, ValueError) as error:
        print(f"sim-board: {error}", file=sys.stderr)
        return 1
    show(console, report)
    path = args.json or build_root() / "reports" / "sim-board.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    console.print(f"report: {path}")
    return 1 if report["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
