# SPDX-License-Identifier: Apache-2.0
"""How close the golden integers come to the float64 reference of a checkpoint: `make accuracy`.

Both are teacher-forced over the same text in windows of the model's context, each window beginning with the
bos token and knowing nothing of the one before. The 8-bit model takes the whole way: checkpoint, quantizer,
tape bytes, golden reader. The 16-bit model, which has no tape, judges the nonlinear units alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serrano_host.checkpoints import Checkpoint, open_checkpoint
from serrano_host.compile import PRESETS, compile_tape
from serrano_host.errors import SerranoError
from serrano_host.quantize import QuantizedMatrix, QuantizedModel, k_means, quantize
from serrano_host.reference import Reference
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.model import Layer, Matrix, Model
from serrano_sim.golden.tape import load_model

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "jargon"
TEXT = MODEL / "heldout.txt"
REPORT = ROOT / "build" / "reports" / "accuracy.json"

# Fewer tokens say too little about a change of a fraction of a percent.
TOKENS_MIN = 8000
TOKENS_16BIT = 2048


@dataclass(frozen=True)
class Gates:
    """Limits of one class of checkpoints (docs/numerics.md, section 10), as fractions and nats."""

    perplexity_change: float
    mean_kl: float
    top1: float
    kl_16bit: float = 1e-4
    tokens: int = TOKENS_MIN


GATES = {"small": Gates(0.005, 0.004, 0.95), "story": Gates(0.0025, 0.0025, 0.97)}


@dataclass(frozen=True)
class Comparison:
    """Integers against float over `tokens` predictions; ratios are fractions, KL is in nats."""

    tokens: int
    perplexity_float: float
    perplexity_int: float
    perplexity_change: float
    perplexity_change_se: float
    mean_kl: float
    top1: float


@dataclass(frozen=True)
class Gate:
    """One limit and what was measured."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """A value that is not a number passes nothing."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def golden_model(model: QuantizedModel) -> Model:
    """A quantized model as the golden models take it, without a tape between."""

    def matrix(m: QuantizedMatrix) -> Matrix:
        return Matrix(m.codes, m.scales)

    layers = tuple(
        Layer(
            k=matrix(layer.wk),
            v=matrix(layer.wv),
            q=matrix(layer.wq),
            k_mean=layer.k_mean,
            o=matrix(layer.wo),
            gate=matrix(layer.w_gate),
            up=matrix(layer.w_up),
            down=matrix(layer.w_down),
        )
        for layer in model.layers
    )
    same = "dim ffn heads kv_heads head_dim vocab context s_eps s_score rope bos eos name bits".split()
    return Model(
        **{name: getattr(model, name) for name in same},
        layers=layers,
        head=matrix(model.head),
        embedding=matrix(model.embedding),
    )


def windows(tokens: Sequence[int], context: int, bos: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of at most `context` tokens each, every token being a target once.

    Without a bos token the first of all tokens is no target.
    """
    tokens = np.asarray(tokens, dtype=np.int64)
    if bos is None:
        first, targets = tokens[:-1], tokens[1:]
    else:
        first, targets = np.concatenate([[bos], tokens[:-1]]), tokens
    found = []
    for start in range(0, len(targets), context):
        inputs = first[start : start + context].copy()
        if bos is not None:
            inputs[0] = bos
        found.append((inputs, targets[start : start + context]))
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def compare(
    checkpoint: Checkpoint,
    model: Model,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Run both over the windows.

    Parameters
    ----------
    checkpoint : Checkpoint
        For the float64 reference.
    model : Model
        For the golden decoder.
    parts : list of (inputs, targets)
    progress : callable
        Called with the number of tokens done in each window.
    """
    reference = Reference(checkpoint)
    decoder = Decoder(model)
    loss: list[np.ndarray] = []
    divergence: list[np.ndarray] = []
    agreed = 0
    for inputs, targets in parts:
        p = log_softmax(reference.forward(inputs).logits)
        logits = decoder.step(inputs)
        decoder.close()
        q = log_softmax(logits / 2.0**16)
        rows = np.arange(len(targets))
        loss.append(np.stack([-p[rows, targets], -q[rows, targets]]))
        divergence.append((np.exp(p) * (p - q)).sum(axis=-1))
        agreed += int((p.argmax(axis=-1) == logits.argmax(axis=-1)).sum())
        progress(len(targets))
    both = np.concatenate(loss, axis=1)
    change = both[1] - both[0]
    count = len(change)
    ratio = float(np.exp(change.mean()))
    return Comparison(
        tokens=count,
        perplexity_float=float(np.exp(both[0].mean())),
        perplexity_int=float(np.exp(both[1].mean())),
        perplexity_change=ratio - 1,
        perplexity_change_se=ratio * float(change.std(ddof=1 if count > 1 else 0)) / count**0.5,
        mean_kl=float(np.concatenate(divergence).mean()),
        top1=agreed / count,
    )


def judge(found: Comparison, kl_16bit: float, limits: Gates) -> list[Gate]:
    """Every gate with its value."""
    return [
        Gate("tokens", found.tokens, limits.tokens, True),
        Gate("perplexity_change", found.perplexity_change, limits.perplexity_change, False),
        Gate("mean_kl", found.mean_kl, limits.mean_kl, False),
        Gate("top1", found.top1, limits.top1, True),
        Gate("kl_16bit", kl_16bit, limits.kl_16bit, False),
    ]


def measure(checkpoint: Checkpoint, tokens: Sequence[int], console: Console) -> tuple[Comparison, Comparison]:
    """Compare with 8 and with 16 bits; the latter over the first windows of at least 2,048 tokens."""
    parts = windows(tokens, checkpoint.context, checkpoint.bos)
    few, count = [], 0
    for part in parts:
        if count < TOKENS_16BIT:
            few.append(part)
            count += len(part[1])
    with Progress(
        TextColumn("{task.description:16}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("calibrating", total=4)
        means = k_means(checkpoint, progress=lambda what, i, n: bars.update(task, completed=i, total=n))
        image = compile_tape(quantize(checkpoint, means=means), PRESETS["base"])
        found = []
        wide = golden_model(quantize(checkpoint, bits=16, means=means))
        for name, model, some in (("8 bits", load_model(image), parts), ("16 bits", wide, few)):
            task = bars.add_task(name, total=sum(len(targets) for _, targets in some))
            found.append(compare(checkpoint, model, some, lambda n, task=task: bars.advance(task, n)))
    return found[0], found[1]


def show(console: Console, title: str, found: Comparison, wide: Comparison, gates: list[Gate]) -> None:
    """Print the tables."""
    limits = {gate.name: gate for gate in gates}

    def row(name: str, label: str, text: Callable[[float], str], value: float, more: str = "") -> None:
        gate = limits.get(name)
        sign = ("≥" if gate.at_least else "≤") + " " + text(gate.limit) if gate else ""
        verdict = ("[green]pass[/]" if gate.passed else "[bold red]FAIL[/]") if gate else ""
        table.add_row(label, text(value) + more, sign, verdict)

    table = Table(title=title, title_justify="left")
    for name in ("", "measured", "gate", ""):
        table.add_column(name, justify="right" if name else "left")
    row("tokens", "tokens", lambda v: f"{v:,.0f}", found.tokens)
    row("perplexity_float", "perplexity, float64", lambda v: f"{v:.4f}", found.perplexity_float)
    row("perplexity_int", "perplexity, integers", lambda v: f"{v:.4f}", found.perplexity_int)
    error = f" ± {found.perplexity_change_se:.3%}"
    row("perplexity_change", "change", lambda v: f"{v:+.3%}", found.perplexity_change, error)
    row("mean_kl", "mean KL (nats)", lambda v: f"{v:.5f}", found.mean_kl)
    row("top1", "top-1 agreement", lambda v: f"{v:.2%}", found.top1)
    row("kl_16bit", f"KL with 16 bits, {wide.tokens:,} tokens", lambda v: f"{v:.2e}", wide.mean_kl)
    console.print(table)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.accuracy", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint (default: models/jargon)")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer, if it is not beside it")
    parser.add_argument("--text", type=Path, default=TEXT, help="held-out text (default: the excerpt there)")
    parser.add_argument("--tokens", type=int, help="how many tokens of it, at most (default: all)")
    parser.add_argument("--json", type=Path, default=REPORT, help="report (default: %(default)s)")
    parser.add_argument("--gates", choices=GATES, help="small for our own checkpoint, story for all others")
    args = parser.parse_args(argv)
    if args.tokens is not None and args.tokens < 1:
        parser.error(f"--tokens must be at least 1, not {args.tokens}")
    if args.gates is None:
        args.gates = "small" if args.model.resolve() == MODEL else "story"
    return args


def run(args: argparse.Namespace) -> bool:
    """Measure, print and write the report; returns whether all gates passed."""
    console, began = Console(), time.monotonic()
    checkpoint = open_checkpoint(args.model, args.tokenizer)
    try:
        text = args.text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SerranoError(f"{args.text}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    tokens = checkpoint.tokenizer().encode(text, bos=False)
    if len(tokens) < 2:
        raise SerranoError(f"{args.text}: at least two tokens are needed, not {len(tokens)}")
    chosen = tokens[: args.tokens]
    console.print(
        f"{checkpoint.name}: {checkpoint.parameters:,} parameters; {args.text.name}: {len(tokens):,} tokens"
    )
    console.print(f"gates: those of the class '{args.gates}' (--gates chooses)")
    found, wide = measure(checkpoint, chosen, console)
    gates = judge(found, wide.mean_kl, GATES[args.gates])
    passed = all(gate.passed for gate in gates)
    show(console, f"golden integers against float64, {checkpoint.name}", found, wide, gates)
    report = asdict(found) | {
        "kl_16bit": wide.mean_kl,
        "tokens_16bit": wide.tokens,
        "model": checkpoint.name,
        "text": args.text.name,
        "class": args.gates,
        "gates": {gate.name: asdict(gate) | {"passed": gate.passed} for gate in gates},
        "passed": passed,
        "seconds": round(time.monotonic() - began, 1),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + "\n")
    missed = [gate.name for gate in gates if not gate.passed]
    console.print("all gates passed" if passed else f"missed: {', '.join(missed)}")
    return passed


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every gate passed, 1 if one did not, 2 for wrong input."""
    args = arguments(argv)
    try:
        return 0 if run(args) else 1
    except SerranoError as error:
        print(f"accuracy: error: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("accuracy: interrupted", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
