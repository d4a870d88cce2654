# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the KV controller's Verilog: random commands on both ports against the golden model.

:mod:`serrano_sim.kv_random` builds it. ``PLAN`` in the environment is a JSON object: ``variant`` (its name),
``seed``, ``commands``. What was seen goes into ``outcome.json`` in the run's folder.

The run is a row of episodes, each from a reset, with a pool, requesters and a mover of its own. After each
command the whole state is compared: tables, counts, flags, generations, the free list both ways, and the
copies that look-ups use, all of them read through one wide signal; now and then also through STAT and the
look-up ports.
"""

import dataclasses
import json
import os
import random
import traceback
from collections import Counter, deque
from typing import Any

import cocotb
from amaranth.lib import data
from cocotb.triggers import FallingEdge

from serrano.kvcache import Controller, TranslateRequest, Translation
from serrano.kvcache.payloads import MoveCommand, MoveKind
from serrano_sim.golden.block_manager import BLOCK_SIZE, BlockManager, Kind, Move, Opcode, Stat, Status
from serrano_sim.kv_commands import (
    BUSY,
    CLOSING,
    Command,
    View,
    check_invariants,
    check_view,
    manager,
    random_command,
    snapshot,
    view_of,
)
from serrano_sim.kv_random import PORTS, SEEN, VARIANTS, Variant, decode

# Fields of a command, lowest bits first.
COMMAND = (("tag", 8), ("opcode", 8), ("seq", 16), ("tenant", 8), ("arg0", 32), ("arg1", 32))
NAMES = {int(opcode): opcode.name for opcode in Opcode}
# Commands that a step's lock does not hold up.
UNLOCKED = (Opcode.TRANSLATE, Opcode.STAT, Opcode.EVICT, Opcode.SCRUB, Opcode.RESET_POOL)
KINDS = {MoveKind.COPY.value: Kind.COPY, MoveKind.ZERO.value: Kind.SCRUB, MoveKind.GATHER.value: Kind.GATHER}
SPOKEN_OF = {
    Kind.COPY: ("source", "destination", "low", "high"),
    Kind.SCRUB: ("destination",),
    Kind.GATHER: ("source", "record", "low", "high", "index"),
}
PATIENCE = 4000
"""Cycles without an answer after which the controller counts as stuck."""


class Mismatch(Exception):
    """The controller did something else than the golden model."""


def pack(values: tuple[int, ...]) -> int:
    """A command's word: tag, opcode, seq, tenant, arg0, arg1."""
    word, place = 0, 0
    for value, (_, bits) in zip(values, COMMAND, strict=True):
        word |= value << place
        place += bits
    return word


def describe(command: Command) -> str:
    """A command in words."""
    opcode, seq, tenant, arg0, arg1 = command
    return f"{NAMES.get(opcode, opcode)}(seq {seq}, tenant {tenant}, arg0 {arg0:#x}, arg1 {arg1:#x})"


def answer_text(response: tuple[int, int, int]) -> str:
    """A response in words."""
    tag, status, aux = response
    return f"{tag}, {Status(status).name if status in list(Status) else status}, {aux:#x}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an episode goes: drawn from its seed."""

    commands: int
    blocks: int
    records: int
    together: bool
    """Both requesters at the same time, with up to two commands each."""
    gap: float
    """How likely a requester waits a cycle with its next command."""
    stall: float
    """How likely it waits a cycle before it takes a response."""
    latency: int
    """Longest time for a move."""
    broken: float
    """How many of the moves fail."""
    locks: bool
    """Sequences are locked now and then."""
    traffic: bool
    """Both look-up ports are busy."""

    @classmethod
    def draw(cls, rng: random.Random, variant: Variant, commands: int) -> "Settings":
        most = variant.config.blocks_max
        return cls(
            commands=min(commands, rng.choice((60, 150, 250, 400))),
            blocks=rng.choice((4, 5, 5, 6, 8, 10, most, most))
            if rng.random() < 0.97
            else rng.randrange(1, 4),
            records=rng.choice((1, 2, 3, 6)),
            together=rng.random() < 0.5,
            gap=rng.choice((0.0, 0.0, 0.5, 0.8)),
            stall=rng.choice((0.0, 0.0, 0.5, 0.8)),
            latency=rng.choice((1, 3, 12, 40)),
            broken=rng.choice((0.05, 0.15, 0.3)),
            locks=rng.random() < 0.4,
            traffic=rng.random() < 0.2,
        )


def word(layout: data.StructLayout, **values: int) -> int:
    """A structure's word."""
    return sum(value << layout[name].offset for name, value in values.items())


def fields(layout: data.StructLayout, word: int) -> dict[str, int]:
    """The fields of a structure's word."""
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in layout}


def translation(golden: BlockManager, seq: int, index: int) -> dict[str, int]:
    """What a look-up has to answer."""
    state = golden.sequences.get(seq)
    if state is None:
        return {"valid": 1, "status": int(Status.BAD_SEQ)}
    if index >= len(state.table):
        return {"valid": 1, "status": int(Status.OUT_OF_RANGE)}
    if index < state.first:
        return {"valid": 1, "status": int(Status.NOT_MAPPED)}
    tokens = min(max(state.length - BLOCK_SIZE * index, 0), BLOCK_SIZE)
    return {"valid": 1, "status": int(Status.OK), "block": state.table[index], "tokens": tokens}


class Requester:
    """A port, driven at falling edges: :meth:`step` once per cycle."""

    def __init__(self, dut: Any, name: str, rng: random.Random, settings: Settings):
        self.name = name
        self.rng = rng
        self.settings = settings
        self.command_valid = getattr(dut, f"{name}__commands__valid")
        self.command_payload = getattr(dut, f"{name}__commands__payload")
        self.response_ready = getattr(dut, f"{name}__responses__ready")
        self.response_payload = getattr(dut, f"{name}__responses__payload")
        self.command_valid.value = 0
        self.response_ready.value = 0
        self.tag = rng.randrange(256)
        self.sending = self.accepted = self.shown = self.taking = False
        self.under_way: deque[tuple[int, Command, int]] = deque()
        """Tag, command and cycle of those without a response, and of the one whose response is shown."""
        self.word = 0

    @property
    def depth(self) -> int:
        return len(self.under_way)

    def send(self, command: Command, cycle: int) -> None:
        """Puts a command on the port; only if :attr:`free`."""
        self.tag = (self.tag + 1) % 256
        self.command_payload.value = pack((self.tag, *command))
        self.command_valid.value = 1
        self.sending = True
        self.under_way.append((self.tag, command, cycle))

    @property
    def free(self) -> bool:
        return not self.sending

    def begin(self, valid: int) -> int | None:
        """The first half of a cycle: what the last one brought. Returns the word of a new response."""
        if self.accepted:
            self.accepted = self.sending = False
            self.command_valid.value = 0
        if self.taking:
            self.taking = self.shown = False
            self.response_ready.value = 0
            self.under_way.popleft()
        if not valid:
            if self.shown:
                raise Mismatch(f"{self.name}: a response went away before it was taken")
            return None
        if self.shown:
            if int(self.response_payload.value) != self.word:
                raise Mismatch(f"{self.name}: a response changed before it was taken")
            return None
        self.shown, self.word = True, int(self.response_payload.value)
        return self.word

    def end(self, ready: int) -> None:
        """The second half: what happens at the next rising edge."""
        if self.sending and ready:
            self.accepted = True
        if self.shown and self.rng.random() >= self.settings.stall:
            self.taking = True
            self.response_ready.value = 1


class Mover:
    """The memory's side of the controller's port for moves: takes them, answers later, with errors."""

    def __init__(self, dut: Any, variant: Variant, rng: random.Random, settings: Settings):
        self.rng = rng
        self.settings = settings
        self.layout = MoveCommand(variant.config)
        self.command_ready = dut.moves__command__ready
        self.command_payload = dut.moves__command__payload
        self.response_valid = dut.moves__response__valid
        self.response_payload = dut.moves__response__payload
        self.command_ready.value = 0
        self.response_valid.value = 0
        self.offered: int | None = None
        self.state = "idle"
        self.left = 0
        self.done: deque[tuple[Move, bool]] = deque()
        """Moves and whether they succeeded, since the last response to a command."""

    def step(self, valid: int, response_ready: int) -> None:
        """A cycle: what is driven from the falling edge on."""
        rng = self.rng
        if self.state == "taken":
            self.command_ready.value = 0
            self.state, self.left = "busy", rng.randint(1, self.settings.latency)
        elif self.state == "answered":
            self.response_valid.value = 0
            self.state = "idle"
        if self.state == "idle":
            self.take(valid)
        elif valid:
            raise Mismatch("a move is offered before the answer to the last one")
        if self.state == "busy":
            self.left -= 1
            if not self.left:
                self.response_payload.value = int(not self.done[-1][1])
                self.response_valid.value = 1
                self.state = "answering"
        if self.state == "answering" and response_ready:
            self.state = "answered"

    def take(self, valid: int) -> None:
        if not valid:
            if self.offered is not None:
                raise Mismatch("a move went away before it was taken")
            return
        word = int(self.command_payload.value)
        if self.offered not in (None, word):
            raise Mismatch("a move changed before it was taken")
        self.offered = word
        if self.rng.random() >= self.settings.stall:
            self.command_ready.value = 1
            self.state, self.offered = "taken", None
            got = fields(self.layout, word)
            kind = KINDS[got.pop("kind")]
            # What the kind does not speak of may be anything.
            told = {name: got[name] for name in SPOKEN_OF[kind]}
            self.done.append((Move(kind, **told), self.rng.random() >= self.settings.broken))


class Episode:
    """From a reset to a pool in which nobody holds anything any more."""

    def __init__(self, dut: Any, variant: Variant, rng: random.Random, settings: Settings):
        self.dut = dut
        self.variant = variant
        self.rng = rng
        self.settings = settings
        self.edge = FallingEdge(dut.clk)
        self.golden = manager(
            variant.config, settings.blocks, variant.generation_bits, variant.reference_bits
        )
        self.golden.records = settings.records
        self.seqs = list(range(variant.config.sequences_max))
        self.requesters = [Requester(dut, name, rng, settings) for name in PORTS]
        self.mover = Mover(dut, variant, rng, settings)
        self.cycle = self.number = self.leaked = 0
        self.traffic = False
        """Look-ups that nobody looks at are made all the time."""
        self.look_ups = [
            (
                getattr(dut, f"translate__{port}__request__valid"),
                getattr(dut, f"translate__{port}__request__payload"),
            )
            for port in (0, 1)
        ]
        self.looked_up = [getattr(dut, f"translate__{port}__response") for port in (0, 1)]
        self.locked = [0] * len(self.seqs)
        """Cycle since when a sequence is locked; 0 if it is not."""
        self.unlock = 0
        self.pairs: Counter = Counter()
        self.events: Counter = Counter()
        self.answer: tuple[int, int] = (0, 0)
        self.current = "reset"

    # Cycles.

    async def clock(self) -> None:
        """A cycle: what came is compared, what goes is decided by the requesters and the mover."""
        await self.edge
        self.cycle += 1
        seen = int(self.dut.seen.value)
        bit = {name: seen >> place & 1 for place, name in enumerate(SEEN)}
        for requester in self.requesters:
            word = requester.begin(bit[f"{requester.name}__responses__valid"])
            if word is not None:
                self.finish(requester, word)
        self.mover.step(bit["moves__command__valid"], bit["moves__response__ready"])
        self.change_locks()
        if self.traffic:
            for valid, payload in self.look_ups:
                valid.value = self.rng.getrandbits(1)
                payload.value = self.rng.getrandbits(len(payload))
        self._ready = [bit[f"{requester.name}__commands__ready"] for requester in self.requesters]

    def settle(self) -> None:
        """After what :meth:`clock` brought, and new commands."""
        for requester, ready in zip(self.requesters, self._ready, strict=True):
            requester.end(ready)
            if requester.under_way and not requester.shown:
                _, command, sent = requester.under_way[0]
                if self.cycle - sent > PATIENCE:
                    raise Mismatch(f"{requester.name}: no response to {describe(command)}")

    def change_locks(self) -> None:
        if not self.settings.locks:
            return
        if any(self.locked):
            if self.cycle >= self.unlock:
                self.locked = [0] * len(self.seqs)
                self.dut.locked.value = 0
        elif self.cycle > self.unlock + 20 and self.rng.random() < 0.03:
            mask = self.rng.randrange(1 << len(self.seqs))
            self.locked = [self.cycle if mask >> seq & 1 else 0 for seq in self.seqs]
            self.unlock = self.cycle + self.rng.randrange(1, 80)
            self.dut.locked.value = mask

    # Commands.

    def finish(self, requester: Requester, word: int) -> None:
        """A response appears: the golden model executes the command, and everything is compared."""
        tag, command, sent = requester.under_way[0]
        golden, opcode = self.golden, command[0]
        self.number += 1
        self.current = f"command {self.number}, {describe(command)} of {requester.name}"
        self.check_lock(requester, command, sent)
        made = self.mover.done

        def replay(move: Move) -> bool:
            if not made:
                raise Mismatch(f"{move} was not made")
            got, succeeded = made.popleft()
            if got != move:
                raise Mismatch(f"{got} instead of {move}")
            self.events[f"{move.kind.name} {'done' if succeeded else 'failed'}"] += 1
            return succeeded

        golden.mover = replay
        owners = [block.tenant for block in golden.states]
        tables = {seq: list(state.table) for seq, state in golden.sequences.items()}
        free = set(golden.free)
        status, aux = golden.execute(*command)
        got = (word & 0xFF, word >> 8 & 0xFF, word >> 16)
        if got != (tag, status, aux):
            raise Mismatch(
                f"tag, status, aux: got {answer_text(got)}, expected {answer_text((tag, status, aux))}"
            )
        if made:
            raise Mismatch(f"{made[0][0]} should not have been made")
        wanted = view_of(golden)
        if differences := self.view().differences(wanted):
            raise Mismatch("state: " + "; ".join(differences))
        check_view(wanted)
        self.answer = (status, aux)
        self.pairs[f"{NAMES.get(opcode, 'unknown')} {status.name}"] += 1
        self.count(command, status, owners, tables, free)

    def count(self, command: Command, status: Status, owners: list, tables: dict, free: set) -> None:
        """Notes what is rare and must be seen."""
        if status:
            return
        opcode, seq, _, arg0, _ = command
        golden, events = self.golden, self.events
        taken = free - set(golden.free)
        events["blocks that changed their tenant"] += sum(
            golden.states[number].generation > 1 and golden.states[number].tenant != owners[number]
            for number in taken
        )
        if opcode == Opcode.APPEND:
            before, now = tables[seq], golden.sequences[seq].table
            events["blocks replaced"] += sum(one != other for one, other in zip(before, now, strict=False))
        elif opcode == Opcode.SHARE:
            events["shares of a free block" if arg0 in free else "shares of a held block"] += 1
        elif opcode == Opcode.SEAL:
            events["seals with the highest generation"] += self.answer[1] == golden.generation_max
            events["seals of a shared block"] += (
                golden.states[golden.sequences[seq].table[arg0]].references > 1
            )
        elif opcode == Opcode.FORK:
            events["blocks shared by FORK"] += self.answer[1]

    def check_lock(self, requester: Requester, command: Command, sent: int) -> None:
        opcode, seq, _, arg0, _ = command
        if requester.name != "host" or opcode in UNLOCKED or opcode not in NAMES:
            return
        for named in (seq, arg0) if opcode == Opcode.FORK else (seq,):
            if named < len(self.locked) and 0 < self.locked[named] <= sent:
                raise Mismatch(f"executed while sequence {named} was locked")

    def view(self) -> View:
        """The controller's state."""
        return decode(int(self.dut.state.value), self.variant.config)

    @property
    def quiet(self) -> bool:
        return not any(requester.under_way for requester in self.requesters)

    async def settle_down(self) -> None:
        """Waits for the responses to all commands."""
        while not self.quiet:
            await self.clock()
            self.settle()

    async def ask(self, command: Command, requester: Requester | None = None) -> tuple[int, int]:
        """Status and aux of one command by itself."""
        requester = requester or self.rng.choice(self.requesters)
        await self.clock()
        requester.send(command, self.cycle)
        self.settle()
        await self.settle_down()
        return self.answer

    # What an episode consists of.

    async def reset(self) -> None:
        dut = self.dut
        for handle in (dut.initialize, dut.locked, *(valid for valid, _ in self.look_ups)):
            handle.value = 0
        dut.blocks.value = self.settings.blocks
        dut.records.value = self.settings.records
        dut.rst.value = 1
        for _ in range(3):
            await self.edge
        dut.rst.value = 0
        # Commands may come before the pool is ready.
        if self.rng.random() < 0.5:
            while int(dut.initializing.value):
                await self.edge

    async def run(self) -> None:
        """Raises Mismatch at the first difference."""
        await self.reset()
        rng, settings, weights = self.rng, self.settings, BUSY
        self.traffic = settings.traffic
        sent = 0
        while sent < settings.commands:
            await self.clock()
            for requester in rng.sample(self.requesters, 2):
                room = requester.depth < 2 if settings.together else self.quiet
                if room and requester.free and rng.random() >= settings.gap and sent < settings.commands:
                    requester.send(random_command(rng, self.golden, self.seqs, weights), self.cycle)
                    sent += 1
                    if rng.random() < 0.02:
                        weights = rng.choice((BUSY, BUSY, BUSY, CLOSING))
            self.settle()
            if rng.random() < 0.0004:
                await self.look_closely()
        await self.look_closely()
        await self.close()

    async def look_closely(self) -> None:
        """The state through STAT and the look-up ports; sometimes a new pool afterwards."""
        await self.settle_down()
        kept = self.pairs.copy()
        answers: dict[tuple[int, int, int], tuple[int, int]] = {}
        requester = self.rng.choice(self.requesters)
        for command in snapshot(self.golden):
            _, seq, _, kind, index = command
            key = (kind, seq if kind >= Stat.SEQUENCE_OWNER else 0, index)
            answers[key] = await self.ask(command, requester)
        self.current = "the state as STAT tells it"
        check_invariants(answers, self.golden.limit, self.golden.entries)
        self.pairs = kept
        self.events["states through STAT"] += 1
        await self.look_up()
        if self.rng.random() < 0.3:
            blocks = self.rng.choice((4, 5, 8, self.variant.config.blocks_max))
            self.dut.blocks.value = blocks
            self.dut.initialize.value = 1
            await self.clock()
            self.settle()
            self.dut.initialize.value = 0
            self.golden.initialize(blocks)
            self.events["new pools"] += 1

    async def look_up(self) -> None:
        """Every entry of every table through the look-up ports, one per cycle."""
        config, golden = self.variant.config, self.golden
        request, latency = TranslateRequest(config), Controller.translate_latency
        asked: list[tuple[int, int, int]] = []
        wishes = [(seq, index) for seq in self.seqs for index in range(config.table_entries)]
        self.rng.shuffle(wishes)
        self.traffic = False
        for place in range(len(wishes) + latency):
            await self.clock()
            self.settle()
            if place >= latency:
                port, seq, index = asked[place - latency]
                got = fields(Translation(config), int(self.looked_up[port].value))
                self.current = f"look-up of entry {index} of sequence {seq}"
                wanted = translation(golden, seq, index)
                if {name: got[name] for name in wanted} != wanted:
                    raise Mismatch(f"got {got}, expected {wanted}")
            for valid, _ in self.look_ups:
                valid.value = 0
            if place < len(wishes):
                seq, index = wishes[place]
                port = self.rng.randrange(2)
                asked.append((port, seq, index))
                valid, payload = self.look_ups[port]
                valid.value = 1
                payload.value = word(request, seq=seq, index=index)
        self.traffic = self.settings.traffic

    async def close(self) -> None:
        """Frees everything."""
        await self.settle_down()
        kept = self.pairs.copy()
        for seq, state in list(self.golden.sequences.items()):
            await self.ask((int(Opcode.FREE), seq, state.tenant, 0, 0))
        # A new pool is ready before the next answer.
        await self.ask((int(Opcode.STAT), 0, 0, int(Stat.POOL_USED), 0))
        self.pairs = kept
        self.leaked = self.view().used


async def play(dut: Any, plan: dict[str, Any], most: int = 10) -> dict[str, Any]:
    """Episodes until there were as many commands as the plan says, or so many mismatches.

    Returns
    -------
    dict
        What :func:`serrano_sim.kv_random.run_seed` describes.
    """
    variant, seed, commands = VARIANTS[plan["variant"]], plan["seed"], plan["commands"]
    totals = {"commands": 0, "leaked": 0, "episodes": 0, "cycles": 0}
    pairs: Counter = Counter()
    events: Counter = Counter()
    mismatches: list[str] = []
    planned = 0
    while planned < commands and len(mismatches) < most:
        number = totals["episodes"]
        rng = random.Random(f"{seed} {number}")
        settings = Settings.draw(rng, variant, commands - planned)
        episode = Episode(dut, variant, rng, settings)
        try:
            await episode.run()
        except Mismatch as mismatch:
            mismatches.append(f"seed {seed}, episode {number}, {episode.current}: {mismatch}")
        except AssertionError as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            mismatches.append(f"seed {seed}, episode {number}, {episode.current}: against `{line}`")
        pairs.update(episode.pairs)
        events.update(episode.events)
        planned += settings.commands
        totals["episodes"] += 1
        totals["commands"] += sum(episode.pairs.values())
        totals["cycles"] += episode.cycle
        totals["leaked"] += episode.leaked
    return {**totals, "pairs": pairs, "events": events, "mismatches": mismatches}


def report(outcome: dict[str, Any]) -> None:
    """Writes what was seen where :func:`serrano_sim.kv_random.run_seed` looks for it."""
    with open("outcome.json", "w", encoding="utf-8") as file:
        json.dump(outcome, file)


@cocotb.test()
async def random_commands(dut: Any) -> None:
    report(await play(dut, json.loads(os.environ["PLAN"])))
