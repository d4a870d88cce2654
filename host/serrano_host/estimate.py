# SPDX-License-Identifier: Apache-2.0
"""How many cycles a step takes, without a simulation: docs/estimate.md.

Two clocks run against each other: the sequencer's, which executes packets one after another, and that of the
read port, which brings tape and KV records burst by burst and stops only where a buffer is full. Every
constant is a latency or a capacity of the hardware; none depends on the model.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table

from serrano_host.errors import CompileError
from serrano_host.presets import Machine
from serrano_host.tape import (
    BLOCK_SIZE,
    DESCRIPTOR_BYTES,
    GROUP,
    NO_LAYER,
    Descriptor,
    Opcode,
    Packet,
    head_pad,
    power_of_two,
    round_up,
)

__all__ = ["Estimate", "Memory", "PacketTime", "Shape", "Span", "estimate", "read_config", "report", "tables"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a model."""

    dim: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    NAMES: ClassVar[dict[str, str]] = {
        "dim": "hidden_size",
        "ffn": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "vocab": "vocab_size",
    }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Shape:
        """From a JSON object, with names as here or as in a Hugging Face ``config.json``.

        Raises
        ------
        CompileError
            If a dimension is missing or impossible.
        """
        found = {}
        for name, other in cls.NAMES.items():
            value = values.get(name, values.get(other))
            if value is None and name == "kv_heads":
                value = found.get("heads")
            if value is None and name == "head_dim" and found.get("heads"):
                value = found["dim"] // found["heads"]
            if not isinstance(value, int) or value < 1:
                raise CompileError(f"{name} (or {other}) must be a positive number, not {value!r}")
            found[name] = value
        shape = cls(**found)
        if shape.heads % shape.kv_heads:
            raise CompileError(f"heads must be a multiple of kv_heads {shape.kv_heads}, not {shape.heads}")
        return shape


@dataclass(frozen=True)
class Span:
    """Rows of one sequence in a step: ``rows`` tokens behind ``position`` committed ones."""

    position: int
    rows: int = 1


@dataclass(frozen=True)
class Memory:
    """A memory. All but the latency is for a DRAM, whose bus reads and writes share; 0 otherwise.

    Parameters
    ----------
    latency : :class:`int`
        Cycles from an address, or from the bus, to the first beat.
    opening : :class:`int`
        Cycles until a row is open, where nothing else is read meanwhile.
    interval, pause : :class:`int`
        Cycles from one refresh to the next, and for how long nothing is read then.
    to_write, to_read : :class:`int`
        Cycles that the bus stands still between reads and writes, and between writes and reads.
    banks, row_bytes : :class:`int`
        Banks with one open row of so many bytes each.
    """

    latency: int = 60
    opening: int = 0
    interval: int = 0
    pause: int = 0
    to_write: int = 0
    to_read: int = 0
    banks: int = 0
    row_bytes: int = 0

    @classmethod
    def of(cls, name: str) -> Memory:
        """From a name: ``fixed`` with a latency, or ``dram``.

        Raises
        ------
        CompileError
            If there is no such memory.
        """
        if name == "dram":
            return DRAM
        if name.startswith("fixed") and name[5:].isdecimal() and int(name[5:]) > 0:
            return cls(int(name[5:]))
        raise CompileError(f"memory must be dram, or fixed with its latency as in fixed60, not {name!r}")

    @property
    def efficiency(self) -> float:
        """The share of cycles in which it gives beats at most."""
        return 1 - self.pause / (self.interval + self.pause) if self.interval else 1.0


DRAM = Memory(latency=30, opening=6, interval=1560, pause=38, to_write=2, to_read=5, banks=8, row_bytes=2048)
"""DDR3-1600 at 200 MHz, 30 cycles away. A row is opened after tRP and tRCD (3 each), a refresh takes tRP,
tRFC (32) and tRCD."""


@dataclass(frozen=True)
class PacketTime:
    """A packet of the step: how long it takes, and what array and port do for it.

    ``array`` counts rows that enter the array, ``weights`` and ``kv`` beats that the packet needs, whenever
    they come.
    """

    name: str
    layer: int | None
    cycles: float
    array: int
    weights: int
    kv: int


@dataclass(frozen=True)
class Estimate:
    """A step from its begin to the begin of the next one."""

    machine: Machine
    packets: Sequence[PacketTime]
    between: float
    other: int
    useful_bytes: int
    useful_macs: int
    tokens: int

    @property
    def cycles(self) -> float:
        """Cycles from commit to commit."""
        return sum(packet.cycles for packet in self.packets) + self.between

    @property
    def array_busy(self) -> int:
        """Rows that enter the array."""
        return sum(packet.array for packet in self.packets)

    @property
    def port_beats(self) -> int:
        """Beats that cross the read port."""
        return sum(packet.weights + packet.kv for packet in self.packets) + self.other

    @property
    def mbu(self) -> float:
        """Share of what the read port could have moved that was needed."""
        return self.useful_bytes / (self.cycles * self.machine.port_bytes)

    @property
    def mac_utilization(self) -> float:
        """Share of the multiply-accumulates that the array could have done that were needed."""
        return self.useful_macs / (self.cycles * self.machine.n**2)


FOREVER = math.inf
TOKEN_BYTES = 4
PAGE = 4096
"""Bytes; a tape begins with one, and no burst goes beyond one."""


class Port:
    """The read port, burst by burst, in the order in which bursts are asked for.

    Tape comes ahead of its use as far as its buffer goes; KV records and embeddings go before it; writes
    share the bus of a DRAM. Positions are beats of the tape since the step's begin.
    """

    ISSUE = 1
    """Cycles from room in a buffer to the address of the burst."""
    SLICES = 9
    """More of them with registers between."""
    START = 5
    """The first address of a step."""
    WANTED = 2
    """Cycles before its address in which a request keeps the tape from going."""

    def __init__(self, machine: Machine, memory: Memory):
        self.machine, self.memory = machine, memory
        self.burst = machine.read_burst_beats
        self.fifo = machine.tape_fifo_bytes // machine.port_bytes
        self.queue = machine.queue_beats
        self.issue = self.ISSUE + self.SLICES * machine.registered
        self.phase = round_up(DESCRIPTOR_BYTES, machine.align) // machine.port_bytes
        # When the next address may go, and when the memory has given all that was asked for.
        self.address, self.busy, self.begun = float(self.START), 0.0, 0.0
        self.wrote, self.row = False, -1
        self.refresh = memory.interval / 2
        # Of the tape: what was asked for; from where to where beats came when; what could be taken when.
        self.limit = 0
        self.course: deque[tuple[int, float, int, float]] = deque()
        self.taken: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        self.records = Records(self)
        self.writes = Writes(self)

    def bus(self, time: float, beats: int, write: bool = False, rows: tuple[int, int] | None = None) -> float:
        """The memory is asked for a burst; when its first beat is on the bus."""
        memory = self.memory
        turn = (memory.to_write if write else memory.to_read) if write != self.wrote else 0
        begin = max(time + memory.opening, self.busy + turn)
        # A row can be opened ahead unless another one of its bank is in use.
        if rows is not None and rows[0] != self.row >= 0 and (rows[0] - self.row) % memory.banks == 0:
            begin = max(begin, self.busy + memory.opening)
        self.row, self.wrote = rows[1] if rows else -1, write
        while memory.interval and max(time, self.busy) >= self.refresh:
            self.busy = max(self.busy, self.refresh) + memory.pause
            self.refresh += memory.interval
            begin = max(begin, self.busy)
        if begin > self.busy:
            self.begun = begin
        self.busy = begin + beats
        return begin

    def answer(self, address: float, beats: int, rows: tuple[int, int] | None = None) -> float:
        """A burst is asked for; when its first beat comes."""
        self.address = address + 1
        return self.bus(address, beats, rows=rows) + self.memory.latency

    def take(self, position: float, time: float) -> None:
        """What lies before a position can be taken at a time, if it has come."""
        if position > self.taken[-1][0]:
            self.taken.append((position, max(time, self.taken[-1][1])))

    def hold(self, time: float) -> None:
        """Nothing more can be taken until a time."""
        self.taken.append((self.taken[-1][0], max(time, self.taken[-1][1])))

    def burst_end(self, position: int) -> int:
        """The end of the burst that a position is in: none goes beyond a page."""
        at, page = position + self.phase, PAGE // self.machine.port_bytes
        first = self.phase if at < page else 0
        end = first + ((at - first) // self.burst + 1) * self.burst
        return min(end, (at // page + 1) * page) - self.phase

    def _room(self) -> tuple[int, float]:
        """The next burst of the tape: its end, and when its address can go."""
        end = self.burst_end(self.limit)
        need = end - self.fifo
        if need <= 0:
            return end, max(self.address, self._queue())
        while len(self.taken) > 1 and self.taken[1][0] < need:
            self.taken.popleft()
        if len(self.taken) == 1:
            return end, FOREVER
        (low, since), (high, until) = self.taken[0], self.taken[1]
        time = since + (until - since) * (need - low) / (high - low)
        return end, max(self.address, max(time, self._came(need) + 1) + self.issue, self._queue())

    def _queue(self) -> float:
        """When so few beats are on their way that the tape asks for more."""
        queue = self.queue
        return self.busy + self.memory.latency - queue + 1 if self.busy - self.begun >= queue else 0.0

    def _came(self, position: float) -> float:
        """When the beat before a position of what was asked for came."""
        while len(self.course) > 1 and self.course[1][0] < position - self.fifo:
            self.course.popleft()
        for low, since, high, until in reversed(self.course):
            if low < position:
                return since + (until - since) * (position - low) / (high - low)
        return 0.0

    def _go_on(self, until: float = FOREVER) -> bool:
        """The next burst, of whom it may be, if its address goes before a time."""
        end, tape = self._room()
        record = max(self.address, self.records.when())
        if self.records.wait_for_nothing(tape):
            tape = FOREVER
        write = self.writes.when()
        first = min(tape, record, write)
        if first >= until:
            return False
        if write == first:
            self.writes.go_on()
        elif record == first:
            self.records.go_on(record)
        else:
            begin = self.answer(tape, end - self.limit)
            self.course.append((self.limit, begin, end, begin + end - self.limit))
            self.limit = end
        return True

    def arrival(self, position: float) -> float:
        """When the beat before a position comes."""
        while self.limit < position:
            self.must_go_on()
        return self._came(position)

    def must_go_on(self) -> None:
        """The next burst."""
        if not self._go_on():
            raise RuntimeError("what is waited for is never asked for")

    def request(self, asked: float, beats: int) -> tuple[float, float]:
        """Something that goes before the tape: when its first and when its last beat come."""
        while self._go_on(asked - self.WANTED):
            pass
        begin = self.answer(max(asked, self.address), beats)
        return begin, begin + beats


class Records:
    """The KV records of a layer, on their way through a buffer of the port into that of attention."""

    RECORD = 2
    """Cycles from one record to the next at least."""

    def __init__(self, port: Port):
        self.port = port
        self.room = port.machine.kv_fifo_beats
        self.slots = port.machine.lookahead + 2
        self.begin(0.0, 1, 0, lambda number: None)

    def begin(
        self, asked: float, beats: int, count: int, rows: Callable[[int], tuple[int, int] | None]
    ) -> None:
        """From when on they are asked for; beats of each; how many; the rows of a DRAM that each is in."""
        self.beats, self.count, self.rows = beats, count, rows
        # When the last address went.
        self.asked, self.sent = asked, asked - self.RECORD
        self.each = -(-beats // self.port.burst)
        self.bursts = 0
        # Of each record: first and last beat; when it goes on into attention's buffer; when it is not needed.
        self.first: list[float] = []
        self.last: list[float] = []
        self.moved: list[float] = []
        self.freed: list[float] = []
        self.next = self._next()

    def _move(self, number: int) -> float:
        """When a record goes on, or ``FOREVER`` if that is not known."""
        while len(self.moved) <= number:
            index = len(self.moved)
            if index >= len(self.first) or index - self.slots >= len(self.freed):
                return FOREVER
            free = self.freed[index - self.slots] if index >= self.slots else 0.0
            before = self.moved[-1] + self.beats if self.moved else 0.0
            self.moved.append(max(self.first[index] + 1, before, free))
        return self.moved[number]

    def _next(self) -> tuple[float, int]:
        """The next burst: when there is room for it, and its beats."""
        record, part = divmod(self.bursts, self.each)
        self.space = 0.0
        if record >= self.count:
            return FOREVER, 0
        beats = min(self.port.burst, self.beats - part * self.port.burst)
        need = record * self.beats + part * self.port.burst + beats - self.room
        time = self.sent + (1 if part else self.RECORD)
        if need > 0:
            number = (need - 1) // self.beats
            self.space = self._move(number) + need - number * self.beats
        return max(time, self.space), beats

    def wait_for_nothing(self, time: float) -> bool:
        """The next burst is wanted at a time, and has room: the tape does not slip in."""
        return self.when() < FOREVER and max(self.asked, self.space) <= time

    def when(self) -> float:
        """When the address of the next burst can go."""
        if self.next[0] == FOREVER:
            self.next = self._next()
        return self.next[0]

    def go_on(self, address: float) -> None:
        """The next burst's address goes."""
        record, part = divmod(self.bursts, self.each)
        beats = self.next[1]
        begin = self.port.answer(address, beats, None if part else self.rows(record))
        if part == 0:
            self.first.append(begin)
            self.last.append(0.0)
        self.last[record] = begin + beats
        self.bursts, self.sent = self.bursts + 1, address
        self.next = self._next()

    def come(self, number: int) -> float:
        """When a record is in attention's buffer."""
        while self.bursts < (number + 1) * self.each:
            self.port.must_go_on()
        return max(self._move(number) + self.beats, self.last[number] + 1)


class Writes:
    """The k and v that a layer appends, where they share the bus with what is read."""

    TOGETHER = 8
    """Writes that a DRAM gathers before it turns its bus."""
    OUTSTANDING = 64
    """Writes under way at most."""
    DEPTH = 32
    """Writes that wait for these, until heads have to wait."""

    def __init__(self, port: Port):
        self.port = port
        self.begin(0.0, 0.0, 0)

    def begin(self, first: float, each: float, count: int) -> None:
        """When the first of a layer can be made, the time for each, and how many they are."""
        self.first, self.each, self.count = first, each, count if self.port.memory.banks else 0
        self.left: list[float] = []
        self.answered: list[float] = []

    def when(self) -> float:
        """When the next ones are handed to the memory."""
        number = len(self.left)
        done = min(self.count, (number + 1) * self.TOGETHER)
        if number * self.TOGETHER >= self.count:
            return FOREVER
        before = number - self.OUTSTANDING // self.TOGETHER
        return max(self.first + self.each * done, self.answered[before] if before >= 0 else 0.0)

    def go_on(self) -> None:
        """They are handed to the memory."""
        time = self.when()
        begin = self.port.bus(time, self.TOGETHER, write=True)
        self.left.append(time)
        self.answered.append(begin + self.TOGETHER + self.port.memory.latency)

    def end(self) -> float:
        """When all that has no place to wait has left."""
        number = (self.count - self.DEPTH) // self.TOGETHER
        if number <= 0:
            return 0.0
        while len(self.left) < number:
            self.port.must_go_on()
        return self.left[number - 1]


@dataclass
class _Step:
    """The course of a step."""

    machine: Machine
    memory: Memory
    shape: Shape
    spans: Sequence[Span]
    sampled: int
    packets: list[PacketTime] = field(default_factory=list)

    # Latencies of blocks, as their pages tell them.
    DEQUANTIZER, GATE_UP, NORMALIZER = 5, 19, 7
    QUANTIZER = 25
    FEED = 3
    """From a packet's header to its first row."""
    TILE = 6
    """From a tile's last beat to its first row: reader, unpacker, loader."""
    BETWEEN = 4
    """Units of the load path that these hold while they wait for a plane."""
    EXPONENTIALS, RESCALER = 11, 6
    EMBED, EMBED_AHEAD = 6, 4
    """From one row of the embedding that is asked for to the next; how many are on their way."""
    ROW, ROPE = 13, 5
    """From the last word of a row of the embedding, and of RoPE, to the end of its packet."""
    HEADS = 22
    """From a head's last beat to its first codes, beside the tree of the maximum."""
    JOB, UNIT = 1, 6
    """What the codes of a head take beside their words; what a unit of heads takes beside them."""
    FORM, SEQUENCE, CHUNK = 5, 31, 38
    """Between two steps, for each sequence in it, and for that of a chunk beside memory and tokens."""
    ROUTER = 3
    """From the array to the normalizer."""
    SCALES = 2
    """From the last scores of an item until the scales of the next are there, beside its own tokens."""
    FEEDER = 4
    """From the unit of a record or of the step's own k and v to the array."""

    def __post_init__(self):
        m = self.machine
        self.n, self.lanes = m.n, m.lanes
        self.slices = m.n // m.lanes
        self.lanes_log2 = m.lanes.bit_length() - 1
        # Register slices lie in front of the array and behind the dequantizer; each has more inside.
        self.engine = 4 + m.multiplier_latency + 2 * m.n + 5 * m.registered
        self.dequantizer = self.DEQUANTIZER + 10 * m.registered
        self.gate_up = self.GATE_UP + 16 * m.registered
        # In front of its jobs, behind its memories, in all of its steps, and for its end.
        self.quantizer = self.QUANTIZER + 33 * m.registered
        self.heads = self.HEADS + 21 * m.registered
        self.exponentials = self.EXPONENTIALS + 13 * m.registered
        self.rescaler = self.RESCALER + 4 * m.registered
        self.normalizer = self.NORMALIZER + 12 * m.registered
        # Bursts of the embedding are chosen ahead of the tape's, and its words come later.
        self.embed = self.EMBED - 2 * m.registered
        self.row = self.ROW + 15 * m.registered
        self.rope = self.ROPE + 15 * m.registered
        # A packet whose tiles are there begins later, and results leave the array in every other cycle.
        self.feed = self.FEED + 28 * m.registered
        self.more = self.slices * m.registered
        # Until softmax has room again; between two tiles of attention, and until a plane is free.
        self.room = 25 * m.registered
        self.pause, self.freed = m.registered, 2 * m.registered
        # Behind the last result: the residual's or the staging buffer's, and for the sequencer to see it.
        self.end = 2 + 4 * m.registered
        self.maximum = 1 if m.lanes <= 4 else 2
        # From a tile's last row until its plane is loaded again.
        self.reload = m.n // 2 if m.load_bytes > m.n else 1
        self.rows = sum(span.rows for span in self.spans)
        self.head_pad = head_pad(self.shape.head_dim, m.n)
        self.record = -(-BLOCK_SIZE * (2 * self.shape.head_dim + 4) // m.port_bytes)
        self.tile_beats = m.n**2 // m.port_bytes

    # Pieces

    def quantize(self, length: int) -> int:
        """From the command of the row quantizer until it is done."""
        words = -(-length // self.n) * self.slices
        return self.rows * (words + self.machine.registered) + self.quantizer + self.lanes_log2

    def per_tile(self, rows: int, tiles: int) -> float:
        """Cycles per tile of a tape if they are there, with so many tiles in a block."""
        units = self.n**2 // self.machine.load_bytes
        # The accumulators that a tile has just used can be used again after as many cycles.
        interval = 3 + 3 * self.machine.registered
        again = (interval * (tiles - 1) + rows) / tiles if rows < interval else 0
        return max(rows, units, (units + rows - 1 + self.reload) / 2, again)

    def results(self, rows: int) -> int:
        """From the first row of the last tile taken to the last slice out of the dequantizer."""
        return self.engine + rows * self.slices - 1 + self.dequantizer

    def draft(self) -> Descriptor:
        """A descriptor with all that the program follows from."""
        shape, n = self.shape, self.n
        zero = dict.fromkeys(
            "image_bytes s_eps s_score program_offset head_offset end_offset program_end rope_offset"
            " rope_stride embed_offset embed_stride packets record_bytes block_bytes".split(),
            0,
        )
        sizes = {name: getattr(shape, name) for name in Shape.NAMES}
        return Descriptor(
            n=n, align=self.machine.align, head_pad=self.head_pad, context=1, bos=None, eos=None, name="",
            **sizes, **zero,
        )  # fmt: skip

    # The course

    def run(self) -> None:
        """All packets, from the begin of the step to its END."""
        draft = self.draft()
        program = list(draft.program())
        if not self.sampled:
            program = [*program[:-4], program[-1]]
        width = self.machine.port_bytes
        self.header = self.machine.align // width
        self.starts, position = [], 0
        for packet in program:
            self.starts.append(position)
            position += self.header + packet.payload_bytes // width
        self.program = program
        self.port = Port(self.machine, self.memory)
        self.records = self.port.records
        self.time = 0.0
        begin = 0.0
        for index, packet in enumerate(program):
            self.array = self.kv_beats = 0
            getattr(self, f"_{packet.opcode.name.lower()}")(index, packet)
            layer = None if packet.layer == NO_LAYER else packet.layer
            self.packets.append(
                PacketTime(
                    packet.label,
                    layer,
                    self.time - begin,
                    self.array,
                    self.header + packet.payload_bytes // width,
                    self.kv_beats,
                )
            )
            begin = self.time

    def ahead(self, index: int) -> float:
        """How far the tape is taken out of its buffer when the rows of a packet are through.

        Headers are, up to one behind an ATTEND; of a payload the first scales and two tiles, which is what
        the array's planes hold.
        """
        width = self.machine.port_bytes
        position = self.starts[index] + self.header + self.program[index].payload_bytes // width
        for behind, packet in enumerate(self.program[index + 1 :], index + 1):
            position += self.header
            if self.program[behind - 1].opcode is Opcode.ATTEND and behind - 1 != index:
                return position
            if packet.payload_bytes:
                held = self.BETWEEN * self.machine.load_bytes // self.machine.port_bytes
                return position + self.scales(packet) + 2 * self.tile_beats + held
        return position

    def scales(self, packet: Packet) -> int:
        """Beats before the first tile of a payload: scales, and in QKV the means of k."""
        return (4 if packet.opcode is Opcode.QKV else 2) * self.n // self.machine.port_bytes

    def payload(self, packet: Packet) -> int:
        """Bytes of a payload without what fills it up to its alignment."""
        blocks, tiles = -(-packet.n_out // self.n), -(-packet.k // self.n)
        means = -(-self.shape.kv_heads * self.head_pad // self.n) if packet.opcode is Opcode.QKV else 0
        return blocks * (2 * self.n + tiles * self.n**2) + 2 * self.n * means

    def _embed(self, index: int, packet: Packet) -> None:
        width, lanes = self.machine.port_bytes, self.lanes
        row = round_up(self.machine.align + self.shape.dim, self.machine.align)
        rope = round_up(2 * self.head_pad, self.machine.align)
        self.other = self.rows * (row + rope) // width
        asked, pairs = self.port.START + 2.0, 0.0
        done: list[float] = []
        for number in range(self.rows):
            if number >= self.EMBED_AHEAD:
                asked = max(asked, done[number - self.EMBED_AHEAD] + self.embed)
            first, _ = self.port.request(asked, row // width)
            codes = max(first, pairs) + max(row // width, row // lanes)
            done.append(codes)
            _, last = self.port.request(asked + 2, rope // width)
            pairs = max(last, codes + max(rope // width, rope // (2 * lanes)) - 1)
            asked += self.embed
        self.time = max(codes + self.row, pairs + self.rope)
        self.port.take(self.ahead(index), self.port.START)

    def _norm(self, index: int, packet: Packet) -> None:
        self.time += self.quantize(self.shape.dim) + 2

    def _project(self, index: int, packet: Packet, rows: int) -> float:
        """The rows of a packet with weights; when the last slice leaves the dequantizer."""
        port, width = self.port, self.machine.port_bytes
        blocks, tiles = -(-packet.n_out // self.n), -(-packet.k // self.n)
        begin = self.starts[index] + self.header
        first = begin + self.scales(packet) + self.tile_beats
        # What fills the payload up to its alignment is not waited for.
        end = begin + self.payload(packet) // width
        cycles = self.per_tile(rows, tiles)
        load_beats = self.machine.load_bytes // width
        start = max(self.time + self.feed + rows * self.more, port.arrival(first) + self.TILE)
        if packet.opcode is Opcode.QKV:
            self._gather()
        # Burst after burst: when the array takes up the last tile of each, and when the tape goes on: a plane
        # that is free is loaded with the tile after the next.
        each = max(cycles * (blocks * tiles - 1) / max(1, end - first), 1 / load_beats)
        free = rows - 1 + self.reload
        held = 2 * self.tile_beats + self.BETWEEN * load_beats
        load = self.tile_beats / load_beats
        port.hold(start + free)
        port.take(min(first + held, end), start + free + load)
        position, at = first, start
        while position < end:
            upto = min(end, port.burst_end(position))
            at = max(at + each * (upto - position), port.arrival(upto) + self.TILE)
            position = upto
            port.take(min(position + held, end), at + free + load)
        self.array = blocks * tiles * rows
        # Results take longer than rows where a block has hardly any tiles.
        at = max(at, start + (tiles - 1) * cycles + (blocks - 1) * rows * self.slices)
        behind = self.ahead(index)
        port.hold(at + free)
        port.take(behind, at + free + (behind - end) / load_beats)
        return at + self.results(rows)

    def _qkv(self, index: int, packet: Packet) -> None:
        begin = self.time
        # A unit is a head, or the two of a block; its jobs are the heads of each row, one after another.
        heads = max(1, self.n // self.head_pad)
        words = self.head_pad // self.lanes
        job = words + self.JOB
        width = max(self.n, self.head_pad)
        units = -(-packet.n_out // width)
        tiles = -(-packet.k // self.n) * max(1, self.head_pad // self.n)
        unit = self.rows * heads * job + self.UNIT
        array = tiles * self.per_tile(self.rows, -(-packet.k // self.n))
        first = begin + self.FEED + array + self.engine + self.dequantizer
        # k and v come first; of each head the words of its codes and its scale are written.
        appended = 2 * self.shape.kv_heads * self.head_pad // width
        writes = self.rows * heads * (-(-self.shape.head_dim // self.machine.port_bytes) + 1)
        pace = max(unit, array, tiles * self.tile_beats) / writes
        self.port.writes.begin(first + self.heads, pace, appended * writes)
        last = self._project(index, packet, self.rows)
        # The rows of the last block come faster than their codes.
        waiting = (self.rows - 1) * max(0, heads * job - self.slices)
        last = max(last + waiting, first + (units - 1) * unit)
        last = max(last, self.port.writes.end() + (units - appended) * unit)
        self.time = last + self.heads + self.maximum + words + 5

    def _matmul(self, index: int, packet: Packet) -> None:
        logits = bool(packet.flags)
        last = self._project(index, packet, self.sampled if logits else self.rows)
        self.time = last + (
            2 + self.machine.registered if logits else self.end + self.machine.registered + 4 + self.maximum
        )

    def _gate_up(self, index: int, packet: Packet) -> None:
        last = self._project(index, packet, self.rows) + self.gate_up
        self.time = last + self.end + self.maximum + self.quantize(self.shape.ffn) + 2

    def _sample(self, index: int, packet: Packet) -> None:
        self.time += 5 + 2 * self.sampled if self.machine.registered else 2 + self.lanes_log2 + self.sampled

    def _end(self, index: int, packet: Packet) -> None:
        self.time += 1 + 4 * self.machine.registered

    def between(self) -> float:
        """From the end of a step to the begin of the next one of the same kind.

        Each sequence is committed, its token given to the host, its next slot reserved, one after another;
        a chunk of a prompt is read.
        """
        time = self.FORM
        for span in self.spans:
            tokens = max(span.rows, span.rows * TOKEN_BYTES // self.machine.port_bytes)
            time += self.SEQUENCE if span.rows == 1 else self.CHUNK + tokens + self.memory.latency
            # What the KV controller and the scheduler take more, whose states last four cycles then.
            time += (85 if span.rows == 1 else 150) * self.machine.registered
        return time + 18 * self.machine.registered

    # Attention

    def parts(self) -> list[tuple[int, int, int]]:
        """Parts in which attention takes the spans: committed tokens, tokens up to the part's end, rows."""
        most = max(1, self.machine.attention_rows_max // (self.shape.heads // self.shape.kv_heads))
        found = []
        for span in self.spans:
            for skip in range(0, span.rows, most):
                rows = min(most, span.rows - skip)
                found.append((span.position, span.position + skip + rows, rows))
        return found

    def _gather(self) -> None:
        """The records of the layer are asked for while QKV runs."""
        heads = self.shape.kv_heads
        groups = [-(-position // GROUP) for position, _, _ in self.parts()]
        places: list[tuple[int, int]] = []
        if self.memory.banks:
            # Blocks of a sequence follow one another, and so do its records of a block.
            size, row = self.record * self.machine.port_bytes, self.memory.row_bytes
            layer = self.packets[-1].layer or 0
            block = self.shape.layers * heads * size
            for part, count in enumerate(groups):
                first = sum(groups[:part])
                for head in range(heads):
                    for group in range(count):
                        at = (first + group) * block + (layer * heads + head) * size
                        places.append((at // row, (at + size - 1) // row))
        self.records.begin(
            self.time + 12,
            self.record,
            sum(groups) * heads,
            lambda number: places[number] if places else None,
        )

    def _attend(self, index: int, packet: Packet) -> None:
        self.used = 0
        # When the array's tiles are loaded, its two planes are free, and it takes the next row.
        self.loaded = self.entered = 0.0
        self.planes = (0.0, 0.0)
        self.kv_beats = self.records.count * self.record
        time = self.time + 1
        for committed, end, rows in self.parts():
            time = self._part(time, committed, end, rows) + 1
        self.port.take(self.ahead(index), self.loaded)
        wide = self.shape.heads * self.head_pad
        self.time = time - 1 + 2 + self.maximum + self.quantize(wide) + 2

    def _units(self, tokens: int) -> list[int]:
        """Units of the load path of each tile of a group of which so many tokens are there."""
        each = self.machine.load_bytes // self.n
        most = self.n // each
        return [min(most, max(1, -(-(tokens - low) // each))) for low in range(0, GROUP, self.n)]

    def _part(self, time: float, committed: int, end: int, rows: int) -> float:
        """One command of attention: when its last output is staged."""
        shape, lookahead = self.shape, self.machine.lookahead
        rows *= shape.heads // shape.kv_heads
        chunks, tiles = -(-self.head_pad // self.n), -(-GROUP // self.n)
        front = rows * GROUP // self.lanes
        back = max(front, GROUP // self.lanes + 3)
        groups, stored = -(-end // GROUP), -(-committed // GROUP)
        items = [group for _ in range(shape.kv_heads) for group in range(groups)]
        units = [self._units(end - group * GROUP) * chunks for group in range(groups)]
        # Softmax: scores taken, weights begun.
        scored = weighed = 0.0
        begun: list[float] = []
        # The outputs of a head, which scores come behind.
        emitted = 0.0
        self.loaded = max(self.loaded, time + 3)
        come: list[float] = []
        weights: list[float] = []
        for step in range(len(items) + lookahead):
            if step < len(items):
                group = items[step]
                come.append(self._record() if group < stored else 0.0)
                # The keys are the first half of a record.
                last = self._tiles(units[group], rows, come[-1] - self.record / 2, 0.0, tiles == 1)
                # The scales of the step's own tokens are read one after another, once those before are taken.
                own = min(GROUP, end - group * GROUP) - max(0, committed - group * GROUP)
                ready = scored + self.SCALES + max(0, own)
                if step >= 2:
                    # There is room for two items between scores and weights.
                    ready = max(ready, begun[-2] + front - 1 + self.room)
                scored = max(ready, last - (tiles - 1) * rows + self.engine, emitted) + front
                weighed = max(weighed + back, scored + self.exponentials + self.maximum)
                begun.append(weighed)
                weights.append(weighed + front + self.rescaler)
            if (item := step - lookahead) >= 0:
                group = items[item]
                last = self._tiles(units[group], 2 * rows, come[item], weights[item], False)
                if group < stored:
                    self.records.freed.append(self.loaded)
                if group == groups - 1:
                    emitted = max(emitted, last + self.engine) + rows * (max(2, self.slices) + self.more)
                self.array += len(units[group]) * 3 * rows
        return emitted + self.ROUTER + self.normalizer

    def _tiles(self, units: Sequence[int], rows: int, come: float, fed: float, again: bool) -> float:
        """Tiles of an operation of attention: when the rows of the last one begin."""
        # The last unit waits for its bytes of the record.
        load = max(self.loaded, come + self.FEEDER - sum(units) + 1)
        start = max(self.entered, fed)
        # A plane is loaded again a while after the last row of the tile before the last.
        busy = rows - 1 + self.reload + self.freed
        each = max(rows, 3) if again else rows
        free, other = self.planes
        for count in units:
            load = (load if load > free else free) + count + self.pause
            start = start if start > load else load
            free, other = other, start + busy
            last = start
            start += each
        self.planes = free, other
        self.loaded, self.entered = load, start
        return last

    def _record(self) -> float:
        """When the next record is there."""
        self.used += 1
        return self.records.come(self.used - 1)


def useful(shape: Shape, spans: Sequence[Span], sampled: int) -> tuple[int, int]:
    """Bytes that a step must read, and multiply-accumulates that it needs: docs/simulation.md."""
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = [
        (2 * narrow + wide, shape.dim),
        (shape.dim, wide),
        (2 * shape.ffn, shape.dim),
        (shape.dim, shape.ffn),
    ]
    rows = sum(span.rows for span in spans)
    size = shape.layers * sum(outputs * (inputs + 2) for outputs, inputs in matrices)
    size += shape.vocab * (shape.dim + 2) if sampled else 0
    stored = sum(span.position for span in spans)
    size += shape.layers * shape.kv_heads * stored * (2 * shape.head_dim + 4)
    size += rows * (shape.dim + 2 + 2 * shape.head_dim)
    macs = shape.layers * sum(outputs * inputs for outputs, inputs in matrices) * rows
    seen = sum(span.position + row + 1 for span in spans for row in range(span.rows))
    macs += 2 * shape.layers * wide * seen + sampled * shape.vocab * shape.dim
    return size, macs


def estimate(
    machine: Machine,
    shape: Shape,
    spans: Sequence[Span],
    sampled: int | None = None,
    memory: Memory | None = None,
) -> Estimate:
    """How long a step takes.

    Parameters
    ----------
    machine, shape, memory
        Accelerator, model and memory.
    spans : sequence of :class:`Span`
        The sequences of the step, in order.
    sampled : :class:`int`
        Rows that are sampled; all spans of one row if it is not given.

    Raises
    ------
    CompileError
        If the step or the model is none that this accelerator takes.
    """
    rows = sum(span.rows for span in spans)
    sampled = sum(span.rows == 1 for span in spans) if sampled is None else sampled
    if not spans or not 1 <= rows <= machine.rows_max or min(span.rows for span in spans) < 1:
        raise CompileError(f"a step has 1 to {machine.rows_max} rows, not {rows}")
    if not 0 <= sampled <= rows:
        raise CompileError(f"of {rows} rows at most {rows} are sampled, not {sampled}")
    tail = shape.head_dim % machine.n
    if shape.head_dim % 2 or (tail and not power_of_two(tail)):
        raise CompileError(
            f"head_dim must be even, and 0 or a power of two modulo n {machine.n}, not {shape.head_dim}"
        )
    if shape.heads // shape.kv_heads > machine.attention_rows_max:
        raise CompileError(
            f"heads / kv_heads is {shape.heads // shape.kv_heads}, attention_rows_max is"
            f" {machine.attention_rows_max}"
        )
    step = _Step(machine, memory or Memory(), shape, tuple(spans), sampled)
    step.run()
    size, macs = useful(shape, spans, sampled)
    return Estimate(machine, step.packets, step.between(), step.other, size, macs, sampled)


# For people and programs


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or from ``config.json`` in a folder.

    Raises
    ------
    CompileError
        If there is none.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompileError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise CompileError(f"{file}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise CompileError(f"{file}: not a JSON object")
    return values


def report(found: Estimate) -> dict[str, Any]:
    """An estimate for programs."""
    busy = {name: sum(getattr(packet, name) for packet in found.packets) for name in ("weights", "kv")}
    return {
        "cycles": round(found.cycles),
        "cycles_per_token": round(found.cycles / found.tokens) if found.tokens else None,
        "mbu": found.mbu,
        "mac_utilization": found.mac_utilization,
        "useful_bytes": found.useful_bytes,
        "useful_macs": found.useful_macs,
        "array_busy": found.array_busy,
        "port_cycles": {**busy, "other": found.other, "none": round(found.cycles - found.port_beats)},
        "between_steps": round(found.between),
        "packets": [{**vars(packet), "cycles": round(packet.cycles)} for packet in found.packets],
    }


def tables(found: Estimate) -> Iterator[Table]:
    """An estimate for people: packets of all layers together, and the figures."""
    table = Table(title="packets of a step", title_justify="left")
    for name in ("packet", "times", "cycles", "share", "array busy", "weight beats", "KV beats"):
        table.add_column(name, justify="left" if name == "packet" else "right")
    # The two MATMULs of a layer are told apart by their inputs.
    summed = ("cycles", "array", "weights", "kv")
    kinds: dict[tuple[str, int], list[PacketTime]] = {}
    for packet in found.packets:
        kinds.setdefault((packet.name, packet.weights), []).append(packet)
    rows = [
        (name, len(packets), *(sum(getattr(packet, what) for packet in packets) for what in summed))
        for (name, _), packets in kinds.items()
    ]
    rows.append(("between steps", 1, found.between, 0, 0, 0))
    rows.append(("all", 1, found.cycles, found.array_busy, *(sum(row[i] for row in rows) for i in (4, 5))))
    for name, times, cycles, *numbers in rows:
        share = f"{cycles / found.cycles:.1%}"
        table.add_row(name, str(times), f"{cycles:,.0f}", share, *(f"{number:,}" for number in numbers))
    yield table
    figures = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    figures.add_column(style="dim")
    figures.add_column()
    for name, value in (
        ("cycles", f"{found.cycles:,.0f} from step to step"),
        ("cycles per token", f"{found.cycles / found.tokens:,.0f}" if found.tokens else "no row is sampled"),
        ("MBU", f"{found.mbu:.1%}"),
        ("MAC utilization", f"{found.mac_utilization:.1%}"),
        ("read port busy", f"{found.port_beats / found.cycles:.1%}"),
    ):
        figures.add_row(name, value)
    yield figures
