# SPDX-License-Identifier: Apache-2.0
"""What is measured: shapes, steps, memories; and what is simulated for it."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serrano.config import PRESETS, AcceleratorConfig, preset
from serrano_host.errors import CompileError
from serrano_host.estimate import Memory, Shape, Span, estimate, read_config
from serrano_host.presets import MACHINES
from serrano_host.tape import head_pad, round_up

from ..top.job import MemorySettings
from ..top.layout import blocks_of
from ..top.limits import limits_of, misfits

__all__ = [
    "MEMORIES",
    "SHAPES",
    "Case",
    "Piece",
    "chosen",
    "full_plan",
    "pieces_of",
    "problems_of",
    "quick_plan",
    "read_shape",
]

SHAPES = {
    "260k": Shape(dim=64, ffn=172, layers=5, heads=8, kv_heads=4, head_dim=8, vocab=512),
    "15m": Shape(dim=288, ffn=768, layers=6, heads=6, kv_heads=6, head_dim=48, vocab=32000),
    "135m": Shape(dim=576, ffn=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152),
    "1.1b": Shape(dim=2048, ffn=5632, layers=22, heads=32, kv_heads=4, head_dim=64, vocab=32000),
}
"""Models by the name that reports have for them."""

PART = "ddr3-1600"
MEMORIES = {
    "fixed60": MemorySettings(read_latency=60, write_latency=60, max_writes=64),
    "dram": MemorySettings(read_latency=30, write_latency=30, max_writes=64, dram=PART),
}
"""Memories: a fixed latency; a DRAM that is 30 cycles away. Both take as many writes as can be under way."""

PHASES = ("decode", "prefill", "mixed")
WHOLE_CYCLES = 1_000_000
"""Steps that are estimated to take no longer are simulated whole."""
SMALL_VOCAB = 128
GOLDEN_WEIGHTS = 300_000_000
"""Models of so many weights are compared with the golden one."""
LAYERS = 2
SETTLE = 1
FFN_BUFFERS = 8
"""So many times the last weights of a model for its LM head fill the tape's buffer."""
SMALL = ("260k",)
MEANT = {"base": tuple(SHAPES), "lean": (), "wide": ()}
"""Models that are measured on a preset if nobody says otherwise; on others the small ones. ``lean`` is
``small`` but for some cycles of a step; to build the simulator of ``wide`` takes as long as all the rest."""
DECODING = 4
"""One in so many rows of a mixed step decodes; all others are of one prompt."""


@dataclass(frozen=True)
class Case:
    """A row of the report.

    Parameters
    ----------
    shape, preset, memory : :class:`str`
        Names.
    phase : :class:`str`
        ``decode``: one row of each of ``batch`` sequences; ``prefill``: ``batch`` rows of one prompt, none
        of them sampled; ``mixed``: a quarter of the rows decodes, all others are of one prompt.
    batch : :class:`int`
        Rows of the step.
    context : :class:`int`
        Committed tokens of each sequence.
    """

    shape: str
    preset: str
    phase: str
    batch: int
    context: int
    memory: str = "fixed60"

    @property
    def tags(self) -> tuple[str, ...]:
        """What a filter may name."""
        return (
            self.shape,
            self.preset,
            self.phase,
            f"b{self.batch}",
            f"c{self.context}",
            self.memory,
        )

    def __str__(self):
        return " ".join(self.tags)

    def spans(self) -> tuple[Span, ...]:
        """The rows of the step."""
        if self.phase == "decode":
            return (Span(self.context),) * self.batch
        if self.phase == "prefill":
            return (Span(self.context, self.batch),)
        decoding = max(1, self.batch // DECODING)
        return (*(Span(self.context),) * decoding, Span(self.context, self.batch - decoding))

    @property
    def sampled(self) -> int:
        """Rows that are sampled."""
        spans = self.spans()
        return sum(self.phase != "prefill" and span.rows == 1 for span in spans)


@dataclass(frozen=True)
class Piece:
    """A step that is simulated.

    Parameters
    ----------
    preset, memory : :class:`str`
        Names.
    shape : :class:`~serrano_host.estimate.Shape`
        The model.
    spans : tuple of :class:`~serrano_host.estimate.Span`
        Rows of the step.
    sampled : :class:`int`
        How many of them are sampled.
    golden : :class:`bool`
        Whether its results are compared with the golden model's.
    settle : :class:`int`
        Steps before it, of the same form where there are committed tokens.
    name : :class:`str`
        For people.
    """

    preset: str
    memory: str
    shape: Shape
    spans: tuple[Span, ...]
    sampled: int
    golden: bool = dataclasses.field(default=False, compare=False)
    settle: int = 0
    name: str = dataclasses.field(default="", compare=False)

    @property
    def config(self) -> AcceleratorConfig:
        """The accelerator."""
        return preset(self.preset)

    @property
    def rows(self) -> int:
        """Rows of the step."""
        return sum(span.rows for span in self.spans)

    def cycles(self) -> float:
        """An estimate of how long the step takes."""
        memory = Memory.of(self.memory)
        return estimate(MACHINES[self.preset], self.shape, self.spans, self.sampled, memory).cycles


@dataclass(frozen=True)
class Plan:
    """The pieces of a case: the whole step; or one with few layers, and one whose LM head counts.

    ``head`` is ``None`` where no row is sampled.
    """

    body: Piece
    head: Piece | None = None
    extrapolated: bool = False

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Its pieces."""
        return (self.body,) if self.head is None else (self.body, self.head)


def pieces_of(case: Case, shape: Shape, whole: float = WHOLE_CYCLES) -> Plan:
    """What is simulated for a case.

    A step that is estimated to take at most ``whole`` cycles is simulated as it is, and any with hardly more
    layers than are needed otherwise.
    """
    common = {"preset": case.preset, "memory": case.memory, "name": str(case)}
    piece = Piece(shape=shape, spans=case.spans(), sampled=case.sampled, **common)
    cycles = piece.cycles()
    if cycles <= whole or shape.layers <= LAYERS:
        return Plan(_settled(piece))
    few = dataclasses.replace(shape, layers=LAYERS, vocab=min(shape.vocab, SMALL_VOCAB))
    body = _settled(dataclasses.replace(piece, shape=few))
    if not case.sampled:
        return Plan(body, extrapolated=True)
    return Plan(body, _head(case, shape), True)


def _settled(piece: Piece) -> Piece:
    """With a step of the same form before it where that does not take long."""
    settle = SETTLE * (piece.cycles() <= WHOLE_CYCLES)
    return _judged(dataclasses.replace(piece, settle=settle))


def _judged(piece: Piece) -> Piece:
    """Compared with the golden model if that is done in seconds."""
    shape = piece.shape
    layer = 3 * shape.dim * shape.ffn + 2 * shape.dim * (shape.heads + shape.kv_heads) * shape.head_dim
    golden = layer * shape.layers + shape.dim * shape.vocab <= GOLDEN_WEIGHTS
    return dataclasses.replace(piece, golden=golden)


def _head(case: Case, shape: Shape) -> Piece:
    """A step of one small layer whose LM head is that of the shape."""
    machine = MACHINES[case.preset]
    ffn = round_up(-(-FFN_BUFFERS * machine.tape_fifo_bytes // shape.dim), machine.n)
    small = Shape(
        dim=shape.dim,
        ffn=min(shape.ffn, ffn),
        layers=1,
        heads=1,
        kv_heads=1,
        head_dim=machine.n,
        vocab=shape.vocab,
    )
    piece = Piece(
        preset=case.preset,
        memory=case.memory,
        shape=small,
        spans=(Span(0),) * case.sampled,
        sampled=case.sampled,
        name=f"{case.shape} {case.preset} LM head b{case.sampled} {case.memory}",
    )
    return _judged(piece)


def read_shape(path: Path) -> tuple[str, Shape]:
    """Name and dimensions of a model in a JSON file.

    Raises
    ------
    CompileError
        If there is none.
    """
    values = read_config(path)
    name = values.get("name", path.stem)
    return str(name).replace(",", "_").replace(" ", "_"), Shape.of(values)


def problems_of(case: Case, shape: Shape) -> list[str]:
    """Why a case cannot be measured."""
    config = preset(case.preset)
    try:
        Piece(case.preset, case.memory, shape, case.spans(), case.sampled).cycles()
    except CompileError as error:
        return [str(error)]
    # What requests for it ask for at most.
    tokens = case.context + (SETTLE + 2) * config.rows_max + SETTLE + 4
    settled = SimpleNamespace(
        **vars(shape), n=config.n, align=config.tape_align, head_pad=head_pad(shape.head_dim, config.n)
    )
    found = misfits(settled, limits_of(config))
    count = len(case.spans())
    for name, value in (
        ("context_max", tokens),
        ("sequences_max", count),
        ("blocks_max", 1 + count * blocks_of(tokens)),
    ):
        if value > getattr(config, name):
            found.append(f"it takes {value}, {name} is {getattr(config, name)}")
    return found


# Plans


def _cases(shape: str, presets: str, memory: str = "fixed60", **axes: Sequence[Any]) -> Iterator[Case]:
    for phase, batch, context in itertools.product(axes["phases"], axes["batches"], axes["contexts"]):
        yield Case(shape, presets, phase, batch, context, memory)


def _of(shape: str, name: str, rows_max: int, full: bool) -> Iterator[Case]:
    """All cases of a shape on a preset."""
    batches = [batch for batch in (1, 4, 16, 64) if batch <= rows_max]
    contexts = (0, 256, 2048) if full else (0, 256)
    yield from _cases(shape, name, phases=["decode"], batches=batches, contexts=contexts)
    yield from _cases(shape, name, phases=["prefill"], batches=[rows_max], contexts=(0, 256))
    yield from _cases(shape, name, phases=["mixed"], batches=[rows_max], contexts=(256,))


def full_plan(shapes: Sequence[str], presets: Sequence[str] | None = None) -> list[Case]:
    """Everything for some shapes on some presets; by default on each one what is meant for it."""
    cases: list[Case] = []
    for name in PRESETS if presets is None else presets:
        config = preset(name)
        for shape in shapes:
            meant = MEANT.get(name, SMALL) if presets is None else None
            if meant is None or shape in meant or (meant and shape not in SHAPES):
                cases += _of(shape, name, config.rows_max, name == "base")
                if name == "base":
                    axes = {"phases": ["decode"], "batches": [1, 16], "contexts": [0, 256]}
                    cases += _cases(shape, name, "dram", **axes)
    return cases


def quick_plan(shapes: Sequence[str]) -> list[Case]:
    """A quarter of an hour's worth."""
    cases: list[Case] = []
    for shape in shapes:
        if shape in ("260k", "15m"):
            cases += _cases(shape, "base", phases=["decode"], batches=[1, 16], contexts=[0, 256])
            cases += _cases(shape, "base", phases=["prefill"], batches=[16], contexts=[256])
        elif shape == "135m":
            cases += _cases(shape, "base", phases=["decode"], batches=[1], contexts=[256])
            cases += _cases(shape, "base", phases=["prefill"], batches=[16], contexts=[256])
        elif shape not in SHAPES:
            cases += _cases(shape, "base", phases=["decode"], batches=[1], contexts=[256])
    return cases


def chosen(cases: Sequence[Case], filters: Sequence[str]) -> list[Case]:
    """The cases that one of the filters fits; a filter is a list of tags, all of which a case must have.

    Raises
    ------
    ValueError
        If a filter fits no case.
    """
    if not filters:
        return list(cases)
    found: dict[Case, None] = {}
    for text in filters:
        tags = {tag.strip() for tag in text.split(",") if tag.strip()}
        fitting = [case for case in cases if tags <= set(case.tags)]
        if not fitting:
            known = sorted({tag for case in cases for tag in case.tags})
            unknown = sorted(tags - set(known))
            why = (
                f"{', '.join(unknown)} is none of {', '.join(known)}"
                if unknown
                else "no row has all of these"
            )
            raise ValueError(f"--only {text}: {why}")
        found |= dict.fromkeys(fitting)
    return [case for case in cases if case in found]
