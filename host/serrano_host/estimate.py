# SPDX-License-Identifier: Apache-2.0
"""How many cycles a step takes, without a simulation: docs/estimate.md.

Two clocks run against each other: the sequencer's, which executes packets one after another, and that of the
read port, which brings tape and KV records and stops only where a buffer is full. Every constant is a
latency or a capacity of the hardware; none is fitted to a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    """A memory: cycles from an address to its first beat, and the share of cycles in which it gives beats."""

    latency: int = 60
    efficiency: float = 1.0

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


DRAM = Memory(30, 0.97)
"""DDR3-1600 as the bench has it: 30 cycles away; refresh and rows that are opened take 3 % of its cycles."""


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


class Port:
    """The read port: tape ahead of its use as far as its buffer goes, KV records between.

    Positions are beats of the tape since the step's begin. ``delivered`` is right as of ``now``.
    """

    ISSUE = 1
    """Cycles from room in a buffer to the address of the burst."""

    def __init__(self, machine: Machine, memory: Memory, start: float):
        self.machine, self.memory = machine, memory
        self.burst = machine.read_burst_bytes // machine.port_bytes
        self.fifo = machine.tape_fifo_bytes // machine.port_bytes
        self.rate = memory.efficiency
        self.now = self.ready = start
        self.delivered = 0.0
        self.limit = 0.0
        # Bursts end at multiples of their length in memory, and the program begins behind the descriptor.
        self.course = [(start, 0.0)]
        self.phase = round_up(DESCRIPTOR_BYTES, machine.align) // machine.port_bytes

    def _claimable(self, consumed: float) -> float:
        """How far bursts go that fit the buffer when so much was consumed."""
        return (consumed + self.fifo + self.phase) // self.burst * self.burst - self.phase

    def advance(self, time: float) -> None:
        """Tape comes until ``time``."""
        if time > self.now:
            if self.ready > self.now:
                self.course.append((min(time, self.ready), self.delivered))
            going = max(0.0, time - max(self.now, self.ready))
            self.delivered = min(self.limit, self.delivered + going * self.rate)
            self.now = time
            self.course.append((self.now, self.delivered))

    def consume(self, position: float, time: float) -> None:
        """From ``time`` on there is room for what lies behind ``position``."""
        self.advance(time)
        stopped = self.delivered >= self.limit
        if (limit := self._claimable(position)) > self.limit:
            self.limit = limit
            if stopped:
                self.ready = time + self.ISSUE + self.memory.latency

    def arrival(self, position: float) -> float:
        """When the beat before a position comes if nothing stops the tape, or when it came at the latest."""
        missing = position - self.delivered
        if missing > 0:
            return max(self.now, self.ready) + missing / self.rate
        after = (self.now, self.delivered)
        for time, delivered in reversed(self.course):
            if delivered < position:
                return time + (after[0] - time) * (position - delivered) / (after[1] - delivered)
            after = (time, delivered)
        return after[0]

    def kv(self, asked: float, beats: int, since: float) -> float:
        """Records: asked for at a time, behind those that end at ``since``. Returns when they end.

        Bursts are answered in order. As long as tape comes, both share the port as their buffers are large;
        a record has a buffer of two bursts.
        """
        start = max(since, asked + self.ISSUE + self.memory.latency)
        self.advance(start)
        left = float(beats)
        ready = max(self.now, self.ready)
        if self.delivered < self.limit:
            # Before tape comes again, records have the port for themselves.
            alone = min(left, max(0.0, (ready - start) * self.rate))
            left -= alone
            start += alone / self.rate
            share = 2 * self.burst / (2 * self.burst + self.fifo)
            shared = min((self.limit - self.delivered) / (1 - share), left / share) if left else 0.0
            self.delivered += shared * (1 - share)
            left -= shared * share
            start += shared / self.rate
        start += left / self.rate
        self.now = max(self.now, start)
        self.course.append((self.now, self.delivered))
        return start


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
    """From a tile's last beat to its first row: reader, gearbox, unpacker, loader."""
    BETWEEN = 8
    """Beats that these hold while they wait for a plane."""
    EXPONENTIALS, RESCALER = 11, 6
    ROW = 13
    """Of a row of the embedding, beside its latency and its words."""
    HEADS = 22
    """From a head's last beat to its first codes, beside the tree of the maximum."""
    JOB, UNIT = 2, 5
    """The shortest time for a head's codes; what a unit of heads takes beside them."""
    FORM, SEQUENCE = 6, 31
    """Between two steps, and for each sequence in it."""
    FEEDER = 4
    """From the unit of a record or of the step's own k and v to the array."""

    def __post_init__(self):
        m = self.machine
        self.n, self.lanes = m.n, m.lanes
        self.slices = m.n // m.lanes
        self.lanes_log2 = m.lanes.bit_length() - 1
        self.engine = 4 + m.multiplier_latency + 2 * m.n
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
        return self.rows * words + self.QUANTIZER + self.lanes_log2

    def per_tile(self, rows: int, again: bool = True) -> float:
        """Cycles per tile if they are there; ``again``: into the accumulators that were just used."""
        units = self.n**2 // self.machine.load_bytes
        return max(rows, units, (units + rows - 1 + self.reload) / 2, 3 if again and rows < 3 else 0)

    def per_tape_tile(self, rows: int) -> float:
        """The same for tiles of the tape: a plane's units come one after another at the port's width."""
        machine = self.machine
        units = self.n**2 // machine.load_bytes
        load = (units - 1) * machine.load_bytes // machine.port_bytes
        return max(self.per_tile(rows), (load + rows - 1 + self.reload) / 2)

    def results(self, rows: int) -> int:
        """From the first row of the last tile taken to the last slice out of the dequantizer."""
        return self.engine + rows * self.slices - 1 + self.DEQUANTIZER

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
        self.port = Port(self.machine, self.memory, 0.0)
        self.port.limit = self.port._claimable(0)
        self.port.ready = 5.0 + self.memory.latency
        self.time = self.port.arrival(self.header) + 5
        self.records: list[float] = []
        begin = 0.0
        for index, packet in enumerate(program):
            self.array = self.kv_beats = 0
            del self.port.course[:-2]
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
                return position + self.scales(packet) + 2 * self.tile_beats
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
        # Rows come behind the tape that has been asked for.
        fetch = max(row // width, row // lanes) + max(rope // width, rope // (2 * lanes)) + self.ROW
        self.port.advance(self.port.ready + self.port.limit / self.port.rate)
        first = self.port.now + fetch - self.header
        self.time = first + (self.rows - 1) * (fetch + self.memory.latency - 3)
        self.port.consume(self.ahead(index), 80)
        self.port.advance(self.time)

    def _norm(self, index: int, packet: Packet) -> None:
        self.time += self.quantize(self.shape.dim) + 2
        self.port.advance(self.time)

    def _project(self, index: int, packet: Packet, rows: int) -> float:
        """The rows of a packet with weights; when the last slice leaves the dequantizer."""
        port, width = self.port, self.machine.port_bytes
        blocks, tiles = -(-packet.n_out // self.n), -(-packet.k // self.n)
        begin = self.starts[index] + self.header
        first = begin + self.scales(packet) + self.tile_beats
        # What fills the payload up to its alignment is not waited for.
        end = begin + self.payload(packet) // width
        cycles = self.per_tape_tile(rows)
        start = max(self.time + self.FEED, port.arrival(first) + self.TILE)
        port.advance(start)
        # The tape goes on when so much has been taken that there is room for a burst.
        taken = first + self.tile_beats
        need = port.limit + port.burst - port.fifo - taken
        resume = start + max(0.0, need) / self.tile_beats * cycles
        if taken + need <= end:
            port.advance(resume)
            if port.delivered >= port.limit:
                port.ready = resume + port.ISSUE + self.memory.latency
            port.limit = max(port.limit, port._claimable(self.ahead(index)))
        if packet.opcode is Opcode.QKV:
            self._gather()
        arrived = port.arrival(end)
        taken_at = start + (blocks * tiles - 1) * cycles
        # The tape is taken out of its buffer at the port's width, from the first plane that is free on.
        taken_at = max(taken_at, start + rows - 1 + self.reload + self.TILE + end - taken - self.BETWEEN)
        # Results take longer than rows where a block has hardly any tiles.
        taken_at = max(taken_at, start + tiles * cycles + (blocks - 1) * rows * self.slices)
        taken_at = max(taken_at, arrived + self.TILE)
        self.array = blocks * tiles * rows
        port.advance(taken_at)
        port.consume(self.ahead(index), taken_at)
        return taken_at + self.results(rows)

    def _qkv(self, index: int, packet: Packet) -> None:
        begin = self.time
        last = self._project(index, packet, self.rows)
        # A unit is a head, or the two of a block; its jobs are the heads of each row, one after another.
        heads = max(1, self.n // self.head_pad)
        words = self.head_pad // self.lanes
        job = max(words, self.JOB)
        units = -(-packet.n_out // max(self.n, self.head_pad))
        tiles = -(-packet.k // self.n) * max(1, self.head_pad // self.n)
        first = begin + self.FEED + tiles * self.per_tape_tile(self.rows) + self.engine + self.DEQUANTIZER
        waiting = (self.rows - 1) * max(0, heads * job - max(1, heads * words // self.slices) * self.slices)
        last = max(last + waiting, first + (units - 1) * (self.rows * heads * job + self.UNIT))
        self.time = last + self.HEADS + self.maximum + words + 5
        self.port.advance(self.time)

    def _matmul(self, index: int, packet: Packet) -> None:
        logits = bool(packet.flags)
        last = self._project(index, packet, self.sampled if logits else self.rows)
        self.time = last + 2 + (0 if logits else 4 + self.maximum)
        self.port.advance(self.time)

    def _gate_up(self, index: int, packet: Packet) -> None:
        last = self._project(index, packet, self.rows) + self.GATE_UP
        self.time = last + 2 + self.maximum + self.quantize(self.shape.ffn) + 2
        self.port.advance(self.time)

    def _sample(self, index: int, packet: Packet) -> None:
        self.time += 2 + self.lanes_log2 + self.sampled

    def _end(self, index: int, packet: Packet) -> None:
        self.time += 1

    def between(self) -> float:
        """From the end of a step to the begin of the next one of the same kind.

        Each sequence is committed, its token given to the host, its next slot reserved, one after another;
        a chunk of a prompt is read.
        """
        chunks = [span.rows for span in self.spans if span.rows > 1]
        return (
            self.FORM + self.SEQUENCE * len(self.spans) + sum(rows + self.memory.latency for rows in chunks)
        )

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
        """The records of the layer that fit the buffer are asked for while QKV runs."""
        count = sum(-(-position // GROUP) for position, _, _ in self.parts()) * self.shape.kv_heads
        self.records, since = [], 0.0
        for _ in range(min(count, self.machine.lookahead + 2)):
            since = self.port.kv(self.time + 12, self.record, since)
            self.records.append(since)
        self.record_count = count

    def _attend(self, index: int, packet: Packet) -> None:
        self.freed: list[float] = []
        self.used = 0
        self.kv_beats = self.record_count * self.record
        time = self.time + 1
        for committed, end, rows in self.parts():
            time = self._part(time, committed, end, rows) + 4
        self.port.consume(self.ahead(index), self.loaded)
        wide = self.shape.heads * self.head_pad
        self.time = time - 4 + 2 + self.maximum + self.quantize(wide) + 2
        self.port.advance(self.time)

    def _record(self) -> float:
        """When the next record has come; it is asked for when the one whose place it takes has been used."""
        number = self.used
        self.used += 1
        while len(self.records) <= number:
            slot = self.freed[len(self.records) - self.machine.lookahead - 2]
            self.records.append(self.port.kv(slot, self.record, self.records[-1]))
        return self.records[number]

    def _part(self, time: float, committed: int, end: int, rows: int) -> float:
        """One command of attention: when its last output is staged."""
        shape, lookahead = self.shape, self.machine.lookahead
        rows *= shape.heads // shape.kv_heads
        tiles = -(-GROUP // self.n)
        units = self.n**2 // self.machine.load_bytes
        count = -(-self.head_pad // self.n) * tiles
        front = rows * GROUP // self.lanes
        back = max(front, GROUP // self.lanes + 3)
        k_tile, v_tile = self.per_tile(rows, again=tiles == 1), self.per_tile(2 * rows)
        groups, stored = -(-end // GROUP), -(-committed // GROUP)
        items = [stored > group for _ in range(shape.kv_heads) for group in range(groups)]
        # Array free; softmax: scores taken, weights given; tiles loaded.
        array = scored = weighed = 0.0
        loaded = time + 3
        come: list[float] = []
        weights: list[float] = []
        for step in range(len(items) + lookahead):
            if step < len(items):
                come.append(self._record() if items[step] else 0.0)
                # The keys are the first half of a record.
                load = max(loaded, come[-1] - self.record / 2)
                start = max(array, load + units + self.FEEDER)
                array = start + count * k_tile
                loaded = max(load + count * units, array - 2 * k_tile)
                last = array - k_tile + rows
                scored = max(scored, last - tiles * rows + self.engine) + front
                weighed = max(weighed, scored + self.EXPONENTIALS + self.maximum) + back
                weights.append(weighed + self.RESCALER)
            if (item := step - lookahead) >= 0:
                load = max(loaded, come[item])
                start = max(array, load + units + self.FEEDER, weights[item])
                array = start + count * v_tile
                loaded = max(load + count * units, array - 2 * v_tile)
                if items[item]:
                    self.freed.append(loaded)
                self.array += count * 3 * rows
        self.loaded = loaded
        return array - v_tile + 2 * rows - 1 + self.engine + self.slices - 1 + self.NORMALIZER


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
