# SPDX-License-Identifier: Apache-2.0
"""Proofs about the controller: one whole command, from any state that satisfies the invariants."""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth import *

from serrano.kvcache import Controller, Opcode, Status
from serrano.kvcache.payloads import KVCommand, MoveKind

from .bench import Bench
from .limits import LIMITS
from .reference import Ask, Outcome, State, reference
from .sizes import CONFIG, SIZES

__all__ = ["command", "from_reset", "initialization"]

MOVING = (Opcode.APPEND, Opcode.SCRUB, Opcode.GATHER)
"""Commands that move bytes."""


class Machine:
    """The controller with its state as the invariants and the reference see it."""

    def __init__(self, bench: Bench):
        self.bench = bench
        component = Controller(CONFIG, 2, SIZES.generation_bits, SIZES.reference_bits)
        self.unit = unit = bench.open(component, "controller")
        bench.free_inputs(component)
        self.pool, self.tables, self.requesters = unit["pool"], unit["tables"], unit["requesters"]
        self.states = self.pool["states"].cells
        self.followers = self.pool["followers"].cells
        self.predecessors = self.pool["predecessors"].cells
        self.sequences = self.tables["states"].cells
        self.opened = self.tables.signal("opened")
        self.owners = self.tables["owners"].cells
        entries = self.tables["block_table"].cells
        stride = len(entries) // len(self.sequences)
        self.table = [
            [entries[seq * stride + index] for index in range(SIZES.entries)]
            for seq in range(SIZES.sequences)
        ]
        self.idle = unit.ongoing("IDLE")
        let = bench.let
        self.live = [
            [
                let(self.opened[s] & (index >= state.first) & (index < state.entries), f"live_{s}_{index}")
                for index in range(SIZES.entries)
            ]
            for s, state in enumerate(self.sequences)
        ]
        # The free list, from its head on.
        self.order = [let(self.pool.head, "order_0")]
        for place in range(1, SIZES.blocks - 1):
            before = self.order[-1]
            following = Array(self.followers)[before]
            self.order.append(let(Mux(before == 0, 0, following), f"order_{place}"))
        self.listed = let(sum(number != 0 for number in self.order), "listed")

    def invariants(self) -> dict[str, Value]:
        """Conditions on the state while no command is executed, by the names of their checks."""
        pool, blocks, sequences = self.pool, range(SIZES.blocks), range(SIZES.sequences)
        places = [(s, index) for s in sequences for index in range(SIZES.entries)]
        inside = [(number < pool.size) & (number != 0) for number in blocks]
        found: dict[str, list[Any]] = {}

        # 1: references are table entries.
        for number in blocks:
            named = sum(self.live[s][i] & (self.table[s][i] == number) for s, i in places)
            found.setdefault("references", []).append(self.states[number].references == named)
        # 2: what is not held is on the list once; the list is sound in both directions.
        free_list = found.setdefault("free_list", [])
        free_list += [pool.free + pool.used + 1 == pool.size, self.listed == pool.free]
        for place, number in enumerate(self.order):
            before = self.order[place - 1] if place else Const(0)
            free_list.append((number == 0) | (Array(self.predecessors)[number] == before))
            behind = self.order[place + 1] if place + 1 < len(self.order) else Const(0)
            free_list.append((number == 0) | (behind != 0) | (pool.tail == number))
            if place + 1 == len(self.order):
                free_list.append((number == 0) | (Array(self.followers)[number] == 0))
        free_list.append((pool.head != 0) | (pool.tail == 0))
        for number in blocks:
            times = sum((listed == number) & (listed != 0) for listed in self.order)
            free = inside[number] & (self.states[number].references == 0)
            free_list.append(times == free)
            links = self.followers[number] | self.predecessors[number]
            free_list.append(free | (links == 0))
        # 3: NULL is nobody's, and no live entry is NULL.
        null = found.setdefault("null", [])
        null.append((self.states[0].references == 0) & ~self.states[0].sealed & (self.states[0].written == 0))
        null += [~self.live[s][i] | (self.table[s][i] != 0) for s, i in places]
        null += [~self.live[s][i] | (self.table[s][i] < pool.size) for s, i in places]
        # 4: what is reserved is nobody else's.
        reserved = found.setdefault("reserved_blocks", [])
        for s, i in places:
            state, block = self.sequences[s], Array(self.states)[self.table[s][i]]
            end = state.length + state.reserved
            touched = self.opened[s] & (16 * i < end) & (16 * (i + 1) > state.length) & (state.reserved != 0)
            reserved.append(~touched | (self.live[s][i] & (block.references == 1) & ~block.sealed))
        # 5: blocks of a sequence are its tenant's.
        tenants = found.setdefault("tenants", [])
        for s, i in places:
            block = Array(self.states)[self.table[s][i]]
            tenants.append(~self.live[s][i] | (block.tenant == self.sequences[s].tenant))
        for number in blocks[1:]:
            # What is free and sealed may be shared by its last tenant.
            block = self.states[number]
            idle = (block.references == 0) & ~block.sealed
            tenants.append(idle | (self.owners[number] == block.tenant))
        # 7: what is committed is written.
        written = found.setdefault("written", [])
        for s, i in places:
            state, block = self.sequences[s], Array(self.states)[self.table[s][i]]
            tokens = Mux(state.length > 16 * (i + 1), 16, state.length - 16 * i)
            needed = self.live[s][i] & (state.length > 16 * i)
            written.append(~needed | (block.written >= tokens))
        for number in blocks:
            block = self.states[number]
            written.append(~block.sealed | (block.written == 16))
            written.append(block.written <= 16)
        # What all of this rests on: lengths fit tables, and copies of the state agree.
        sound = found.setdefault("sound", [])
        sound += [pool.size >= 1, pool.size <= SIZES.blocks, pool.peak >= pool.used]
        for s in sequences:
            state = self.sequences[s]
            closed = ~self.opened[s]
            sound.append(closed | (state.length + state.reserved <= 16 * state.entries))
            sound.append(closed | (state.entries <= SIZES.entries))
            sound.append(closed | (16 * state.first <= state.length))
            copy = self.tables["lookup_states"].cells[s]
            sound.append(closed | (Value.cast(copy) == Value.cast(state)))
        # A block that is not sealed is named at most once by a sequence.
        for s in sequences:
            for i in range(SIZES.entries):
                for j in range(i):
                    both = self.live[s][i] & self.live[s][j] & (self.table[s][i] == self.table[s][j])
                    sound.append(~both | Array(self.states)[self.table[s][i]].sealed)
        return {
            name: self.bench.let(Cat(conditions).all(), f"inv_{name}") for name, conditions in found.items()
        }

    def quiet(self) -> Value:
        """Nothing is under way in the pool, and the next release will be counted from 0."""
        at_zero = self.unit.signal("released") == 0
        return at_zero & ~self.pool.done & ~self.pool.initializing & ~self.pool.signal("unlinked")

    def abstract(self, name: str) -> State:
        """The state as the reference sees it."""
        m, state = self.bench.m, State(SIZES, name)
        for number, block in enumerate(self.states):
            for field in ("references", "tenant", "sealed", "written", "generation"):
                m.d.comb += getattr(state, field)[number].eq(getattr(block, field))
        m.d.comb += [signal.eq(value) for signal, value in zip(state.order, self.order, strict=True)]
        pool = self.pool
        # The highest use is noted a cycle after it was reached.
        m.d.comb += [
            state.count.eq(pool.free),
            state.size.eq(pool.size),
            state.peak.eq(Mux(pool.used > pool.peak, pool.used, pool.peak)),
        ]
        for s, its in enumerate(self.sequences):
            with m.If(self.opened[s]):
                m.d.comb += [
                    state.opened[s].eq(1),
                    state.owner[s].eq(its.tenant),
                    *(
                        getattr(state, field)[s].eq(getattr(its, field))
                        for field in ("length", "reserved", "entries", "first")
                    ),
                ]
            for index in range(SIZES.entries):
                m.d.comb += state.table[s][index].eq(Mux(self.live[s][index], self.table[s][index], 0))
        return state


def command(bench: Bench, case: str) -> None:
    """One command, taken in the first cycle in any state that satisfies the invariants, to its end.

    ``case`` is the name of an opcode, or ``UNKNOWN`` for all numbers that are none; behind APPEND and GATHER
    is the number of table entries with a token of the command. Requesters, look-ups, ``locked`` and
    ``initialize`` do in every cycle what they like; moves are taken and answered within two cycles each.
    """
    name, _, entries = case.partition("-")
    opcode = None if name == "UNKNOWN" else Opcode[name]
    machine = Machine(bench)
    m, requesters = bench.m, machine.requesters
    status = Value.cast(requesters.status)
    invariants = machine.invariants()
    bench.assume(machine.idle & requesters.take & machine.quiet(), at_start=True)
    for condition in invariants.values():
        bench.assume(condition, at_start=True)
    asked = Value.cast(requesters.command)
    held = bench.past(asked, when=bench.start)
    given = KVCommand(bench.let(Mux(bench.start, asked, held), "given"))
    if opcode is None:
        bench.assume(~Cat(given.opcode == known.value for known in Opcode).any())
    else:
        bench.assume(given.opcode == opcode.value)

    # The state in the first cycle, kept, and what the command has to make of it.
    now = machine.abstract("now")
    before = State(SIZES, "before")
    parts = now.parts()
    for name, signal in before.parts().items():
        m.d.comb += signal.eq(Mux(bench.start, parts[name], bench.past(parts[name], when=bench.start)))
    records = machine.unit.component.records
    bench.assume(bench.start | (records == bench.past(records)))
    moved, failed, moving = _answer_moves(bench, machine)
    ask = Ask(given.seq, given.tenant, given.arg0, given.arg1, records)
    expected = _expect(bench, now, opcode, ask, failed)
    if entries:
        bench.assume(_entries(now, opcode, ask) == int(entries), at_start=True)

    limit = LIMITS[case]
    cycle = Signal(range(limit + 2))
    ended, settled = Signal(), Signal()
    with m.If(cycle != limit + 1):
        m.d.sync += cycle.eq(cycle + 1)
    responds = bench.let(requesters.respond & ~ended, "responds")
    with m.If(responds):
        m.d.sync += ended.eq(1)
    # The first idle cycle after the response.
    finish = bench.let(ended & ~settled & machine.idle, "finish")
    with m.If(finish):
        m.d.sync += settled.eq(1)
    good = Status.OK.value
    bench.check("status", ~responds | (status == expected.status))
    bench.check("aux", ~responds | (requesters.aux == expected.aux))
    bench.check("one_response", ~(requesters.respond & ended & ~settled) & ~(finish & ~ended))
    bench.check("state", ~finish | now.equals(expected.state))
    # What a failed move has spoilt is no longer what it was: the one exception.
    bus_error = status == Status.BUS_ERROR.value
    unchanged = bench.past((status != good) & ~(bus_error & (moved != 0)), when=responds)
    bench.check("refused", ~(finish & unchanged) | now.equals(before))
    for name, condition in invariants.items():
        bench.check(name, ~finish | condition)
    bench.check("completes", (cycle <= limit) | settled)
    bench.check("completes", ~finish | (machine.quiet() & ~moving))
    _watch(bench, machine, settled)
    moves = machine.unit.component.moves.command
    bench.check("moves", ~(moves.valid & moving))
    bench.stable("moves", moves)
    _watch_moves(bench, machine, opcode, ask, before, expected, moved, responds, settled)
    bench.cover("ok", finish & (bench.past(status, when=responds) == good))


def _entries(state: State, opcode: Opcode, ask: Ask) -> Value:
    """How many entries of the table hold a token of APPEND or GATHER: 0 to all of them."""
    if opcode is Opcode.APPEND:
        begin = Array(state.length)[ask.seq] + Array(state.reserved)[ask.seq]
        end = begin + ask.arg0
    else:
        begin, end = ask.arg0, ask.arg0 + ask.arg1[:16]
    return sum(
        (16 * index < end) & (16 * (index + 1) > begin) & (begin != end) for index in range(SIZES.entries)
    )


def _expect(bench: Bench, now: State, opcode: Opcode | None, ask: Ask, failed: Value) -> Outcome:
    """What the command of the first cycle has to make of the state of that cycle.

    The reference is asked in the first cycle, and what it says is kept: then it is the same for the solver in
    all cycles. As it is not known yet whether a move will fail, it is asked for both.
    """
    m = bench.m
    expected, kept = State(SIZES, "expected"), []
    for fails in (0, 1) if opcode in MOVING else (0,):
        outcome = reference(m, now, opcode, dataclasses.replace(ask, failed=fails))
        values = {"status": outcome.status, "aux": outcome.aux, "copies": outcome.copies}
        values |= outcome.state.parts()
        kept.append({name: bench.past(Value.cast(value), when=bench.start) for name, value in values.items()})

    def chosen(name: str) -> Value:
        return Mux(failed, kept[-1][name], kept[0][name])

    m.d.comb += [signal.eq(chosen(name)) for name, signal in expected.parts().items()]
    status, aux, copies = (
        bench.let(chosen(name), f"expected_{name}") for name in ("status", "aux", "copies")
    )
    return Outcome(status, aux, expected, copies)


def _answer_moves(bench: Bench, machine: Machine) -> tuple[Signal, Value, Signal]:
    """A mover that takes and answers within two cycles: how often it was asked, whether anything failed, and
    whether a move is under way."""
    m, moves = bench.m, machine.unit.component.moves
    command, response = moves.command, moves.response
    moved, failed, moving = Signal(3), Signal(), Signal()
    asks, answers = command.valid & command.ready, response.valid & response.ready
    wrong = answers & response.payload.error
    with m.If(asks):
        m.d.sync += [moved.eq(moved + 1), moving.eq(1)]
    with m.If(answers):
        m.d.sync += moving.eq(0)
    with m.If(wrong):
        m.d.sync += failed.eq(1)
    bench.assume_stable(response)
    bench.assume(~response.valid | moving)
    waits = bench.let(command.valid & ~command.ready, "waits")
    bench.assume(~(waits & bench.past(waits)))
    bench.assume(~moving | response.valid | ~bench.past(moving))
    return moved, failed | wrong, moving


def _watch(bench: Bench, machine: Machine, settled: Signal) -> None:
    """What must hold in every cycle of a command."""
    pool, states = machine.pool, machine.states
    memory = pool["states"].component
    old = Array(states)[memory.w_addr]
    new = memory.w_data
    writes = memory.w_en & ~settled
    grows = new.references == old.references + 1
    shrinks = new.references + 1 == old.references
    bench.check("no_wrap", ~writes | grows | shrinks | (new.references == old.references))
    bench.check("no_wrap", ~writes | (new.generation >= old.generation))
    bench.check("null", ~writes | (memory.w_addr != 0))


def _watch_moves(
    bench: Bench,
    machine: Machine,
    opcode: Opcode | None,
    ask: Ask,
    before: State,
    expected: Outcome,
    moved: Signal,
    responds: Any,
    settled: Signal,
) -> None:
    """Moves are those of the command, and write only what nobody holds."""
    command = machine.unit.component.moves.command
    move = command.payload
    asks = command.valid & ~settled
    to_block = asks & (move.kind != MoveKind.GATHER)
    target = Array(machine.states)[move.destination]
    bench.check("moves", ~to_block | ((target.references == 0) & (move.destination != 0)))
    bench.check("moves", ~to_block | (move.destination < machine.pool.size))
    if opcode not in MOVING:
        bench.check("moves", ~asks)
        return
    table = [Array(column)[ask.seq] for column in zip(*before.table, strict=True)]
    refused = (expected.status != Status.OK.value) & (expected.status != Status.BUS_ERROR.value)
    if opcode is Opcode.SCRUB:
        bench.check("moves", ~asks | ((move.kind == MoveKind.ZERO) & (move.destination == ask.arg0)))
        # Nobody can take the block for sealed while its bytes go.
        bench.check("moves", ~asks | ~target.sealed)
        bench.check("moves", ~responds | (moved == ~refused))
    elif opcode is Opcode.APPEND:
        position = Array(before.length)[ask.seq] + Array(before.reserved)[ask.seq]
        source = Array(table)[position >> 4]
        right = (move.kind == MoveKind.COPY) & (move.destination == before.order[0])
        bench.check("moves", ~asks | right & (move.source == source))
        bench.check("moves", ~asks | (move.low == 0) & (move.high == position[:4]))
        bench.check("moves", ~responds | (moved == (expected.copies & ~refused)))
    else:
        first, end = ask.arg0, ask.arg0 + ask.arg1[:16]
        index = (first >> 4) + move.index
        high = bench.let(end - (index << 4), "high")
        bench.check("moves", ~asks | (move.kind == MoveKind.GATHER) & (move.index == moved))
        bench.check("moves", ~asks | (move.source == Array(table)[index]) & (move.record == ask.arg1[16:]))
        bench.check("moves", ~asks | (move.low == Mux(move.index == 0, first[:4], 0)))
        bench.check("moves", ~asks | (move.high == Mux(high < 16, high, 16)))
        good = expected.status == Status.OK.value
        bench.check("moves", ~responds | ~good | (moved == expected.aux))
        bench.check("moves", ~responds | ~refused | (moved == 0))


def initialization(bench: Bench) -> None:
    """``initialize`` from any state whatever, which is also what follows reset."""
    machine = Machine(bench)
    m, unit = bench.m, machine.unit
    limit = SIZES.blocks + 4
    invariants = machine.invariants()
    wanted = unit.signal("wanted")
    bench.assume(machine.idle & wanted & machine.quiet(), at_start=True)
    cycle, settled = Signal(range(limit + 2)), Signal()
    with m.If(cycle != limit + 1):
        m.d.sync += cycle.eq(cycle + 1)
    finish = bench.let((cycle != 0) & machine.idle & ~settled, "finish")
    with m.If(finish):
        m.d.sync += settled.eq(1)
    blocks = bench.past(unit.component.blocks, when=bench.start)
    limited = Mux(blocks > SIZES.blocks, SIZES.blocks, Mux(blocks == 0, 1, blocks))
    for condition in invariants.values():
        bench.check("invariants", ~finish | condition)
    order = [Mux(place + 1 < limited, place + 1, 0) for place in range(SIZES.blocks - 1)]
    same = Cat(mine == its for mine, its in zip(machine.order, order, strict=True)).all()
    bench.check("fresh", ~finish | ((machine.pool.size == limited) & same & (machine.opened == 0)))
    bench.check("completes", (cycle <= limit) | settled)
    bench.check("completes", ~finish | machine.quiet())


def from_reset(bench: Bench) -> None:
    """Any commands after reset."""
    machine = Machine(bench)
    m, requesters = bench.m, machine.requesters
    _answer_moves(bench, machine)
    at_rest = bench.let(machine.idle & machine.quiet() & (machine.pool.size != 0), "at_rest")
    for condition in machine.invariants().values():
        bench.check("invariants", ~at_rest | condition)
    good = requesters.respond & (Value.cast(requesters.status) == Status.OK.value)
    done = Signal(4)
    m.d.sync += done.eq(done + good)
    bench.cover("three_commands", (done == 3) & (machine.pool.used == 2) & at_rest)
