# SPDX-License-Identifier: Apache-2.0
"""Reading the records of a sequence through its block table."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import ReadPort
from serrano.config import AcceleratorConfig
from serrano.primitives.multiplier import Multiplier
from serrano.stream import HalfRegister, StreamFIFO
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later, slice_before, sliced

from .commands import Status
from .mask import RecordMask, RecordTask
from .payloads import (
    BLOCK_SIZE,
    RECORD_BITS,
    SLOT_BITS,
    GatherCommand,
    KVGeometry,
    RecordBeat,
    TranslatePort,
    TranslateRequest,
    block_bits,
    entry_bits,
    record_bytes,
    record_length_bits,
    sequence_bits,
)

__all__ = ["Gather"]

AHEAD = 8
"""Records whose addresses are known before they are asked for."""

IN_FLIGHT = 32
"""Records asked for whose data is under way."""


class Gather(wiring.Component):
    """Streams the records of one (layer, KV head) for a range of tokens, wherever their blocks lie.

    For each block that holds a token of ``first .. first + count - 1``, in order, the whole record is given,
    bytes of other tokens being zero. Look-ups and addresses run ahead of the data, from one command into the
    next, so that the memory port does not wait for them. A record whose block is not there, or has none of
    the tokens wanted, is not read: it is given as zeros with ``error`` set, so that the number of beats never
    differs. A token counts only if the look-up says that it is committed; a record that lacks some of those
    wanted is read, its other tokens are given, and ``error`` is set in all of it. ``error`` also marks beats
    for which the memory reported one.

    The address of a record is ``base + block * block_bytes + record * record_bytes``.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    geometry : ``In(KVGeometry(config))``
        Addresses and sizes; with ``config.registered`` constant from a cycle before the first command on.
    command : ``In(stream.Signature(GatherCommand(config)))``
        What to read.
    translate : ``Out(TranslatePort(config))``
        To the controller.
    memory : ``Out(ReadPort(config))``
        Port to memory.
    room : ``In(1)``
        The consumer has room for one more record than it was promised.
    claim : ``Out(1)``
        A record is promised: it will come. From the next cycle on ``room`` takes it into account.
    records : ``Out(stream.Signature(RecordBeat(config)))``
        The records.
    ended : ``Out({"valid", "status"})``
        Valid for one cycle with the last beat of a command: OK, or what came first of a look-up's status
        that was not, OUT_OF_RANGE for a token that is not committed, and BUS_ERROR. In a command without
        tokens, as soon as those before it have ended.
    idle : ``Out(1)``
        No command is being executed.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "geometry": In(KVGeometry(config)),
                "command": In(stream.Signature(GatherCommand(config))),
                "translate": Out(TranslatePort(config)),
                "memory": Out(ReadPort(config)),
                "room": In(1),
                "claim": Out(1),
                "records": Out(stream.Signature(RecordBeat(config))),
                "ended": Out(data.StructLayout({"valid": 1, "status": Status})),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.mask = mask = RecordMask(config)
        m.submodules.tasks = tasks = StreamFIFO(RecordTask, IN_FLIGHT)
        m.submodules.runs = runs = StreamFIFO(_Run(config), AHEAD, paused=config.registered)
        m.d.comb += mask.head_dim.eq(self.geometry.head_dim)
        # The geometry stays.
        self._length = delayed(
            m,
            record_bytes(self.geometry.head_dim),
            int(config.registered),
            enable=Const(1),
            name="length",
        )
        wiring.connect(m, tasks.o, mask.tasks)
        data = sliced(m, "data", wiring.flipped(self.memory.data), registered=config.registered)
        wiring.connect(m, data, mask.data)
        wiring.connect(m, mask.records, wiring.flipped(self.records))

        # A run that is ready is asked for once there is room for its record.
        # With registers in every other cycle: so that there is room for its task has been known for one.
        next_run = sliced(m, "next_run", runs.o, registered=config.registered, kind=HalfRegister)
        run, request = next_run.payload, wiring.flipped(self.memory.request)
        request = slice_before(m, "request", request, registered=config.registered, kind=HalfRegister)
        good, may = Signal(), Signal()
        task_room = tasks.i.ready
        if config.registered:
            # A claim reaches the tasks a cycle later.
            task_room = Signal()
            m.d.sync += task_room.eq(tasks.level < IN_FLIGHT - 1)
        claimed = later(m, self.claim, registered=config.registered, name="claimed")
        m.d.comb += [
            good.eq(run.good),
            may.eq(next_run.valid & self.room & task_room),
            request.valid.eq(may & good),
            request.payload.address.eq(run.address),
            request.payload.bytes.eq(self._length),
            request.payload.tag.eq(run.seq),
            self.claim.eq(may & (request.ready | ~good)),
            next_run.ready.eq(self.claim),
            # A run that was claimed is still there in the cycle after it, if that is when its task goes.
            tasks.i.valid.eq(claimed),
            tasks.i.payload.eq(run.task),
        ]
        # Records from their look-up to the address leaving, and to the last beat.
        looked_up, under_way = Signal(range(AHEAD + 1)), Signal(range(AHEAD + IN_FLIGHT + 1))
        asked, given = Signal(), Signal()
        # With registers, a beat that is given counts a cycle later.
        failed = data.valid & data.ready & data.payload.error
        beat, failed = (
            later(m, value, registered=config.registered, name="late") for value in (mask.beat, failed)
        )
        m.d.comb += given.eq(beat.valid & beat.last)
        m.d.sync += [
            looked_up.eq(looked_up + asked - claimed),
            under_way.eq(under_way + asked - given),
        ]
        empty = self._build_front(m, runs, asked, looked_up, under_way)
        self._build_end(m, beat, failed, given, empty)
        return m

    def _build_front(
        self, m: Module, runs: StreamFIFO, asked: Signal, looked_up: Signal, under_way: Signal
    ) -> Signal:
        """From commands to runs of memory: one record per cycle, nothing that waits behind the look-up."""
        config = self.config
        command = self.command.payload
        registered = config.registered
        request = stream.Signature(TranslateRequest(config)).create(path=("wish",))
        wiring.connect(
            m,
            sliced(m, "wishes", request, registered=registered),
            wiring.flipped(self.translate.request),
        )
        m.submodules.wanted = wanted = StreamFIFO(_Wanted(config), AHEAD)
        # With registers in every other cycle: so that there is a place has been known for one.
        both = data.StructLayout({"wish": TranslateRequest(config), "wanted": _Wanted(config)})
        ask = stream.Signature(both).create(path=("ask",))
        asks = sliced(m, "asks", ask, registered=registered, kind=HalfRegister)
        place = later(m, looked_up != AHEAD, registered=registered, name="place")
        following = Signal(_Wanted(config))
        index, final = Signal(entry_bits(config)), Signal(entry_bits(config))
        high = Signal(SLOT_BITS + 1)
        seq = Signal.like(command.seq)
        end = Signal(range(2 * config.context_max + 1))
        empty = Signal()
        m.d.comb += [
            end.eq(command.first + command.count - 1),
            ask.payload.wish.seq.eq(seq),
            ask.payload.wish.index.eq(index),
            ask.payload.wanted.eq(following),
            ask.payload.wanted.final.eq(index == final),
            ask.payload.wanted.high.eq(Mux(index == final, high, BLOCK_SIZE)),
            asked.eq(ask.valid & ask.ready),
            request.valid.eq(asks.valid),
            request.payload.eq(asks.payload.wish),
            asks.ready.eq(request.ready),
            wanted.i.valid.eq(asks.valid & request.ready),
            wanted.i.payload.eq(asks.payload.wanted),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.command.ready.eq(1), self.idle.eq(under_way == 0)]
                m.d.sync += [
                    seq.eq(command.seq),
                    index.eq(command.first >> SLOT_BITS),
                    final.eq(end >> SLOT_BITS),
                    high.eq(end[:SLOT_BITS] + 1),
                    following.low.eq(command.first[:SLOT_BITS]),
                    following.record.eq(command.record),
                    following.seq.eq(command.seq),
                ]
                with m.If(self.command.valid):
                    m.next = "LOOK_UP"
                    with m.If(command.count == 0):
                        m.next = "EMPTY"
            with m.State("LOOK_UP"):
                m.d.comb += ask.valid.eq(place)
                with m.If(asked):
                    m.d.sync += [index.eq(index + 1), following.low.eq(0)]
                    with m.If(index == final):
                        m.next = "IDLE"
            with m.State("EMPTY"):
                m.d.comb += empty.eq(under_way == 0)
                with m.If(empty):
                    m.next = "IDLE"
        self._build_products(m, wanted, runs)
        return empty

    def _build_products(self, m: Module, wanted: StreamFIFO, runs: StreamFIFO) -> None:
        """Addresses: products in the cycle of the answer and the following ones, then their sum.

        With ``config.registered`` the sum takes two cycles.
        """
        config, geometry = self.config, self.geometry
        latency, more = config.multiplier_latency, int(config.registered)
        late = {"cycles": more, "enable": Const(1)}
        answer, this = self.translate.response, wanted.o.payload
        m.submodules.block_offset = block_offset = Multiplier(
            block_bits(config) + 1, len(geometry.block_bytes) + 1, latency=latency
        )
        m.submodules.record_offset = record_offset = Multiplier(
            RECORD_BITS + 1, record_length_bits(config) + 1, latency=latency
        )
        # An answer that nobody waits for was asked for before a reset.
        stage: Any = Signal(_Run(config))
        valid = Signal(latency + more + 1)
        short, nothing = Signal(), Signal()
        m.d.comb += [
            block_offset.a.eq(answer.block),
            block_offset.b.eq(geometry.block_bytes),
            record_offset.a.eq(this.record),
            record_offset.b.eq(self._length),
            wanted.o.ready.eq(answer.valid),
            # Tokens from ``answer.tokens`` on are not committed.
            short.eq(answer.tokens < this.high),
            nothing.eq(answer.tokens <= this.low),
            stage.task.low.eq(this.low),
            stage.task.high.eq(Mux(short, answer.tokens, this.high)),
            stage.task.short.eq(short),
            stage.task.final.eq(this.final),
            stage.task.status.eq(answer.status),
            stage.seq.eq(this.seq),
        ]
        with m.If((answer.status == Status.OK) & nothing):
            m.d.comb += stage.task.status.eq(Status.OUT_OF_RANGE)
        stage = delayed(m, stage, latency + more, enable=Const(1), name="product")
        block = delayed(m, (geometry.base + block_offset.p)[: config.address_bits], name="block", **late)
        m.d.sync += [
            valid.eq(Cat(answer.valid & wanted.o.valid, valid)),
            runs.i.payload.task.eq(stage.task),
            runs.i.payload.good.eq(stage.task.status == Status.OK),
            runs.i.payload.seq.eq(stage.seq),
            runs.i.payload.address.eq(block + delayed(m, record_offset.p, name="record_offset", **late)),
        ]
        m.d.comb += runs.i.valid.eq(valid[-1])

    def _build_end(self, m: Module, beat: Any, failed: Value, given: Signal, empty: Signal) -> None:
        """The status of a command: that of the first thing that went wrong."""
        held, status = Signal(Status), Signal(Status)
        task, here = beat.task, beat.valid
        m.d.comb += status.eq(held)
        with m.If(held == Status.OK):
            with m.If(here & (task.status != Status.OK)):
                m.d.comb += status.eq(task.status)
            with m.Elif(here & task.short):
                m.d.comb += status.eq(Status.OUT_OF_RANGE)
            with m.Elif(failed):
                m.d.comb += status.eq(Status.BUS_ERROR)
        ends = given & task.final
        m.d.sync += [
            held.eq(Mux(ends, Status.OK, status)),
            self.ended.valid.eq(ends | empty),
            self.ended.status.eq(Mux(empty, Status.OK, status)),
        ]


class _Wanted(data.StructLayout):
    """A record whose block is being looked up."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "low": SLOT_BITS + 1,
                "high": SLOT_BITS + 1,
                "final": 1,
                "record": RECORD_BITS,
                "seq": sequence_bits(config),
            }
        )


class _Run(data.StructLayout):
    """A record whose address is known, and whose it is; ``good`` if it is to be read."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": config.address_bits,
                "task": RecordTask,
                "good": 1,
                "seq": sequence_bits(config),
            }
        )
