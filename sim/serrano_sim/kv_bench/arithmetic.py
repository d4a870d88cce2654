# SPDX-License-Identifier: Apache-2.0
"""The bench's arithmetic: lines through cycle counts, waste, shares of the port, lengths of conversations."""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = [
    "BLOCK_SIZE",
    "Conversation",
    "Line",
    "Window",
    "blocks_of",
    "conversations",
    "fit",
    "scattered",
    "waste",
]

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Line:
    """``base + per_block * b`` cycles.

    ``exact`` tells that every measurement lies on the line; otherwise it is the lowest line of this slope
    that no measurement exceeds, the slope being the largest step between neighbours.
    """

    base: int
    per_block: int
    exact: bool

    def __str__(self):
        return f"{'' if self.exact else '<= '}{self.base} + {self.per_block} b"


def fit(cycles: Mapping[int, int]) -> Line:
    """The line through cycles by number of blocks.

    Raises
    ------
    ValueError
        If there are fewer than two numbers of blocks.
    """
    if len(cycles) < 2:
        raise ValueError(f"A line needs two measurements, not {len(cycles)}")
    points = sorted(cycles.items())
    steps = [
        Fraction(later - earlier, last - first)
        for (first, earlier), (last, later) in itertools.pairwise(points)
    ]
    slope = max(0, math.ceil(max(steps)))
    base = max(value - slope * blocks for blocks, value in points)
    return Line(base, slope, all(value == base + slope * blocks for blocks, value in points))


def blocks_of(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK_SIZE)


def waste(tokens: Iterable[int], blocks: int) -> Fraction:
    """The share of the slots of ``blocks`` blocks that these numbers of tokens leave empty."""
    return 1 - Fraction(sum(tokens), BLOCK_SIZE * blocks)


def scattered(table: Sequence[int]) -> int:
    """Entries of a block table whose block does not lie just behind that of the entry before."""
    return sum(block != before + 1 for before, block in itertools.pairwise(table))


@dataclass(frozen=True)
class Conversation:
    """Tokens of a prompt, and those that were generated after it."""

    prompt: int
    new: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.new


def conversations(count: int, seed: int, tokens_max: int, new_max: int) -> list[Conversation]:
    """Conversations of 1 to ``tokens_max`` tokens, of which at most ``new_max`` are generated.

    Lengths of prompts and answers are log-normal with medians of 200 and 100 tokens and a sigma of 1.3 and
    1.2, drawn again if they do not fit.
    """
    rng = random.Random(f"conversations {seed}")
    found: list[Conversation] = []
    while len(found) < count:
        prompt = round(rng.lognormvariate(math.log(200), 1.3))
        new = round(rng.lognormvariate(math.log(100), 1.2))
        if prompt >= 1 and 0 <= new <= new_max and prompt + new <= tokens_max:
            found.append(Conversation(prompt, new))
    return found


@dataclass(frozen=True)
class Window:
    """Cycles in which beats crossed the port, each end included.

    ``taken`` is the cycle in which the (first) command was taken, ``first`` and ``last`` those of the first
    and the last beat.
    """

    taken: int
    first: int
    last: int
    beats: int

    @property
    def cycles(self) -> int:
        """From the command to the last beat."""
        return self.last - self.taken + 1

    @property
    def streaming(self) -> int:
        """From the first beat to the last."""
        return self.last - self.first + 1

    @property
    def share(self) -> float:
        """Beats per cycle, the latency from the command included."""
        return self.beats / self.cycles

    @property
    def steady_share(self) -> float:
        """Beats per cycle from the first beat to the last."""
        return self.beats / self.streaming
