# SPDX-License-Identifier: Apache-2.0
"""What is measured: controller, gather and mover on a memory port of their own, and a bench around them."""

import functools
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import AXI4Read, AXI4Write, ReadArbiter, ReadClient, WriteArbiter
from serrano.config import AcceleratorConfig
from serrano.emit.boundary import axi_port_names
from serrano.kvcache import (
    BlockMover,
    Controller,
    Gather,
    GatherCommand,
    KVGeometry,
    KVPort,
    Status,
    TranslatePort,
)
from serrano.layouts import ReadRequest
from serrano.stream import StreamFIFO
from serrano.verilog import generate

from .. import runner
from ..cocotb.testbench import axi_testbench

__all__ = ["MEMORY", "TRACES", "Bench", "Event", "KVUnit", "write_bench"]

MEMORY = "memory"
TRACES = ("beats", "linear", "events")
"""Trace sinks: gather's beats, those of the plain read beside it, and what happened when."""

COMMANDS_AHEAD = 64


class Event(data.StructLayout):
    """What happens in a cycle; ``ended`` and ``lookup`` are statuses, ``block`` the answer to a look-up."""

    def __init__(self):
        super().__init__(
            {
                "gather_taken": 1,
                "gather_ended": 1,
                "linear_taken": 1,
                "command_taken": 1,
                "responded": 1,
                "asked": 1,
                "answered": 1,
                "unused": 1,
                "ended": Status,
                "lookup": Status,
                "block": 16,
            }
        )


class _Beat(data.StructLayout):
    """A beat as it is traced."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"bytes": 8 * config.port_bytes, "last": 1, "error": 1, "unused": 6})


class KVUnit(wiring.Component):
    """Controller, gather, mover and arbiters as the accelerator has them, and a reader of contiguous memory.

    The arbiter's KV client has the bursts and buffers of the accelerator's; the plain reader has the same.
    Whatever comes is taken at once. Gather's commands pass a queue, as in the data path.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    host : ``In(KVPort())``
        Commands and responses.
    initialize, blocks, initializing
        As the controller's.
    geometry : ``In(KVGeometry(config))``
        Addresses and sizes.
    buffer : ``In(config.address_bits)``
        Where the mover puts gathered records.
    gather : ``In(stream.Signature(GatherCommand(config)))``
        What to gather.
    linear : ``In(stream.Signature(ReadRequest(config)))``
        Runs to read as they lie.
    lookup : ``In(TranslatePort(config))``
        Look-ups.
    ended : ``Out(16)``
        Gather commands that have ended, modulo 65,536.
    linear_ended : ``Out(16)``
        Runs that have been read, likewise.
    beats_valid, beats : ``Out(1)``, ``Out``
        A beat of gather's.
    linear_valid, linear_beats : ``Out(1)``, ``Out``
        A beat of the plain reader's.
    events_valid, events : ``Out(1)``, ``Out(Event())``
        What happens in this cycle.
    m_axi_read, m_axi_write : ``Out(AXI4Read)``, ``Out(AXI4Write)``
        Memory port.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "host": In(KVPort()),
                "initialize": In(1),
                "blocks": In(32),
                "initializing": Out(1),
                "geometry": In(KVGeometry(config)),
                "buffer": In(config.address_bits),
                "gather": In(stream.Signature(GatherCommand(config))),
                "linear": In(stream.Signature(ReadRequest(config))),
                "lookup": In(TranslatePort(config)),
                "ended": Out(16),
                "linear_ended": Out(16),
                "beats_valid": Out(1),
                "beats": Out(_Beat(config)),
                "linear_valid": Out(1),
                "linear_beats": Out(_Beat(config)),
                "events_valid": Out(1),
                "events": Out(Event()),
                "m_axi_read": Out(AXI4Read(config.address_bits, config.port_bytes)),
                "m_axi_write": Out(AXI4Write(config.address_bits, config.port_bytes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        burst = config.read_burst_beats
        clients = [ReadClient(name, burst, config.kv_fifo_beats) for name in ("kv", "linear")]
        clients.append(ReadClient("move", 32, 128, apart=True))
        m.submodules.controller = controller = Controller(config)
        m.submodules.gather = gather = Gather(config)
        m.submodules.mover = mover = BlockMover(config)
        m.submodules.writes = writes = WriteArbiter(config, ["move"], apart=["move"])
        m.submodules.reads = reads = ReadArbiter(config, clients)
        m.submodules.queue = queue = StreamFIFO(GatherCommand(config), COMMANDS_AHEAD)
        wiring.connect(m, wiring.flipped(self.host), controller.host)
        wiring.connect(m, gather.translate, controller.translate[0])
        wiring.connect(m, wiring.flipped(self.lookup), controller.translate[1])
        wiring.connect(m, gather.memory, reads.ports[0])
        wiring.connect(m, wiring.flipped(self.linear), reads.ports[1].request)
        wiring.connect(m, controller.moves, mover.moves)
        wiring.connect(m, mover.reads, reads.ports[2])
        wiring.connect(m, mover.writes, writes.ports[0])
        wiring.connect(m, reads.axi, wiring.flipped(self.m_axi_read))
        wiring.connect(m, writes.axi, wiring.flipped(self.m_axi_write))
        wiring.connect(m, wiring.flipped(self.gather), queue.i)
        wiring.connect(m, queue.o, gather.command)
        m.d.comb += [
            controller.initialize.eq(self.initialize),
            controller.blocks.eq(self.blocks),
            controller.records.eq(self.geometry.records),
            self.initializing.eq(controller.initializing),
            controller.steps.responses.ready.eq(1),
            gather.geometry.eq(self.geometry),
            mover.geometry.eq(self.geometry),
            mover.buffer.eq(self.buffer),
            gather.room.eq(1),
            gather.records.ready.eq(1),
            reads.ports[1].data.ready.eq(1),
        ]
        self._observe(m, gather, reads)
        return m

    def _observe(self, m: Module, gather: Gather, reads: ReadArbiter) -> None:
        plain, event = reads.ports[1].data, self.events
        records = gather.records
        m.d.sync += [
            self.ended.eq(self.ended + gather.ended.valid),
            self.linear_ended.eq(self.linear_ended + (plain.valid & plain.payload.last)),
        ]
        m.d.comb += [
            self.beats_valid.eq(records.valid),
            self.beats.bytes.eq(Value.cast(records.payload.bytes)),
            self.beats.last.eq(records.payload.last),
            self.beats.error.eq(records.payload.error),
            self.linear_valid.eq(plain.valid),
            self.linear_beats.bytes.eq(Value.cast(plain.payload.bytes)),
            self.linear_beats.last.eq(plain.payload.last),
            self.linear_beats.error.eq(plain.payload.error),
            event.gather_taken.eq(gather.command.valid & gather.command.ready),
            event.gather_ended.eq(gather.ended.valid),
            event.linear_taken.eq(self.linear.valid & self.linear.ready),
            event.command_taken.eq(self.host.commands.valid & self.host.commands.ready),
            event.responded.eq(self.host.responses.valid & self.host.responses.ready),
            event.asked.eq(self.lookup.request.valid & self.lookup.request.ready),
            event.answered.eq(self.lookup.response.valid),
            event.ended.eq(gather.ended.status),
            event.lookup.eq(self.lookup.response.status),
            event.block.eq(self.lookup.response.block),
            self.events_valid.eq(Value.cast(event)[:7].any()),
        ]


@dataclass(frozen=True)
class Bench:
    """All that a run needs: Verilog files, name of the outermost module, C++ files."""

    files: tuple[Path, ...]
    top: str
    sources: Sequence[Path]


@functools.cache
def write_bench(config: AcceleratorConfig) -> Bench:
    """The unit as Verilog, with memory and trace sinks around it."""
    name = "kv_unit"
    unit = KVUnit(config)
    names = {**axi_port_names(unit, "m_axi_read", "m_axi"), **axi_port_names(unit, "m_axi_write", "m_axi")}
    emission = generate(unit, name, port_names=names)
    bench = axi_testbench(
        name,
        emission.ports,
        memories={"m_axi": MEMORY},
        traces={
            "beats": ("beats_valid", "beats"),
            "linear": ("linear_valid", "linear_beats"),
            "events": ("events_valid", "events"),
        },
    )
    key = hashlib.sha256((emission.text + bench.text).encode()).hexdigest()[:16]
    folder = runner.build_root() / "designs" / f"{name}-{config.name}-{key}"
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
