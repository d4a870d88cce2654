# SPDX-License-Identifier: Apache-2.0
"""What `serrano run` does."""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from serrano_host.checkpoints import Tokenizer, open_checkpoint, open_tokenizer
from serrano_host.compile import PRESETS, compile_tape, write_atomically
from serrano_host.driver import Device, Transport
from serrano_host.errors import RequestError, SerranoError, TransportError
from serrano_host.quantize import Progress, quantize
from serrano_host.tape import DESCRIPTOR_BYTES, MAGIC, Descriptor, open_tape

from .display import Display
from .logits import Steps, write_logits
from .prompts import Defaults, Wanted, parse_ids, read_prompts, wanted_ids, wanted_text
from .report import build_report, show_report
from .session import serve

__all__ = ["TRANSPORTS", "Model", "Order", "gather_prompts", "open_model", "open_transport", "run"]

TRANSPORTS = {
    "sim": "serrano_sim.transport.simulation:open_transport",
    "serial": "serrano_host.board.transport:open_transport",
}
"""Transports by name, as module:function, looked up when wanted: the host does not know the simulation."""

LEAST_RECORDS, MOST_RECORDS = 1024, 1 << 16
SUBMIT_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line says.

    Parameters
    ----------
    model : path
        A checkpoint or a tape.
    prompts, prompt_ids : sequence of str
        Prompts as text, and as ids.
    file : path, optional
        More of them, as JSON Lines.
    max_new : int
        Tokens wanted where a prompt does not say.
    preset, tokenizer, transport, options
        As the options of these names.
    ignore_eos : bool
        Whether the model's eos does not end a generation.
    kv_blocks : int, optional
        KV blocks at most.
    json, logits : path, optional
        Where report and logits go.
    steps : str
        Of which steps.
    logprobs : bool
        Whether as log-probabilities.
    """

    model: Path
    prompts: Sequence[str] = ()
    prompt_ids: Sequence[str] = ()
    file: Path | None = None
    max_new: int = 32
    preset: str = "base"
    tokenizer: Path | None = None
    transport: str = "sim"
    options: Sequence[str] = ()
    ignore_eos: bool = False
    kv_blocks: int | None = None
    json: Path | None = None
    logits: Path | None = None
    steps: str = "all"
    logprobs: bool = False


@dataclass(frozen=True)
class Model:
    """A model, and how to get its tape."""

    name: str
    eos: int | None
    vocab: int
    tokenizer: Tokenizer | None
    image: Callable[[Progress | None], bytes] = field(repr=False)


def open_model(order: Order) -> Model:
    """The model of a checkpoint or a tape; a checkpoint is compiled only when its image is asked for."""
    path = order.model
    if is_tape(path):
        d = open_tape(path).descriptor
        tokenizer = None
        if order.tokenizer is not None:
            tokenizer = open_tokenizer(order.tokenizer, d.vocab, d.bos)
        return Model(d.name or path.name, d.eos, d.vocab, tokenizer, lambda _: path.read_bytes())
    if order.preset not in PRESETS:
        raise RequestError(f"preset must be one of {', '.join(PRESETS)}, not {order.preset!r}")
    checkpoint = open_checkpoint(path, order.tokenizer)
    # Without one there are prompts of ids only.
    tokenizer = checkpoint.tokenizer() if checkpoint.tokenizer_path else None

    def image(progress: Progress | None) -> bytes:
        return compile_tape(quantize(checkpoint, progress=progress), PRESETS[order.preset], progress)

    return Model(checkpoint.name, checkpoint.eos, checkpoint.vocab, tokenizer, image)


def is_tape(path: Path) -> bool:
    """Whether a file begins as a tape does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def gather_prompts(order: Order, model: Model) -> list[Wanted]:
    """All prompts in the order of the options: texts, ids, then the file's.

    Raises
    ------
    RequestError
        If one is wrong, or there is none.
    """
    if order.max_new < 1:
        raise RequestError(f"--max-new must be at least 1, not {order.max_new}")
    defaults = Defaults(order.max_new, None if order.ignore_eos else model.eos, model.tokenizer)
    prompts = [wanted_text(text, defaults) for text in order.prompts]
    prompts += [wanted_ids(parse_ids(text), defaults) for text in order.prompt_ids]
    if order.file is not None:
        prompts += read_prompts(order.file, defaults)
    if not prompts:
        raise RequestError("there is nothing to do: give --prompt, --prompt-ids or --file")
    return prompts


def ring_sizes(prompts: Sequence[Wanted]) -> dict[str, int]:
    """Rings with room for what may run at a time."""
    longest = sorted((wanted.max_new + 1 for wanted in prompts), reverse=True)[:SUBMIT_SIZE]
    records = min(max(LEAST_RECORDS, sum(longest)), MOST_RECORDS)
    return {"submit_size": SUBMIT_SIZE, "complete_size": 1 << (records - 1).bit_length()}


def open_transport(
    order: Order, descriptor: Descriptor, progress: Callable[[str], None], sizes: Mapping[str, int]
) -> Transport:
    """The transport that was asked for: a name of TRANSPORTS, or module:function.

    The function gets preset, descriptor, options by name, something to call with a text before what takes
    long, and the sizes of the rings by name.

    Raises
    ------
    TransportError
        If there is none, or it cannot be opened.
    """
    place = TRANSPORTS.get(order.transport, order.transport)
    module, colon, function = place.partition(":")
    if not colon:
        known = ", ".join(TRANSPORTS)
        raise TransportError(f"transport must be {known} or module:function, not {order.transport!r}")
    options = {}
    for text in order.options:
        name, equals, value = text.partition("=")
        if not equals:
            raise TransportError(f"--option takes NAME=VALUE, not {text!r}")
        options[name] = value
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise TransportError(f"transport {order.transport!r} is not installed: {error}") from error
    return factory(order.preset, descriptor, options, progress, **sizes)


def run(
    order: Order,
    console: Console,
    compiling: Callable[[], AbstractContextManager[Progress]],
) -> int:
    """Serve the prompts; returns the exit status: 1 if a request failed.

    Parameters
    ----------
    order : Order
        What to do.
    console : rich console
        Where texts and report go.
    compiling : callable
        Gives a context in which the progress of compiling is shown.

    Raises
    ------
    SerranoError
        If something is wrong with the input, the transport or the device.
    """
    model = open_model(order)
    prompts, steps = gather_prompts(order, model), Steps(order.steps)
    with compiling() as progress:
        image = model.image(progress)
    descriptor, sizes = Descriptor.unpack(image[:DESCRIPTOR_BYTES]), ring_sizes(prompts)
    display = Display(console)
    with display:
        transport = open_transport(order, descriptor, display.stage, sizes)
        if order.logits is not None and not hasattr(transport, "logits"):
            transport.close()
            raise TransportError(
                "this transport has no logits: the accelerator does not write them to memory, only a"
                " simulation sees them"
            )
        with _device(transport, order, sizes) as device:
            display.stage("loading the tape")
            device.load(image)
            display.stage("serving")
            start = transport.cycles()
            served = serve(device, prompts, display, model.tokenizer)
            device.settle()
            about = {"model": model.name, "preset": order.preset, "transport": order.transport}
            about |= {"options": list(order.options), "rows_max": device.limits.rows_max}
            report = build_report(served, start, device.stats(), about)
            problem: SerranoError | None = None
            if order.logits is not None:
                try:
                    report["logits_rows"] = write_logits(
                        order.logits, transport, served, model.vocab, steps, logprobs=order.logprobs
                    )
                except SerranoError as error:
                    problem = error
    console.print()
    show_report(console, report)
    if "logits_rows" in report:
        console.print(f"{report['logits_rows']} rows in {order.logits}", highlight=False)
    if order.json is not None:
        write_atomically(order.json, (json.dumps(report, indent=1) + "\n").encode())
    if problem is not None:
        raise problem
    return 1 if report["requests_failed"] else 0


def _device(transport: Transport, order: Order, sizes: Mapping[str, int]) -> Device:
    try:
        return Device(transport, kv_blocks=order.kv_blocks, **sizes)
    except BaseException:
        transport.close()
        raise
