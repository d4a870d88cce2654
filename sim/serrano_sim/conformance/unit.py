# SPDX-License-Identifier: Apache-2.0
"""The controller with what feeds it commands in a replay, and a bench around both."""

import dataclasses
import functools
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig, preset
from serrano.kvcache import Controller, KVCommand, KVResponse, Status
from serrano.verilog import generate

from .. import runner
from ..cocotb.testbench import axi_testbench
from .recording import BLOCKS_LIMIT

__all__ = ["ANSWERS", "Bench", "ReplayUnit", "Sizes", "write_bench"]

ANSWERS = "answers"
"""The trace sink that takes every response."""

_LEAST = 16


def _rounded(number: int) -> int:
    return max(_LEAST, 1 << (number - 1).bit_length())


@dataclass(frozen=True)
class Sizes:
    """How large a controller must be: blocks of the pool, sequences, and entries of a table."""

    blocks: int
    sequences: int
    entries: int

    @property
    def rounded(self) -> "Sizes":
        """The next powers of two, so that a build serves many recordings.

        Raises
        ------
        ValueError
            If the controller cannot be made so large.
        """
        blocks, sequences, entries = map(_rounded, (self.blocks, self.sequences, self.entries))
        if blocks > BLOCKS_LIMIT or sequences > 1 << 16:
            raise ValueError(f"the controller has at most 65,536 blocks and sequences; {self} are needed")
        return Sizes(blocks, sequences, min(entries, (1 << 16) - 1))

    @property
    def config(self) -> AcceleratorConfig:
        """An accelerator with this controller."""
        return dataclasses.replace(
            preset("tiny"),
            name=f"replay-{self.blocks}-{self.sequences}-{self.entries}",
            blocks_max=self.blocks,
            sequences_max=self.sequences,
            context_max=16 * self.entries,
        )


class ReplayUnit(wiring.Component):
    """The controller, and in front of its host port something that repeats commands.

    When ``go`` differs from ``done``, ``command`` is executed, up to ``count`` times: each time with an
    ``arg1`` that is higher by one, or, with ``follow``, with the lower half of the last answer, until that is
    0. A refusal ends it too. Then ``done`` becomes ``go``.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    go : ``In(1)``
        Changes when ``command``, ``count`` (at least 1) and ``follow`` are to be executed.
    command : ``In(KVCommand)``
        The command; its tag is ignored.
    count : ``In(17)``
        How often.
    follow : ``In(1)``
        Whether ``arg1`` comes from the last answer.
    done : ``Out(1)``
        Equal to ``go`` when everything is executed.
    answers_valid : ``Out(1)``
        There is a response in this cycle.
    answers : ``Out(KVResponse)``
        The response; its tag is the command's number among these.
    initialize, blocks, initializing
        As the controller's.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "go": In(1),
                "command": In(KVCommand),
                "count": In(17),
                "follow": In(1),
                "done": Out(1),
                "answers_valid": Out(1),
                "answers": Out(KVResponse),
                "initialize": In(1),
                "blocks": In(32),
                "initializing": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.controller = controller = Controller(self.config, translate_ports=1)
        commands, responses = controller.host.commands, controller.host.responses
        command, left = Signal(KVCommand), Signal(17)
        m.d.comb += [
            controller.initialize.eq(self.initialize),
            controller.blocks.eq(self.blocks),
            self.initializing.eq(controller.initializing),
            commands.payload.eq(command),
            self.answers.eq(responses.payload),
        ]
        following = Mux(self.follow, responses.payload.aux[:16], command.arg1 + 1)
        last = (left == 1) | (self.follow & (following == 0)) | (responses.payload.status != Status.OK)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [command.eq(self.command), command.tag.eq(0), left.eq(self.count)]
                with m.If(self.go != self.done):
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += commands.valid.eq(1)
                with m.If(commands.ready):
                    m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += [responses.ready.eq(1), self.answers_valid.eq(responses.valid)]
                with m.If(responses.valid):
                    m.d.sync += [
                        command.tag.eq(command.tag + 1),
                        command.arg1.eq(following),
                        left.eq(left - 1),
                    ]
                    m.next = "COMMAND"
                    with m.If(last):
                        m.d.sync += self.done.eq(self.go)
                        m.next = "IDLE"
        return m


@dataclass(frozen=True)
class Bench:
    """All that a run needs: Verilog files, name of the outermost module, C++ files."""

    files: tuple[Path, ...]
    top: str
    sources: Sequence[Path]


@functools.cache
def write_bench(sizes: Sizes) -> Bench:
    """The unit as Verilog, with a clock and a trace sink around it."""
    name = "kv_replay"
    emission = generate(ReplayUnit(sizes.config), name)
    bench = axi_testbench(name, emission.ports, traces={ANSWERS: ("answers_valid", "answers")})
    key = hashlib.sha256((emission.text + bench.text).encode()).hexdigest()[:16]
    folder = runner.build_root() / "designs" / f"{sizes.config.name}-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        emission.write(work)
        bench.write(work)
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    files = [folder / wrapper.name for wrapper in emission.wrappers] + [folder / f"{name}.v"]
    files += [*bench.verilog_sources, folder / f"{bench.top}.sv"]
    return Bench(tuple(files), bench.top, bench.cpp_sources)
