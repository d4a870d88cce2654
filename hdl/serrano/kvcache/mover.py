# SPDX-License-Identifier: Apache-2.0
"""Moving the bytes of KV blocks: copies, zeros, and records for the host."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus import ReadPort, WritePort
from serrano.config import AcceleratorConfig
from serrano.primitives.multiplier import Multiplier
from serrano.stream import HalfRegister, StreamFIFO
from serrano.stream.slices import later, slice_before, sliced

from .commands import Status
from .mask import RecordMask, RecordTask
from .payloads import (
    RECORD_BITS,
    KVGeometry,
    MoveCommand,
    MoveKind,
    MovePort,
    block_bits,
    entry_bits,
    record_bytes,
)

__all__ = ["BlockMover"]

AHEAD = 8
"""Records asked for whose data is under way."""

BUFFER_ALIGN = 64
"""Every record is a multiple of this, and so is the widest port."""


class BlockMover(wiring.Component):
    """Executes the moves of the controller, one at a time.

    * COPY: the bytes of tokens ``low .. high - 1`` of every record of block ``source`` go to block
      ``destination``; all its other bytes become zero.
    * ZERO: all bytes of block ``destination`` become zero.
    * GATHER: record ``record`` of block ``source``, tokens outside of ``low .. high - 1`` as zeros, goes to
      ``buffer + index * record_bytes``.

    ``block_bytes`` (COPY, ZERO) or ``record_bytes`` (GATHER) are written, in ascending order and whole words,
    and nothing else. Records are read ahead of the writing, one run each. Where the memory reports an error
    for what is read, zeros are written. The response comes after the last write was acknowledged; ``error``:
    the memory reported one, for a read or a write. With the memory always ready, a move of ``b`` beats takes
    ``b`` cycles, the latencies of a read and a write, and about 15.

    Geometry and buffer are those of the cycle in which the command is taken, so that a model loaded meanwhile
    does not bend a move that is under way. With ``config.registered`` a move begins two cycles later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    geometry : ``In(KVGeometry(config))``
        Addresses and sizes.
    buffer : ``In(config.address_bits)``
        Where gathered records go; a multiple of 64, as the lowest 6 bits count as zero.
    moves : ``In(MovePort(config))``
        From the controller.
    reads : ``Out(ReadPort(config))``
        Port to memory.
    writes : ``Out(WritePort(config))``
        Port to memory.
    idle : ``Out(1)``
        No move is under way.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "geometry": In(KVGeometry(config)),
                "buffer": In(config.address_bits),
                "moves": In(MovePort(config)),
                "reads": Out(ReadPort(config)),
                "writes": Out(WritePort(config)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, moves = self.config, self.moves
        self._command = command = Signal(MoveCommand(config))
        self._geometry = geometry = Signal(KVGeometry(config))
        # Next run to be read, next word to be written.
        self._source, self._target = Signal(config.address_bits), Signal(config.address_bits)
        # Records to be asked for, records to come, words to be written.
        self._unread, self._unseen = Signal(RECORD_BITS + 1), Signal(RECORD_BITS + 1)
        self._left = Signal(len(geometry.block_bytes) - exact_log2(config.port_bytes))
        self._failed = Signal()
        # Whether records go to the host's buffer, known with the command.
        self._to_host = Signal()
        # Whether they are not 0, as registers, from the first cycle of MOVE on.
        self._asking, self._reading, self._writing = Signal(), Signal(), Signal()

        over = Signal()
        is_over = later(m, over, registered=config.registered, name="over_before")
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), moves.command.ready.eq(1)]
                m.d.sync += [
                    command.eq(moves.command.payload),
                    self._to_host.eq(moves.command.payload.kind == MoveKind.GATHER),
                    geometry.eq(self.geometry),
                    self._target.eq(self.buffer & ~(BUFFER_ALIGN - 1)),
                    self._failed.eq(0),
                ]
                with m.If(moves.command.valid):
                    m.next = "BEGIN" if config.registered else "ADDRESS"
                if not config.registered:
                    kind = moves.command.payload.kind
                    self._build_begin(m, kind, kind == MoveKind.GATHER, self.geometry)
            if config.registered:
                with m.State("BEGIN"):
                    self._build_begin(m, command.kind, self._to_host, geometry)
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                with m.If(self._build_addresses(m)):
                    m.d.sync += [
                        self._asking.eq(self._unread != 0),
                        self._reading.eq(self._unseen != 0),
                        self._writing.eq(self._left != 0),
                    ]
                    m.next = "MOVE"
            with m.State("MOVE"):
                # The last word may wait in its register yet.
                waiting = self.writes.request.valid | self.writes.pending
                m.d.comb += over.eq(~self._writing & ~self._reading & ~waiting)
                with m.If(is_over):
                    m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += [moves.response.valid.eq(1), moves.response.payload.error.eq(self._failed)]
                with m.If(moves.response.ready):
                    m.next = "IDLE"
        self._build_transfer(m)
        return m

    def _build_begin(self, m: Module, kind: Any, to_host: Value, geometry: Any) -> None:
        """Where a move begins, and how much is to be done."""
        records = Mux(to_host, 1, Mux(kind == MoveKind.COPY, geometry.records, 0))
        size = Mux(to_host, record_bytes(geometry.head_dim), geometry.block_bytes)
        m.d.sync += [
            self._source.eq(geometry.base),
            self._unread.eq(records),
            self._unseen.eq(records),
            self._left.eq(size >> exact_log2(self.config.port_bytes)),
        ]
        with m.If(~to_host):
            m.d.sync += self._target.eq(geometry.base)

    def _build_addresses(self, m: Module) -> Value:
        """In state ADDRESS: three products one after the other, added up. True in the last cycle of it."""
        config, command, geometry = self.config, self._command, self._geometry
        registered, to_host = config.registered, self._to_host
        latency = config.multiplier_latency
        bits = max(block_bits(config), entry_bits(config), RECORD_BITS)
        m.submodules.product = product = Multiplier(bits + 1, len(geometry.block_bytes) + 1, latency=latency)
        operands = Signal(data.StructLayout({"a": product.a.shape(), "b": product.b.shape()}))
        given = later(m, operands, registered=registered, name="given")
        m.d.comb += [product.a.eq(given.a), product.b.eq(given.b)]
        latency += registered
        term = Signal(range(3 + latency))
        with m.Switch(term):
            with m.Case(0):
                m.d.comb += [operands.a.eq(command.source), operands.b.eq(geometry.block_bytes)]
            with m.Case(1):
                m.d.comb += [
                    operands.a.eq(Mux(to_host, command.record, 0)),
                    operands.b.eq(record_bytes(geometry.head_dim)),
                ]
            with m.Case(2):
                m.d.comb += [
                    operands.a.eq(Mux(to_host, command.index, command.destination)),
                    operands.b.eq(Mux(to_host, record_bytes(geometry.head_dim), geometry.block_bytes)),
                ]
        m.d.sync += term.eq(term + 1)
        with m.If((term == latency) | (term == latency + 1)):
            m.d.sync += self._source.eq(self._source + product.p)
        with m.If(term == latency + 2):
            m.d.sync += [self._target.eq(self._target + product.p), term.eq(0)]
        return term == latency + 2

    def _build_transfer(self, m: Module) -> None:
        """Runs of records to the mask, its beats to memory."""
        config, geometry = self.config, self._geometry
        m.submodules.mask = mask = RecordMask(config)
        m.submodules.tasks = tasks = StreamFIFO(RecordTask, AHEAD)
        wiring.connect(m, tasks.o, mask.tasks)
        wiring.connect(m, wiring.flipped(self.reads.data), mask.data)
        records = sliced(m, "records", mask.records, registered=config.registered)
        task = slice_before(m, "task_slice", tasks.i, registered=config.registered, kind=HalfRegister)
        run, word = (
            slice_before(m, name, target, registered=config.registered, kind=HalfRegister)
            for name, target in (
                ("run", wiring.flipped(self.reads.request)),
                ("word", wiring.flipped(self.writes.request)),
            )
        )
        beat = records
        asks, reading, writing = Signal(), self._reading, self._writing
        m.d.comb += [
            mask.head_dim.eq(geometry.head_dim),
            run.valid.eq(self._asking & task.ready),
            run.payload.address.eq(self._source),
            run.payload.bytes.eq(record_bytes(geometry.head_dim)),
            asks.eq(run.valid & run.ready),
            task.valid.eq(asks),
            task.payload.low.eq(self._command.low),
            task.payload.high.eq(self._command.high),
            task.payload.status.eq(Status.OK),
            # Behind the last record come zeros.
            beat.ready.eq(word.ready | ~writing),
            word.valid.eq(writing & (beat.valid | ~reading)),
            word.payload.address.eq(self._target),
            word.payload.strobe.eq(~0),
        ]
        with m.If(reading & ~beat.payload.error):
            m.d.comb += word.payload.bytes.eq(beat.payload.bytes)
        with m.If(asks):
            m.d.sync += [
                self._source.eq(self._source + record_bytes(geometry.head_dim)),
                self._unread.eq(self._unread - 1),
                self._asking.eq(self._unread != 1),
            ]
        with m.If(word.valid & word.ready):
            m.d.sync += [
                self._target.eq(self._target + config.port_bytes),
                self._left.eq(self._left - 1),
                writing.eq(self._left != 1),
            ]
        with m.If(beat.valid & beat.ready & beat.payload.last):
            m.d.sync += [self._unseen.eq(self._unseen - 1), reading.eq(self._unseen != 1)]
        with m.If((beat.valid & beat.ready & beat.payload.error) | self.writes.error):
            m.d.sync += self._failed.eq(1)
