# SPDX-License-Identifier: Apache-2.0
"""Blanking the tokens of a record that a reader must not see."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped
from amaranth.utils import exact_log2

from serrano.bus import ReadBeat
from serrano.config import AcceleratorConfig
from serrano.stream import PromptRegister
from serrano.stream.pipeline import delayed
from serrano.stream.slices import slice_before, sliced

from .commands import Status
from .payloads import SLOT_BITS, RecordBeat, last_shift

__all__ = ["RecordMask", "RecordTask"]

PIECE_BITS = 5
"""The smallest chunk is 16 tokens times 2 bytes; every chunk is a multiple of that."""


class RecordTask(data.Struct):
    """A record to come: its tokens from ``low`` up to, not including, ``high`` are wanted.

    If ``status`` is not OK, no data comes for it. ``short``: its reader had asked for more tokens than there
    are. ``final`` marks a command's last record.
    """

    low: unsigned(SLOT_BITS + 1)
    high: unsigned(SLOT_BITS + 1)
    status: Status
    short: unsigned(1)
    final: unsigned(1)


class RecordMask(wiring.Component):
    """Gives each record with the bytes of unwanted tokens zero.

    A record is a row of *chunks* of 16 tokens each, with 2 bytes per token (K scales; V scales), or up to
    ``n`` (K and V codes). What a byte belongs to follows from its place alone, so that one beat passes per
    cycle (``latency`` 1); with ``config.registered`` it is found out a cycle before, and a beat leaves
    through a slice. A record without data is given as zeros with ``error`` set, which is also set in all of a
    ``short`` one.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    head_dim : ``In(range(head_dim_max + 1))``
        Dimensions of a head; with ``config.registered`` constant from a cycle before the first task on.
    tasks : ``In(stream.Signature(RecordTask))``
        Records, in order; each is taken with its last beat, or with ``config.registered`` before that.
    data : ``In(stream.Signature(ReadBeat(config)))``
        Beats of the records whose status is OK.
    records : ``Out(stream.Signature(RecordBeat(config)))``
        Beats of all records.
    beat : ``Out({"valid", "last", "task"})``
        A beat is being taken, or made up: of this task, or the last one of it.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "head_dim": In(range(config.head_dim_max + 1)),
                "tasks": In(stream.Signature(RecordTask)),
                "data": In(stream.Signature(ReadBeat(config))),
                "records": Out(stream.Signature(RecordBeat(config))),
                "beat": Out(data.StructLayout({"valid": 1, "last": 1, "task": RecordTask})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, width = self.config, self.config.port_bytes
        mark = data.StructLayout({"keep": width, "last": 1, "good": 1, "task": RecordTask})
        marks = stream.Signature(mark).create(path=("mark",))
        self._build_marks(m, marks)
        marks = sliced(m, "marks", marks, registered=config.registered, kind=PromptRegister)
        mark, beat = marks.payload, self.data.payload
        out = slice_before(m, "given", flipped(self.records), registered=config.registered)
        go, room = Signal(), Signal()
        m.d.comb += [
            # The slice is ready whatever there is for it.
            room.eq(out.ready if config.registered else ~out.valid | out.ready),
            go.eq(marks.valid & (self.data.valid | ~mark.good) & room),
            marks.ready.eq(go),
            self.data.ready.eq(go & mark.good),
            self.beat.valid.eq(go),
            self.beat.last.eq(mark.last),
            self.beat.task.eq(mark.task),
        ]
        with m.If(room):
            m.d.sync += [out.valid.eq(go), out.payload.last.eq(mark.last)]
            m.d.sync += out.payload.error.eq(~mark.good | mark.task.short | beat.error)
            for index in range(width):
                m.d.sync += out.payload.bytes[index].eq(Mux(mark.keep[index], beat.bytes[index], 0))
        return m

    def _build_marks(self, m: Module, marks: Any) -> None:
        """What is kept of each beat."""
        tasks = sliced(m, "next_task", flipped(self.tasks), registered=self.config.registered)
        task, mark = tasks.payload, marks.payload
        good = task.status == Status.OK
        place = _Place(m, self.config, self.head_dim)
        pieces = len(mark.keep) // place.piece
        # Where the pieces of each beat lie is the same in all records.
        shift = range(place.n_bits + 1)
        beats = data.StructLayout(
            {
                "places": data.ArrayLayout(place.layout, pieces),
                "shifts": data.ArrayLayout(shift, pieces),
                "last": 1,
            }
        )
        walk = stream.Signature(beats).create(path=("walk",))
        here = Signal(place.layout, init=place.start)
        position: Any = here
        # So with registers it is found out ahead: of the two beats that wait, the geometry changes nothing.
        ahead = self.config.registered and pieces == 1
        last_chunk = place.find_last_chunk(m, here, walk.ready) if ahead else None
        for index in range(pieces):
            m.d.comb += walk.payload.places[index].eq(position)
            m.d.comb += walk.payload.shifts[index].eq(place.shift(position, last_chunk)[0])
            position = place.following(m, position, last_chunk)
        m.d.comb += [walk.valid.eq(1), walk.payload.last.eq(position.run == place.runs)]
        with m.If(walk.ready):
            m.d.sync += here.eq(Mux(walk.payload.last, Const(place.start, place.layout), position))
        walked = sliced(m, "walked", walk, registered=ahead)
        for index in range(pieces):
            span = slice(index * place.piece, (index + 1) * place.piece)
            kept = place.kept(walked.payload, index, task.low, task.high)
            m.d.comb += mark.keep[span].eq(Mux(good, kept, 0))
        m.d.comb += [
            mark.last.eq(walked.payload.last),
            mark.good.eq(good),
            mark.task.eq(task),
            marks.valid.eq(tasks.valid & walked.valid),
            walked.ready.eq(marks.ready & tasks.valid),
            tasks.ready.eq(marks.ready & walked.valid & mark.last),
        ]


class _Place:
    """Where in a record a piece of at most 32 bytes lies, and the one that follows it.

    Runs are K scales, V scales, K codes and V codes; ``chunk`` counts chunks within a run, ``offset`` bytes
    within a chunk.
    """

    runs = 4

    def __init__(self, m: Module, config: AcceleratorConfig, head_dim: Value):
        self.n_bits = exact_log2(config.n)
        late = {"cycles": int(config.registered), "enable": Const(1)}
        chunks = range(config.head_chunks_max + 1)
        final_chunk, shift = Signal(chunks), Signal(range(self.n_bits + 1))
        m.d.comb += [final_chunk.eq((head_dim - 1) >> self.n_bits), shift.eq(last_shift(config, head_dim))]
        self.final_chunk = delayed(m, final_chunk, name="final_chunk", **late)
        self.last_shift = delayed(m, shift, name="last_shift", **late)
        self.piece = min(1 << PIECE_BITS, config.port_bytes)
        self.layout = data.StructLayout({"run": 3, "chunk": chunks, "offset": SLOT_BITS + self.n_bits})
        self.start = {"run": 0, "chunk": 0, "offset": 0}
        # Offset of a chunk's last piece for each width of tokens.
        bits = SLOT_BITS + self.n_bits
        widths = range(self.n_bits + 1)
        self.ends = [((1 << SLOT_BITS + width) - self.piece) % (1 << bits) for width in widths]
        self._at_ends: list[Signal] | None = None

    def find_last_chunk(self, m: Module, place: Any, moves: Value) -> Value:
        """A register: whether a chunk of codes at ``place``, which goes on with ``moves``, is the last.

        Whether its offset is that of a chunk's end is kept from then on as well.
        """
        last_chunk = Signal()
        self._at_ends = [
            Signal(init=end == self.start["offset"], name=f"at_end_{width}")
            for width, end in enumerate(self.ends)
        ]
        stays, follows = place.chunk == self.final_chunk, place.chunk + 1 == self.final_chunk
        behind = Mux(~place.run[1] | last_chunk, self.final_chunk == 0, follows)
        ends_chunk = self._ends_chunk(place, last_chunk)
        m.d.sync += last_chunk.eq(Mux(moves & ends_chunk, behind, stays))
        with m.If(moves):
            for at_end, end in zip(self._at_ends, self.ends, strict=True):
                before = (end - self.piece) % (1 << len(place.offset))
                m.d.sync += at_end.eq(Mux(ends_chunk, end == 0, place.offset == before))
        return last_chunk

    def _ends_chunk(self, place: Any, last_chunk: Value | None = None) -> Value:
        """Whether the chunk ends with this piece."""
        at_ends = self._at_ends or [place.offset == end for end in self.ends]
        return Array(at_ends)[self.shift(place, last_chunk)[0]]

    def shift(self, place: Any, last_chunk: Value | None = None) -> tuple[Value, Value]:
        """Binary logarithm of the bytes per token here, and whether the chunk is the last of its run.

        ``last_chunk``: whether it is the last one for codes, where that is known.
        """
        if last_chunk is None:
            last_chunk = place.chunk == self.final_chunk
        codes = place.run[1]
        shift = Mux(codes, Mux(last_chunk, self.last_shift, self.n_bits), 1)
        return shift, ~codes | last_chunk

    def kept(self, beat: Any, index: int, low: Value, high: Value) -> Value:
        """Which bytes of a beat's piece belong to wanted tokens."""
        place, shift = beat.places[index], beat.shifts[index]
        first, end = low << shift, high << shift
        offsets = [(place.offset | byte) for byte in range(self.piece)]
        return Cat((offset >= first) & (offset < end) for offset in offsets)

    def following(self, m: Module, place: Any, last_chunk: Value | None = None) -> Any:
        """The next piece's place, run 4 behind the record's end."""
        end_of_chunk = self._ends_chunk(place, last_chunk)
        last_chunk = self.shift(place, last_chunk)[1]
        following = Signal(self.layout, name="following")
        m.d.comb += following.eq(place)
        with m.If(~end_of_chunk):
            m.d.comb += following.offset.eq(place.offset + self.piece)
        with m.Else():
            m.d.comb += following.offset.eq(0)
            with m.If(last_chunk):
                m.d.comb += [following.run.eq(place.run + 1), following.chunk.eq(0)]
            with m.Else():
                m.d.comb += following.chunk.eq(place.chunk + 1)
        return following
