# SPDX-License-Identifier: Apache-2.0
"""Two prompts with a common prefix: what the host does so that the second uses blocks of the first.

The first request leaves its sequence to the host, which seals its full blocks. For the second one it opens a
sequence that begins with the common prefix: blocks that are wholly in it are shared; one that is partly in it
is shared as well and the tokens behind the prefix trimmed, so that the first token of the request itself
makes the copy. Afterwards the second request runs once more by itself, in an empty pool, for comparison.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serrano.config import AcceleratorConfig

from ..golden.block_manager import BLOCK_SIZE, Opcode, Stat, Status
from ..golden.decoder import Decoder
from ..golden.model import Model
from ..golden.sample import greedy
from .job import KVCommand, Phase
from .layout import Request, blocks_of
from .mirror import Admission, Mirror

__all__ = [
    "ALONE",
    "FIRST",
    "SECOND",
    "Method",
    "PrefixPlan",
    "common_prefix",
    "golden_tokens",
    "plan_prefix",
]

FIRST, SECOND, ALONE = range(3)
"""The requests of a plan, and their phases."""

SEQUENCES = (1, 2)
"""Sequences of the first request and of the second one. The scheduler opens number 0 by itself."""


class Method(enum.Enum):
    """How the second sequence comes to its prefix."""

    NOTHING = "nothing"
    """Nothing is shared."""
    SHARE = "share"
    """Whole blocks."""
    SHARE_TRIM = "share and trim"
    """The partial block is full in the first sequence, thus sealed: shared and trimmed."""
    FORK_TRIM = "fork and trim"
    """It is not: all blocks of the first sequence are shared and the end trimmed."""


@dataclass(frozen=True)
class PrefixPlan:
    """What is to be run.

    Parameters
    ----------
    common : :class:`int`
        Tokens that both prompts begin with.
    reused : :class:`int`
        Of these, the tokens that the second request finds in its sequence: at least one token of a prompt
        has to be computed.
    method : :class:`Method`
        How.
    requests : tuple of :class:`~serrano_sim.top.layout.Request`
        The first one, the second one with the first's blocks, the second one alone.
    phases : tuple of :class:`~serrano_sim.top.job.Phase`
        One for each request, and one with a last look at the pool.
    kv_blocks : :class:`int`
        Blocks, NULL included: as many as keep what every request wrote to the end, if there are so many.
    """

    common: int
    reused: int
    method: Method
    requests: tuple[Request, ...]
    phases: tuple[Phase, ...]
    kv_blocks: int


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    count = 0
    for one, two in zip(first, second, strict=False):
        if one != two:
            break
        count += 1
    return count


def reused_tokens(first: Sequence[int], second: Sequence[int], bos: int | None = None) -> int:
    """Tokens of the common prefix that a second request can take over from the first.

    All but the second prompt's last one, as a step must give the first new token. A bos token that is all
    that both have in common is not worth a block.
    """
    common = common_prefix(first, second)
    if common == 1 and first[0] == bos:
        return 0
    return min(common, len(second) - 1)


def blocks_needed(first: Request, second: Request, reused: int) -> int:
    """Blocks that the first two requests of a plan take at the same time, NULL included."""
    return 1 + blocks_of(first.tokens) + blocks_of(second.tokens) - reused // BLOCK_SIZE


def golden_tokens(model: Model, n: int, request: Request) -> list[int]:
    """What the golden model generates, from which follows how long the sequence becomes."""
    decoder = Decoder(model, n)
    made: list[int] = []
    if len(request.prompt) > 1:
        decoder.step(request.prompt[:-1], sample=False)
    token = request.prompt[-1]
    while len(made) < request.max_new and (not made or token != request.eos):
        token = int(greedy(decoder.step([token]))[-1])
        made.append(token)
    return made


class _Host:
    """The host's commands of one phase, and what it learns from the answers."""

    def __init__(self, mirror: Mirror):
        self.mirror = mirror
        self.commands: list[KVCommand] = []

    def __call__(self, opcode: Opcode, sequence: int, argument0: int = 0, argument1: int = 0) -> int:
        command = KVCommand(int(opcode), sequence, 0, int(argument0), int(argument1))
        self.commands.append(command)
        status, aux = self.mirror.command(command)
        if status != Status.OK:
            raise ValueError(f"Command {command} is refused: {Status(status).name}")
        return aux

    def look(self, *sequences: int) -> None:
        """Reads the pool, these sequences and the state of their blocks."""
        for kind in (Stat.POOL_USED, Stat.POOL_PEAK, Stat.POOL_ENDS):
            self(Opcode.STAT, 0, kind)
        blocks = []
        for sequence in sequences:
            for kind in (Stat.SEQUENCE_OWNER, Stat.SEQUENCE_LENGTH, Stat.SEQUENCE_RESERVED):
                self(Opcode.STAT, sequence, kind)
            entries = self(Opcode.STAT, sequence, Stat.SEQUENCE_TABLE) & 0xFFFF
            blocks += [self(Opcode.STAT, sequence, Stat.SEQUENCE_ENTRY, index) for index in range(entries)]
        for block in dict.fromkeys(blocks):
            for kind in (Stat.BLOCK_STATE, Stat.BLOCK_GENERATION):
                self(Opcode.STAT, 0, kind, block)


def plan_prefix(
    config: AcceleratorConfig,
    first: Request,
    second: Request,
    made: tuple[int, int],
    bos: int | None = None,
) -> PrefixPlan:
    """Plans two requests, and the second one once more.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    first, second : :class:`~serrano_sim.top.layout.Request`
        The requests as they would be without each other.
    made : pair of :class:`int`
        Tokens that each of them generates.
    bos : :class:`int` or ``None``
        Token that every prompt begins with.

    Raises
    ------
    ValueError
        If the accelerator has too few blocks or sequences.
    """
    one, two = SEQUENCES
    reused = reused_tokens(first.prompt, second.prompt, bos)
    needed = blocks_needed(first, second, reused)
    if needed > config.blocks_max:
        raise ValueError(f"{needed} KV blocks are needed, blocks_max of {config.name} is {config.blocks_max}")
    kv_blocks = min(config.blocks_max, needed + blocks_of(second.tokens))
    leading = replace(first, adopt=True, keep=True, sequence=one)
    following = replace(second, adopt=True, keep=True, sequence=two)
    mirror = Mirror(config, kv_blocks)
    mirror.load()

    host = _Host(mirror)
    host(Opcode.OPEN, one)
    phases = [Phase(load=True, commands=tuple(host.commands), requests=(leading,))]
    _serve(mirror, leading, made[0])

    host = _Host(mirror)
    sealed = []
    for index in range(mirror.length(one) // BLOCK_SIZE):
        generation = host(Opcode.SEAL, one, index)
        sealed.append((host(Opcode.STAT, one, Stat.SEQUENCE_ENTRY, index), generation))
    host(Opcode.OPEN, two)
    method = _share(host, sealed, reused)
    host.look(one, two)
    phases.append(Phase(commands=tuple(host.commands), requests=(following,)))
    _serve(mirror, following, made[1])

    host = _Host(mirror)
    host.look(one, two)
    for sequence in (two, one):
        host(Opcode.FREE, sequence)
    host(Opcode.RESET_POOL, 0)
    phases.append(Phase(commands=tuple(host.commands), requests=(second,)))
    _serve(mirror, second, made[1])

    host = _Host(mirror)
    host.look()
    phases.append(Phase(commands=tuple(host.commands)))
    return PrefixPlan(
        common=common_prefix(first.prompt, second.prompt),
        reused=reused,
        method=method,
        requests=(leading, following, second),
        phases=tuple(phases),
        kv_blocks=kv_blocks,
    )


def _share(host: _Host, sealed: Sequence[tuple[int, int]], reused: int) -> Method:
    """Gives the second sequence the first tokens of the first one."""
    one, two = SEQUENCES
    full, rest = divmod(reused, BLOCK_SIZE)
    if rest and full >= len(sealed):
        host(Opcode.FORK, one, two)
        host(Opcode.TRIM, two, reused)
        return Method.FORK_TRIM
    for block, generation in sealed[: full + (rest > 0)]:
        host(Opcode.SHARE, two, block, generation)
    if rest:
        host(Opcode.TRIM, two, reused)
        return Method.SHARE_TRIM
    return Method.SHARE if full else Method.NOTHING


def _serve(mirror: Mirror, request: Request, made: int) -> None:
    """A request as the scheduler serves it: the last token that it makes is not written."""
    admission = mirror.admit(request)
    if not isinstance(admission, Admission):
        raise ValueError(f"A request of {request.tokens} tokens is refused: {admission.name}")
    mirror.step(request, admission.sequence, len(request.prompt) + made - 1 - admission.length)
    mirror.end(request, admission.sequence)
