# SPDX-License-Identifier: Apache-2.0
"""Proofs about the bytes of records: what is blanked, what is moved, and where to."""

from __future__ import annotations

from typing import Any

from amaranth import *

from serrano.kvcache.appender import Appender
from serrano.kvcache.commands import Status
from serrano.kvcache.gather import AHEAD, Gather
from serrano.kvcache.mask import RecordMask
from serrano.kvcache.mover import BlockMover
from serrano.kvcache.payloads import MoveKind
from serrano.kvcache.places import PlaceEntry, Places
from serrano.kvcache.tables import SequenceTables
from serrano.vector.payloads import HeadKind

from .bench import Bench, Unit
from .buses import buffer_conditions, sound_buffer
from .sizes import CONFIG

__all__ = ["appender", "gather", "mask", "mover", "mover_completes", "places"]

WIDTH = CONFIG.port_bytes
N = CONFIG.n
MOVE_LIMIT = 72
"""Cycles that a move of a small block may take."""


def layout(head_dim: int) -> list[dict[str, int]]:
    """Each byte of a record, from the description of its layout alone: its run, its chunk, its offset in the
    chunk, and the token it belongs to."""
    found = []
    for run in range(2):
        found += [{"run": run, "chunk": 0, "offset": at, "token": at // 2} for at in range(32)]
    widths = [N] * (head_dim // N) + ([head_dim % N] if head_dim % N else [])
    for run in (2, 3):
        for chunk, width in enumerate(widths):
            found += [
                {"run": run, "chunk": chunk, "offset": at, "token": at // width} for at in range(16 * width)
            ]
    return found


def mask(bench: Bench, case: str) -> None:
    """Records of heads with ``case`` dimensions, with any tokens wanted."""
    unit = bench.open(RecordMask(CONFIG))
    bench.free_inputs(unit, but=["head_dim"])
    m = bench.m
    m.d.comb += unit.head_dim.eq(int(case))
    for stream in (unit.tasks, unit.data):
        bench.assume_stable(stream)
    task, beat, out = unit.tasks.payload, unit.data.payload, unit.records
    record = layout(int(case))
    beats = len(record) // WIDTH

    number = Signal(range(beats + 1))
    go, here = unit.signal("go"), unit.signal("here")
    with m.If(go):
        m.d.sync += number.eq(Mux(number == beats - 1, 0, number + 1))

    def of_beat(name: str, byte: int = 0) -> Value:
        return Array(record[WIDTH * place + byte][name] for place in range(beats))[number]

    bench.check(
        "beats", (number < beats) & Cat(here[name] == of_beat(name) for name in here.shape().members).all()
    )
    bench.check("beats", (unit.tasks.valid & unit.tasks.ready) == (go & (number == beats - 1)))
    good = Value.cast(task.status) == Status.OK.value
    bench.check("beats", ~(unit.data.valid & unit.data.ready) | (go & good))
    bench.check("beats", ~go | (out.ready | ~out.valid))
    last = bench.past(number == beats - 1, when=go)
    bench.check("beats", ~out.valid | (out.payload.last == last))
    for byte in range(WIDTH):
        token = of_beat("token", byte)
        wanted = bench.past((token >= task.low) & (token < task.high) & good, when=go)
        given, stored = out.payload.bytes[byte], bench.past(beat.bytes[byte], when=go)
        bench.check("blank", ~out.valid | wanted | (given == 0))
        bench.check("data", ~out.valid | ~wanted | (given == stored))
    wrong = bench.past(~good | task.short | beat.error, when=go)
    bench.check("error", ~out.valid | (out.payload.error == wrong))
    bench.stable("stable", out)
    bench.cover("whole_record", unit.tasks.valid & unit.tasks.ready & good & out.ready)


def mover(bench: Bench) -> None:
    """Any move after any other; the memory does what it likes, within its protocol."""
    unit = bench.open(BlockMover(CONFIG))
    bench.free_inputs(unit)
    m, component = bench.m, unit.component
    command, response = unit.moves.command, unit.moves.response
    word, run = unit.writes.request, unit.reads.request
    writes, reads = word.valid & word.ready, run.valid & run.ready
    bench.assume_stable(command)
    bench.assume_stable(unit.reads.data)
    asked, geometry = command.payload, unit.geometry
    bench.assume((geometry.block_bytes[:6] == 0) & (geometry.head_dim <= CONFIG.head_dim_max))
    bench.assume(asked.record < 4)
    # Writes that were taken and not acknowledged.
    waiting, acknowledged = Signal(6), bench.free(1, "acknowledged")
    m.d.sync += waiting.eq(waiting + writes - acknowledged)
    bench.assume((waiting != 0) | ~acknowledged)
    bench.assume((waiting != 63) | ~word.ready)
    bench.assume(unit.writes.pending == (waiting != 0))
    bench.assume(~unit.writes.error | acknowledged)
    for stream in (response, word, run):
        bench.stable("stable", stream)

    # Where a move reads and writes, from its command alone.
    begins = bench.let(command.valid & command.ready, "begins")
    size = (geometry.head_dim << 5) + 64
    to_host = bench.let(asked.kind == MoveKind.GATHER, "to_host")
    place = Mux(to_host, asked.index, asked.destination) * Mux(to_host, size, geometry.block_bytes)
    start = Mux(to_host, Cat(Const(0, 6), unit.buffer[6:]), geometry.base) + place
    from_start = geometry.base + asked.source * geometry.block_bytes + Mux(to_host, asked.record, 0) * size
    count = Mux(to_host, 1, Mux(asked.kind == MoveKind.COPY, geometry.records, 0))
    length = Mux(to_host, size, geometry.block_bytes)
    names = {"target": start, "source": from_start, "records": count, "bytes_left": length, "size": size}
    kept = {}
    for name, value in names.items():
        bits = CONFIG.address_bits if name in ("target", "source") else 28
        kept[name] = Signal(bits, name=f"kept_{name}")
        with m.If(begins):
            m.d.sync += kept[name].eq(value)
    with m.If(writes):
        m.d.sync += [
            kept["target"].eq(kept["target"] + WIDTH),
            kept["bytes_left"].eq(kept["bytes_left"] - WIDTH),
        ]
    with m.If(reads):
        m.d.sync += [
            kept["source"].eq(kept["source"] + kept["size"]),
            kept["records"].eq(kept["records"] - 1),
        ]
    bench.check(
        "writes_inside", ~word.valid | (kept["bytes_left"] != 0) & (word.payload.address == kept["target"])
    )
    bench.check("writes_inside", ~word.valid | word.payload.strobe.all())
    bench.check("reads_inside", ~run.valid | (kept["records"] != 0) & (run.payload.address == kept["source"]))
    bench.check("reads_inside", ~run.valid | (run.payload.bytes == kept["size"]))
    bench.check("complete", ~response.valid | ((kept["bytes_left"] == 0) & (kept["records"] == 0)))
    bench.check("complete", ~response.valid | (waiting == 0))

    # What that rests on: the unit's registers are those, and its sums are made in this order.
    moving, idle = unit.ongoing("MOVE"), unit.ongoing("IDLE")
    under_way = moving | unit.ongoing("ADDRESS")
    bench.check("writes_inside", unit.known_state() & (~moving | (component._target == kept["target"])))
    bench.check("writes_inside", ~under_way | ((component._left << 2) == kept["bytes_left"]))
    bench.check("writes_inside", (kept["bytes_left"][:2] == 0) & (~idle | (waiting == 0)))
    bench.check("reads_inside", ~moving | (component._source == kept["source"]))
    bench.check("reads_inside", ~under_way | (component._unread == kept["records"]))
    then = component._geometry
    bench.check("reads_inside", idle | (((then.head_dim << 5) + 64) == kept["size"]))
    tasks, out = unit["tasks"], unit["mask"].records
    last = bench.let(out.valid & out.payload.last, "last")
    sound_buffer(bench, "complete", tasks)
    bench.check("complete", ~under_way | (component._unseen == kept["records"] + tasks.level + last))
    bench.check("complete", under_way | ((tasks.level == 0) & ~out.valid))
    bench.check("complete", ~(out.valid & ~last) | (tasks.level != 0))
    bench.check("complete", ~unit.ongoing("RESPOND") | (component._left == 0) & (component._unseen == 0))
    term = unit.signal("term")
    for flag, number in (
        (component._asking, component._unread),
        (component._reading, component._unseen),
        (component._writing, component._left),
    ):
        bench.check(
            "complete", ~under_way | (unit.ongoing("ADDRESS") & (term == 0)) | (flag == (number != 0))
        )
    bench.check("complete", unit.ongoing("ADDRESS") | (term == 0))
    bench.check("complete", term <= CONFIG.multiplier_latency + 2)
    bench.check("complete", (tasks.level != 0) | (Value.cast(unit["mask"].signal("here")) == 0))
    for condition in _between_moves(unit):
        bench.check("complete", ~idle | condition)


def gather(bench: Bench) -> None:
    """Any commands; look-ups are answered in time and as they like, and so do memory and consumer."""
    unit = bench.open(Gather(CONFIG))
    bench.free_inputs(unit, but=["translate.response"])
    m = bench.m
    answer, request = unit.translate.response, unit.translate.request
    command, geometry = unit.command, unit.geometry
    bench.assume_stable(command)
    bench.assume_stable(unit.memory.data)
    bench.assume(geometry.head_dim <= CONFIG.head_dim_max)
    bench.assume(command.payload.first + command.payload.count <= CONFIG.context_max)
    claimed = bench.past(unit.claim)
    bench.assume(bench.start | claimed | ~bench.past(unit.room) | unit.room)
    bench.stable("stable", unit.memory.request)
    bench.stable("stable", unit.records)
    bench.stable("stable", request)

    # Look-ups of the last three cycles; the last one is answered now.
    asks = bench.let(request.valid & request.ready, "asks")
    asked = [asks]
    for _ in range(SequenceTables.latency):
        asked.append(bench.past(asked[-1]))
    m.d.comb += answer.valid.eq(asked[-1])
    for name in ("status", "block", "tokens"):
        field = Value.cast(getattr(answer, name))
        m.d.comb += field.eq(bench.free(len(field), f"answer_{name}"))
    bench.assume(answer.tokens <= 16)

    # Which records a command wants, of which tokens.
    index, tokens = Signal(8), Signal(8)
    end, record = Signal(8), Signal(16)
    begins = command.valid & command.ready & (command.payload.count != 0)
    with m.If(asks):
        m.d.sync += [index.eq(index + 1), tokens.eq((index + 1) << 4)]
    with m.If(begins):
        m.d.sync += [
            index.eq(command.payload.first >> 4),
            tokens.eq(command.payload.first),
            end.eq(command.payload.first + command.payload.count),
            record.eq(command.payload.record),
        ]
    wanted, runs, tasks = unit["wanted"], unit["runs"], unit["tasks"]
    this, rest = wanted.i.payload, bench.let(end - (index << 4), "rest")
    looking = unit.ongoing("LOOK_UP")
    bench.check("range", ~looking | (tokens < end))
    bench.check("range", ~looking | (request.payload.index == index))
    bench.check("range", ~asks | ((this.low == tokens[:4]) & (this.record == record)))
    bench.check("range", ~asks | (this.high == Mux(rest < 16, rest, 16)))
    bench.check("range", ~asks | (this.final == (rest <= 16)))
    bench.check("range", ~looking | ((tokens >> 4 == index) & (end <= CONFIG.context_max)))
    last = bench.let(end - 1, "last")
    following = unit.signal("following")
    bench.check("range", ~looking | (unit.signal("final") == last[4:]))
    bench.check("range", ~looking | (unit.signal("high") == last[:4] + 1))
    bench.check("range", ~looking | ((following.low == tokens[:4]) & (following.record == record)))

    # Every answer finds who asked, and a place behind the products.
    count = sum(asked[1:])
    for buffer in (wanted, runs, tasks):
        sound_buffer(bench, "no_loss", buffer)
    valid = unit.signal("valid")
    bench.check("no_loss", wanted.level == count)
    bench.check("no_loss", unit.signal("looked_up") == count + sum(valid) + runs.level)
    bench.check("no_loss", unit.signal("looked_up") <= AHEAD)
    bench.check("no_loss", ~asks | wanted.i.ready)
    bench.check("no_loss", ~answer.valid | wanted.o.valid)
    bench.check("no_loss", ~runs.i.valid | runs.i.ready)

    # What comes of an answer: a run where it says, of no token that is not committed.
    asker = wanted.o.payload

    def then(value: Any) -> Any:
        for _ in range(CONFIG.multiplier_latency + 1):
            value = bench.past(value)
        return value

    run, came = runs.i.payload, then(answer.valid)
    good = runs.i.valid & (Value.cast(run.task.status) == Status.OK.value)
    size = (geometry.head_dim << 5) + 64
    bench.assume(bench.start | (geometry.as_value() == bench.past(geometry.as_value())))
    bench.check("committed", runs.i.valid == came)
    bench.check("committed", ~good | (then(Value.cast(answer.status)) == Status.OK.value))
    bench.check("committed", ~good | (run.task.high <= then(answer.tokens)))
    bench.check("committed", ~good | (run.task.high <= then(asker.high)) & (run.task.low == then(asker.low)))
    product = bench.past(bench.past(answer.block) * geometry.block_bytes + bench.past(asker.record) * size)
    address = (geometry.base + product)[: CONFIG.address_bits]
    bench.check("address", ~good | (run.address == address))
    bench.cover("short_record", good & (run.task.high < then(asker.high)))


def mover_completes(bench: Bench) -> None:
    """One move of a small block, in any state between moves, with a memory that never waits."""
    unit = bench.open(BlockMover(CONFIG))
    bench.free_inputs(unit, but=["reads.request.ready", "reads.data.valid", "writes", "moves.command.valid"])
    m = bench.m
    word, geometry = unit.writes.request, unit.geometry
    acknowledged = bench.past(word.valid)
    m.d.comb += [
        word.ready.eq(1),
        unit.writes.pending.eq(acknowledged),
        unit.reads.request.ready.eq(1),
        unit.reads.data.valid.eq(1),
        unit.moves.command.valid.eq(bench.start),
    ]
    bench.assume(unit.ongoing("IDLE"), at_start=True)
    for condition in _between_moves(unit):
        bench.assume(condition, at_start=True)
    bench.assume(
        (geometry.block_bytes[:6] == 0) & (geometry.block_bytes != 0) & (geometry.block_bytes <= 192)
    )
    bench.assume(((geometry.head_dim == 2) | (geometry.head_dim == 4)) & (geometry.records == 1))
    cycle, answered = Signal(7), Signal()
    with m.If(~cycle.all()):
        m.d.sync += cycle.eq(cycle + 1)
    with m.If(unit.moves.response.valid):
        m.d.sync += answered.eq(1)
    bench.check("completes", (cycle <= MOVE_LIMIT) | answered)
    bench.cover("copied", answered & (cycle >= 48))


def _between_moves(unit: Unit) -> tuple[Value, ...]:
    """Nothing is left of a mover's last move; :func:`mover` proves it of all states in which it is idle."""
    tasks, records = unit["tasks"], unit["mask"]
    return (
        *buffer_conditions(tasks),
        (tasks.level == 0) & ~records.records.valid,
        Value.cast(records.signal("here")) == 0,
        unit.signal("term") == 0,
    )


def appender(bench: Bench, case: str) -> None:
    """What is sent to memory for codes or a scale, of heads with ``case`` dimensions, in any state."""
    head_dim = int(case)
    unit = bench.open(Appender(CONFIG))
    bench.free_inputs(unit, but=["geometry.head_dim"])
    geometry, pieces = unit.geometry, unit["pieces"].component.i
    bench.assume(bench.start | (geometry.as_value() == bench.past(geometry.as_value())))
    bench.assume(geometry.head_dim == head_dim)
    bench.assume(unit.codes.payload.column % CONFIG.lanes == 0)
    selected, taken = unit.signal("selected"), unit.signal("taken")
    scale = bench.let(unit.scales.valid & unit.scales.ready, "scale")
    kind = Mux(scale, Value.cast(unit.scales.payload.kind), Value.cast(unit.codes.payload.kind))
    column = unit.codes.payload.column
    number = unit.signal("record") + Mux(scale, unit.scales.payload.head, unit.codes.payload.head)
    bench.assume(number < 4)
    entry = PlaceEntry(CONFIG)(Array(Value.cast(cell) for cell in unit["places.entries"].cells)[selected.row])

    def then(value: Any) -> Any:
        for _ in range(CONFIG.multiplier_latency + 2):
            value = bench.past(value)
        return value

    came = then(Const(1))
    bench.check("mapped", ~(came & pieces.valid) | (then(taken) & then(entry.mapped)))
    sent = bench.let(came & pieces.valid, "sent")
    size = 32 * head_dim + 64
    start = then((entry.address + number * size)[: CONFIG.address_bits])
    offset = bench.let((pieces.payload.address - start)[: CONFIG.address_bits], "offset")
    record, slot = layout(head_dim), then(entry.slot)
    for byte in range(CONFIG.lanes):
        used = sent & (byte < (1 << pieces.payload.size))
        at = bench.let(offset + byte, f"at_{byte}")
        bench.check("slot", ~used | (at < len(record)))
        bench.check("slot", ~used | (Array(place["token"] for place in record)[at] == slot))
        run = Array(place["run"] for place in record)[at]
        right = then(Cat((kind == HeadKind.V.value), ~scale))
        bench.check("place", ~used | (run == right))
        # The dimension: chunks before, and the place in the token's bytes.
        wide = Array(_dimension(place, head_dim) for place in record)[at]
        bench.check("place", ~used | then(scale) | (wide == then(column + byte)))


def _dimension(place: dict[str, int], head_dim: int) -> int:
    """Which dimension of a head a code is."""
    width = min(N, head_dim - N * place["chunk"])
    return N * place["chunk"] + place["offset"] % width


def places(bench: Bench) -> None:
    """What is kept of a look-up, in any state; look-ups are answered in time, with anything."""
    unit = bench.open(Places(CONFIG))
    bench.free_inputs(unit)
    geometry, answer, entries = unit.geometry, unit.translate.response, unit["entries"].component
    bench.assume(bench.start | (geometry.as_value() == bench.past(geometry.as_value())))
    asker = unit["wanted"].o

    def then(value: Any) -> Any:
        for _ in range(CONFIG.multiplier_latency):
            value = bench.past(value)
        return value

    came, data = then(Const(1)), entries.w_data
    kept = bench.let(came & entries.w_en.any(), "kept")
    bench.check("mapped", ~kept | (then(answer.valid & asker.valid)))
    bench.check("mapped", ~kept | (data.mapped == (then(Value.cast(answer.status)) == Status.OK.value)))
    address = (geometry.base + then(answer.block) * geometry.block_bytes)[: CONFIG.address_bits]
    bench.check("address", ~kept | (data.address == address))
    bench.check("address", ~kept | (data.slot == then(asker.payload.slot)))
    bench.check("address", ~kept | (entries.w_addr == then(asker.payload.row)))
    bench.assume_stable(unit.places)
    sound_buffer(bench, "stable", unit["wanted"])
    bench.stable("stable", unit.translate.request)
