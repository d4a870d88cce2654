# SPDX-License-Identifier: Apache-2.0
"""The command `serrano`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serrano_host.errors import CompileError, SerranoError
from serrano_host.presets import MACHINES

app = typer.Typer(
    name="serrano",
    help="Host tools of the Serrano accelerator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

BAUD = 1_000_000
PRESET_HELP = f"Hardware preset: {', '.join(MACHINES)}"

Model = Annotated[Path, typer.Argument(help="A Hugging Face folder, or a llama2.c .bin file.")]


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors meant for the user become one line on stderr and exit status 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except SerranoError as error:
            typer.echo("serrano: error: " + " ".join(str(error).split()), err=True)
        except KeyboardInterrupt:
            typer.echo("serrano: interrupted", err=True)
            raise typer.Exit(130) from None
        raise typer.Exit(1)

    return wrapped


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what, done, total) that shows one bar per kind of work; silent where nobody watches."""
    with Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


def human(size: int) -> str:
    """A number of bytes for people."""
    if size < 1024:
        return f"{size} B"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.2f} GiB"


def key_values(title: str, rows: list[tuple[str, object]]) -> Table:
    """A table of two columns."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, str(value))
    return table


@app.command("compile")
@one_line_errors
def compile_command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The tape to write.", dir_okay=False)],
    preset: Annotated[str, typer.Option(help=f"{PRESET_HELP}.")] = "base",
    n: Annotated[int | None, typer.Option(help="Array size, instead of the preset's.")] = None,
    align: Annotated[int | None, typer.Option(help="Alignment in bytes, instead of the preset's.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer for --calibration, if it is not beside the model.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Text from which the k means are taken; by default samples of the model itself.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Compile a checkpoint to a tape."""
    from serrano_host.checkpoints import open_checkpoint
    from serrano_host.compile import PRESETS, Geometry, compile_tape, describe, write_atomically
    from serrano_host.quantize import calibration_windows, k_means, quantize

    if preset not in PRESETS:
        raise typer.BadParameter(
            f"must be one of {', '.join(PRESETS)}, not {preset!r}", param_hint="--preset"
        )
    chosen = PRESETS[preset]
    try:
        geometry = Geometry(chosen.n if n is None else n, chosen.align if align is None else align)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--n / --align") from error
    console = Console(stderr=True)
    checkpoint = open_checkpoint(model, tokenizer)
    windows = None if calibration is None else calibration_windows(checkpoint, read_text(calibration))
    with progress_bar(console) as progress:
        means = k_means(checkpoint, windows, progress=progress)
        quantized = quantize(checkpoint, means=means, progress=progress)
        image = compile_tape(quantized, geometry, progress)
    write_atomically(output, image)
    d = describe(quantized, geometry)
    weights, rope = d.program_end - d.program_offset, d.embed_offset - d.rope_offset
    Console().print(
        key_values(
            f"{output}",
            [
                ("model", f"{checkpoint.name}, {checkpoint.parameters:,} parameters"),
                ("geometry", f"n {d.n}, align {d.align}"),
                ("tape", f"{human(d.image_bytes)} ({d.image_bytes:,} bytes), {d.packets} packets"),
                ("read per token", f"{human(weights)} of weights, the embedding row and the RoPE row"),
                ("tables", f"embedding {human(d.image_bytes - d.embed_offset)}, RoPE {human(rope)}"),
                ("KV block", f"{human(d.block_bytes)} for {d.block_size} tokens"),
            ],
        )
    )


def read_text(path: Path) -> str:
    """A UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CompileError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CompileError(f"{path}: not UTF-8 text ({error})") from error


@app.command("tape")
@one_line_errors
def tape_command(
    file: Annotated[Path, typer.Argument(help="A compiled tape.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check a tape, CRCs included, and print its descriptor and packets."""
    from serrano_host.tape import NO_LAYER, open_tape

    tape = open_tape(file)
    if as_json:
        packets = [asdict(p) | {"opcode": p.opcode.name} for p in tape.packets]
        for packet in packets:
            packet["layer"] = None if packet["layer"] == NO_LAYER else packet["layer"]
        print(json.dumps({"descriptor": asdict(tape.descriptor), "packets": packets}, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    rows: list[tuple[str, object]] = list(asdict(tape.descriptor).items())
    console.print(key_values(f"descriptor of {file}", rows))
    table = Table(title="packets", title_justify="left")
    for name in ("index", "offset", "operation", "layer", "k", "n_out", "payload", "crc"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for p in tape.packets:
        layer = "" if p.layer == NO_LAYER else str(p.layer)
        size = f"{p.payload_bytes:,}" if p.payload_bytes else ""
        table.add_row(
            *(str(p.index), f"{p.offset:,}", p.label, layer, str(p.k), str(p.n_out), size, f"{p.crc:08x}")
        )
    console.print(table)
    total = sum(p.payload_bytes for p in tape.packets)
    console.print(f"{len(tape.packets)} packets, {human(total)} of payload; all CRCs right")


@app.command("info")
@one_line_errors
def info_command(
    model: Model,
    tokenizer: Annotated[Path | None, typer.Option(help="Its tokenizer, to be checked with it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Read a checkpoint and print its dimensions."""
    from serrano_host.checkpoints import open_checkpoint

    c = open_checkpoint(model, tokenizer)
    names = "name parameters dim ffn heads kv_heads head_dim vocab context rope_theta norm_eps bos eos tied"
    rows: dict[str, Any] = {name: getattr(c, name) for name in names.split()}
    rows["layers"] = len(c.layers)
    rows["tokenizer"] = str(c.tokenizer_path) if c.tokenizer_path else None
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    rows["parameters"] = f"{c.parameters:,}"
    Console().print(key_values(str(model), [(k, "none" if v is None else v) for k, v in rows.items()]))


@app.command("estimate")
@one_line_errors
def estimate_command(
    config: Annotated[
        Path, typer.Argument(help="The model's dimensions: JSON, or a Hugging Face folder.", metavar="CONFIG")
    ],
    preset: Annotated[str, typer.Option(help=f"{PRESET_HELP}.")] = "base",
    batch: Annotated[int | None, typer.Option(help="Sequences that decode; 1, or 0 with --rows.")] = None,
    context: Annotated[int, typer.Option(help="Committed tokens of each sequence.")] = 0,
    rows: Annotated[int, typer.Option(help="Rows of a chunk of a prompt in the same step.")] = 0,
    last: Annotated[bool, typer.Option("--last", help="The chunk ends its prompt: it is sampled.")] = False,
    memory: Annotated[str, typer.Option(help="Memory: fixed60, or another latency, or dram.")] = "fixed60",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell how many cycles a step takes, and where they go, without a simulation."""
    from serrano_host.estimate import Memory, Shape, Span, estimate, read_config, report, tables

    if preset not in MACHINES:
        raise typer.BadParameter(
            f"must be one of {', '.join(MACHINES)}, not {preset!r}", param_hint="--preset"
        )
    batch = (0 if rows else 1) if batch is None else batch
    if batch < 0 or rows < 0 or context < 0:
        raise CompileError("--batch, --rows and --context must not be negative")
    spans = [Span(context)] * batch + ([Span(context, rows)] if rows else [])
    found = estimate(
        MACHINES[preset], Shape.of(read_config(config)), spans, batch + (last and rows > 0), Memory.of(memory)
    )
    if as_json:
        print(json.dumps({"preset": preset, "memory": memory, **report(found)}, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    for table in tables(found):
        console.print(table)


@app.command("run")
@one_line_errors
def run_command(
    model: Annotated[Path, typer.Argument(help="A checkpoint, or a compiled tape.", metavar="MODEL|TAPE")],
    prompt: Annotated[list[str] | None, typer.Option(help="Text to go on from; may be repeated.")] = None,
    prompt_ids: Annotated[
        list[str] | None, typer.Option(help="Token ids instead, '1 2 3'; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="More prompts, as JSON Lines (docs/driver.md).", dir_okay=False)
    ] = None,
    max_new: Annotated[int, typer.Option(help="Tokens wanted where a prompt does not say.")] = 32,
    preset: Annotated[
        str | None, typer.Option(help=f"{PRESET_HELP} (default: base; with --port, its).")
    ] = None,
    port: Annotated[
        str | None, typer.Option(help="A board's serial port, as /dev/ttyUSB0, instead of --transport.")
    ] = None,
    baud: Annotated[int, typer.Option(help="Baud rate of the board's bitstream.", min=1)] = BAUD,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer, if it is not beside the model.")] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Do not end with the model's eos token.")] = False,
    transport: Annotated[str, typer.Option(help="Way to the accelerator: sim, or module:function.")] = "sim",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", help="Option of the transport, NAME=VALUE; may be repeated."),
    ] = None,
    kv_blocks: Annotated[int | None, typer.Option(help="KV blocks at most.", min=2)] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to a file.", dir_okay=False)
    ] = None,
    logits: Annotated[
        Path | None,
        typer.Option(help="Write logits to a file, .npz or JSON Lines (simulation only).", dir_okay=False),
    ] = None,
    steps: Annotated[
        str, typer.Option(help="Of which generated tokens: all, or numbers and ranges from 0 on, '0,4-7'.")
    ] = "all",
    logprobs: Annotated[bool, typer.Option(help="Write log-probabilities instead of logits.")] = False,
) -> None:
    """Serve prompts on an accelerator, show their texts as they come, and report latency and throughput."""
    from serrano_host.serving.command import Order, is_tape, run

    options = list(option or ())
    if port is not None:
        transport = "serial"
        options = [f"port={port}", f"baud={baud}", *options]
    if preset is None:
        # A tape says itself for which array it was compiled.
        preset = "base" if port is None or is_tape(model) else _preset_at(options)
    order = Order(
        model=model,
        prompts=prompt or (),
        prompt_ids=prompt_ids or (),
        file=file,
        max_new=max_new,
        preset=preset,
        tokenizer=tokenizer,
        transport=transport,
        options=options,
        ignore_eos=ignore_eos,
        kv_blocks=kv_blocks,
        json=json_file,
        logits=logits,
        steps=steps,
        logprobs=logprobs,
    )
    console = Console(width=None if sys.stdout.isatty() else 110)
    status = run(order, console, lambda: progress_bar(Console(stderr=True)))
    if status:
        raise typer.Exit(status)


def _preset_at(options: list[str]) -> str:
    """The preset of the board that these options of its transport name."""
    from serrano_host.board.transport import open_transport, preset_of

    transport = open_transport("", None, dict(option.split("=", 1) for option in options if "=" in option))
    try:
        return preset_of(transport)
    finally:
        transport.close()


@app.command("selftest")
@one_line_errors
def selftest_command(
    port: Annotated[str, typer.Option(help="The board's serial port, as /dev/ttyUSB0.")],
    baud: Annotated[int, typer.Option(help="Baud rate of the board's bitstream.", min=1)] = BAUD,
    timeout: Annotated[float, typer.Option(help="Seconds without a byte that count as no answer.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the data.")] = 1,
    hold: Annotated[float, typer.Option(help="Seconds for which memory has to keep data.")] = 1.0,
) -> None:
    """Test a board: line, memory, registers, a small model with a known answer. Overwrites its memory."""
    from serrano_host.board.selftest import estimate, self_test
    from serrano_host.board.transport import open_transport

    console = Console(width=None if sys.stdout.isatty() else 110)
    options = {"port": port, "baud": str(baud), "timeout": str(timeout)}
    with open_transport("", None, options) as transport:
        console.print(f"{port}: a board answers; the test takes about {estimate(baud, hold):.0f} s")
        failed = False
        for result in self_test(transport, seed, hold):
            failed = failed or not result.passed
            console.print(f"{'passed' if result.passed else 'FAILED'}  {result.name:14} {result.text}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
