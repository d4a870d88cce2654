# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of ``serrano_sim.kv_bench``: measures on the unit of :mod:`serrano_sim.kv_bench.unit`.

Each test is a part; ``plan.json`` in the run's folder says what it does, and it leaves ``measured.json``.
Every command's response is compared with the golden model's, and at the end all sequences are freed, and the
blocks still held are counted as ``leaked``.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, Timer

from serrano.config import AcceleratorConfig, preset
from serrano.kvcache import GatherCommand, KVCommand, KVGeometry, TranslateRequest
from serrano.layouts import ReadRequest
from serrano_sim.cocotb.axilite import reset
from serrano_sim.golden.block_manager import BlockManager, Kind, Move, Opcode, Stat, Status
from serrano_sim.golden.kvcache import KVCache
from serrano_sim.kv_bench.pages import BASE, LINEAR, Pages
from serrano_sim.kv_bench.unit import MEMORY
from serrano_sim.memory.handle import AxiMemory

PATIENCE = 20_000
"""Cycles after which a response is given up."""

CYCLE_NS = 2


class NotThere(Exception):
    """The controller does not know the command."""


class Unit:
    """The design with its golden model."""

    def __init__(self, dut: Any, config: AcceleratorConfig):
        self.dut, self.config, self.clk = dut, config, dut.clk
        self.golden = BlockManager(
            config.blocks_max, config.blocks_max, config.sequences_max, config.table_entries
        )
        self.commands = 0

    async def start(self, blocks: int, records: int = 1, mover: Callable[[Move], bool] | None = None) -> None:
        """Reset, and a pool of so many blocks of so many records."""
        dut = self.dut
        for name in ("host__commands__valid", "gather__valid", "linear__valid", "lookup__request__valid"):
            getattr(dut, name).value = 0
        dut.host__responses__ready.value = 1
        dut.initialize.value = 0
        dut.blocks.value = blocks
        dut.geometry.value = 0
        dut.buffer.value = 0
        await reset(dut)
        while int(dut.initializing.value):
            await FallingEdge(self.clk)
        self.golden = BlockManager(
            blocks,
            self.config.blocks_max,
            self.config.sequences_max,
            self.config.table_entries,
            records=records,
            mover=mover,
        )

    async def raw(self, opcode: int, seq: int, tenant: int, arg0: int, arg1: int) -> tuple[int, int, int]:
        """Status, aux, and cycles from the one in which the command is taken to that of the response."""
        dut, clk = self.dut, self.clk
        tag = self.commands % 256
        self.commands += 1
        values = dict(tag=tag, opcode=opcode, seq=seq, tenant=tenant, arg0=arg0, arg1=arg1)
        dut.host__commands__payload.value = pack(KVCommand, values)
        dut.host__commands__valid.value = 1
        while not int(dut.host__commands__ready.value):
            await FallingEdge(clk)
        await FallingEdge(clk)
        dut.host__commands__valid.value = 0
        cycles = 1
        while not int(dut.host__responses__valid.value):
            await FallingEdge(clk)
            cycles += 1
            assert cycles < PATIENCE, f"no response to {Opcode(opcode).name}"
        word = int(dut.host__responses__payload.value)
        await FallingEdge(clk)
        assert word & 0xFF == tag
        return word >> 8 & 0xFF, word >> 16, cycles

    async def execute(self, opcode: Opcode, seq: int, arg0: int = 0, arg1: int = 0, tenant: int = 0) -> int:
        """Executes a command that must succeed, as the golden model does; returns its cycles."""
        status, aux, cycles = await self.raw(opcode, seq, tenant, arg0, arg1)
        if status == Status.BAD_CMD:
            raise NotThere(opcode.name)
        wanted = self.golden.execute(opcode, seq, tenant, arg0, arg1)
        command = f"{opcode.name}({seq}, {arg0}, {arg1})"
        assert (status, aux) == wanted, f"{command} gave {Status(status).name} {aux}, not {wanted}"
        assert status == Status.OK, f"{command} was refused: {Status(status).name}"
        return cycles

    async def stat(self, kind: Stat, seq: int = 0, index: int = 0) -> int:
        """A statistic, which is also the golden model's."""
        status, aux, _ = await self.raw(Opcode.STAT, seq, 0, kind, index)
        assert (status, aux) == self.golden.execute(Opcode.STAT, seq, 0, kind, index), (kind, seq, index)
        return aux

    async def fill(self, seq: int, tokens: int) -> None:
        """Opens a sequence of so many committed tokens."""
        await self.execute(Opcode.OPEN, seq)
        if tokens:
            await self.execute(Opcode.APPEND, seq, tokens)
            await self.execute(Opcode.COMMIT, seq, tokens)

    async def leaked(self) -> int:
        """Frees all sequences; blocks that are held nevertheless, or missing in the free list."""
        for seq, sequence in list(self.golden.sequences.items()):
            await self.execute(Opcode.FREE, seq, tenant=sequence.tenant)
        blocks, used = await self.stat(Stat.POOL_BLOCKS), await self.stat(Stat.POOL_USED)
        listed, number = 0, (await self.stat(Stat.POOL_ENDS)) & 0xFFFF
        while number and listed < blocks:
            listed += 1
            number = (await self.stat(Stat.BLOCK_LINKS, index=number)) & 0xFFFF
        return max(used, blocks - 1 - listed)


def pack(layout: Any, values: dict[str, int]) -> int:
    """A payload as a number."""
    return layout.const(values).as_bits()


def geometry_of(pages: Pages, config: AcceleratorConfig) -> int:
    """Where pages lie, and what they look like."""
    names = ("block_bytes", "head_dim", "records")
    values = {name: getattr(pages, name) for name in names}
    return pack(KVGeometry(config), {"base": BASE, **values})


def read_plan() -> dict[str, Any]:
    return json.loads(Path("plan.json").read_text())


def leave(measured: dict[str, Any]) -> None:
    Path("measured.json").write_text(json.dumps(measured))


# Gather


async def scatter(unit: Unit, rng: random.Random, rounds: int) -> None:
    """Brings the free list out of order, by sequences that grow block by block in turn and go."""
    for _ in range(rounds):
        seqs = [seq for seq in range(unit.config.sequences_max) if seq not in unit.golden.sequences]
        entries = dict.fromkeys(seqs, 0)
        for seq in seqs:
            await unit.execute(Opcode.OPEN, seq)
        while unit.golden.free:
            seq = rng.choice([seq for seq in seqs if entries[seq] < unit.config.table_entries])
            entries[seq] += 1
            await unit.execute(Opcode.ALLOC, seq, 16 * entries[seq])
        for seq in rng.sample(seqs, len(seqs)):
            await unit.execute(Opcode.FREE, seq)


async def gather_all(unit: Unit, memory: AxiMemory, commands: list[dict[str, int]]) -> list[int]:
    """Gives commands as fast as they are taken; the cycles between which all happened."""
    dut, clk = unit.dut, unit.clk
    begin, ended = memory.cycles, int(dut.ended.value)
    for command in commands:
        dut.gather__payload.value = pack(GatherCommand(unit.config), command)
        dut.gather__valid.value = 1
        while not int(dut.gather__ready.value):
            await FallingEdge(clk)
        await FallingEdge(clk)
    dut.gather__valid.value = 0
    while (int(dut.ended.value) - ended) % 65536 < len(commands):
        await Timer(400 * CYCLE_NS, "ns")
    await FallingEdge(clk)
    return [begin, memory.cycles]


async def read_linear(unit: Unit, memory: AxiMemory, size: int) -> list[int]:
    dut, clk = unit.dut, unit.clk
    begin, ended = memory.cycles, int(dut.linear_ended.value)
    dut.linear__payload.value = pack(ReadRequest(unit.config), {"address": LINEAR, "bytes": size})
    dut.linear__valid.value = 1
    while not int(dut.linear__ready.value):
        await FallingEdge(clk)
    await FallingEdge(clk)
    dut.linear__valid.value = 0
    while int(dut.linear_ended.value) == ended:
        await Timer(400 * CYCLE_NS, "ns")
    await FallingEdge(clk)
    return [begin, memory.cycles]


class Traffic:
    """Commands for other sequences, one after the other, until it is stopped."""

    def __init__(self, unit: Unit):
        self._unit, self._on, self._count = unit, True, 0
        self._task = cocotb.start_soon(self._run())

    async def _run(self) -> None:
        unit, length = self._unit, 500
        while self._on:
            before = unit.commands
            await unit.fill(2, length)
            await unit.execute(Opcode.TRANSLATE, 2, length - 1)
            await unit.execute(Opcode.TRIM, 2, 1)
            await unit.execute(Opcode.FREE, 2)
            self._count += unit.commands - before

    async def stop(self) -> int:
        """Commands that were executed, the last ones to their end."""
        self._on = False
        await self._task
        return self._count


async def gather_row(unit: Unit, memory: AxiMemory, row: dict[str, Any], tables: Sequence[list[int]]) -> dict:
    """One line of the table: the same records through both tables, and as many bytes in one run."""
    pages = Pages(**row["pages"])
    image = pages.image()
    memory.write(BASE, image)
    run = pages.gathered(image, tables[0], row["records"][0])
    memory.write(LINEAR, run)
    unit.dut.geometry.value = geometry_of(pages, unit.config)
    windows: dict[str, Any] = {"meanwhile": 0}
    for name in ("contiguous", "paged", "linear"):
        memory.configure(read_latency=row["latency"], stall=row["stall"], seed=row["seed"], dram=row["dram"])
        await Timer(10 * CYCLE_NS, "ns")
        await FallingEdge(unit.clk)
        if name == "linear":
            windows[name] = await read_linear(unit, memory, len(run))
        else:
            commands = [
                {"seq": int(name == "paged"), "record": record, "first": 0, "count": row["tokens"]}
                for record in row["records"]
            ]
            traffic = Traffic(unit) if row["traffic"] else None
            windows[name] = await gather_all(unit, memory, commands)
            if traffic:
                windows["meanwhile"] += await traffic.stop()
    return windows


@cocotb.test()
async def gather(dut: Any) -> None:
    """Sequence 0 in neighbouring blocks, sequence 1 in scattered ones, both full."""
    plan = read_plan()
    unit = Unit(dut, preset(plan["preset"]))
    memory = AxiMemory(MEMORY, size=plan["memory_bytes"])
    await unit.start(plan["blocks"])
    await unit.fill(0, plan["tokens"])
    await scatter(unit, random.Random(f"scatter {plan['seed']}"), plan["rounds"])
    await unit.fill(1, plan["tokens"])
    entries = plan["tokens"] // 16
    tables = [
        [await unit.stat(Stat.SEQUENCE_ENTRY, seq, index) for index in range(entries)] for seq in (0, 1)
    ]
    rows = [await gather_row(unit, memory, row, tables) for row in plan["rows"]]
    leave({"tables": tables, "rows": rows, "commands": unit.commands, "leaked": await unit.leaked()})


# Look-ups


@cocotb.test()
async def translate(dut: Any) -> None:
    """Look-ups one after the other without a pause, in scattered tables."""
    plan = read_plan()
    unit = Unit(dut, preset(plan["preset"]))
    memory = AxiMemory(MEMORY, size=plan["memory_bytes"])
    await unit.start(plan["blocks"])
    rng = random.Random(f"translate {plan['seed']}")
    await scatter(unit, rng, plan["rounds"])
    seqs = range(plan["sequences"])
    for seq in seqs:
        await unit.fill(seq, rng.randrange(1, 16 * plan["blocks"] // len(seqs)))
    tables = {seq: unit.golden.sequences[seq].table for seq in seqs}
    asked = [(seq, rng.randrange(len(tables[seq]))) for seq in rng.choices(seqs, k=plan["lookups"])]
    begin = memory.cycles
    waits = 0
    for seq, index in asked:
        request = {"seq": seq, "index": index}
        dut.lookup__request__payload.value = pack(TranslateRequest(unit.config), request)
        dut.lookup__request__valid.value = 1
        while not int(dut.lookup__request__ready.value):
            waits += 1
            await FallingEdge(unit.clk)
        await FallingEdge(unit.clk)
    dut.lookup__request__valid.value = 0
    for _ in range(20):
        await FallingEdge(unit.clk)
    command = [await unit.execute(Opcode.TRANSLATE, seq, 16 * index) for seq, index in asked[:200]]
    leave(
        {
            "window": [begin, memory.cycles],
            "waits": waits,
            "blocks": [tables[seq][index] for seq, index in asked],
            "command": command,
            "commands": unit.commands,
            "leaked": await unit.leaked(),
        }
    )


# Commands


class Times:
    """Cycles by command and number of blocks, the largest where there are several."""

    def __init__(self):
        self.found: dict[str, dict[int, int]] = {}
        self.absent: set[str] = set()

    def note(self, name: str, blocks: int, cycles: int) -> None:
        by_blocks = self.found.setdefault(name, {})
        by_blocks[blocks] = max(cycles, by_blocks.get(blocks, 0))


async def time_allocation(unit: Unit, times: Times, most: int) -> None:
    for count in range(1, most + 1):
        times.note("open", 0, await unit.execute(Opcode.OPEN, 0))
        times.note("alloc", count, await unit.execute(Opcode.ALLOC, 0, 16 * count))
        times.note("alloc", 0, await unit.execute(Opcode.ALLOC, 0, 16 * count - 5))
        times.note("free", count, await unit.execute(Opcode.FREE, 0))
        await unit.execute(Opcode.OPEN, 0)
        times.note("free", 0, await unit.execute(Opcode.FREE, 0))


async def time_steps(unit: Unit, times: Times, tokens: int) -> None:
    """APPEND and COMMIT of up to so many tokens at every place in a block, with and without a block ready."""
    for ready in (0, 64):
        for place in range(16):
            for count in range(1, tokens + 1):
                await unit.fill(0, place)
                if ready:
                    await unit.execute(Opcode.ALLOC, 0, ready)
                first, last = -(-place // 16), -(-(place + count) // 16)
                taken = 0 if ready else last - first
                times.note("append", taken, await unit.execute(Opcode.APPEND, 0, count))
                # A reservation on top of another one.
                if count % 4 == 0:
                    times.note("abort", 0, await unit.execute(Opcode.ABORT, 0))
                    await unit.execute(Opcode.APPEND, 0, count - 3)
                    await unit.execute(Opcode.APPEND, 0, 3)
                touched = last - place // 16
                times.note("commit", touched, await unit.execute(Opcode.COMMIT, 0, count))
                times.note("translate_command", 0, await unit.execute(Opcode.TRANSLATE, 0, place))
                await unit.execute(Opcode.FREE, 0)


async def time_long_steps(unit: Unit, times: Times, most: int) -> None:
    for count in range(1, most + 1):
        await unit.execute(Opcode.OPEN, 0)
        times.note("append_long", count, await unit.execute(Opcode.APPEND, 0, 16 * count))
        times.note("commit_long", count, await unit.execute(Opcode.COMMIT, 0, 16 * count))
        await unit.execute(Opcode.FREE, 0)


async def time_sharing(unit: Unit, times: Times, most: int) -> None:
    """SEAL of each block; SHARE of held ones, and of free ones from anywhere in the free list."""
    rng = random.Random("sharing")
    for held in (True, False):
        await unit.fill(0, 16 * most)
        sealed = []
        for index in range(most):
            times.note("seal", 0, await unit.execute(Opcode.SEAL, 0, index))
            number = unit.golden.sequences[0].table[index]
            sealed.append((number, unit.golden.states[number].generation))
        if not held:
            await unit.execute(Opcode.FREE, 0)
        await unit.execute(Opcode.OPEN, 1)
        for number, generation in rng.sample(sealed, most):
            times.note("share", 0, await unit.execute(Opcode.SHARE, 1, number, generation))
        await unit.execute(Opcode.FREE, 1)
        if held:
            await unit.execute(Opcode.FREE, 0)
        # The list's ends as well.
        for number, generation in (sealed[-1], sealed[0]):
            await unit.execute(Opcode.OPEN, 1)
            times.note("share", 0, await unit.execute(Opcode.SHARE, 1, number, generation))
            await unit.execute(Opcode.FREE, 1)
        number, _ = sealed[3]
        times.note("evict", 0, await unit.execute(Opcode.EVICT, 0, number))


async def time_shared_prefixes(unit: Unit, times: Times, most: int) -> None:
    """FORK, TRIM, SLIDE and FREE of blocks that are shared, and of others."""
    for count in range(1, most + 1):
        tokens = 16 * count
        for tail in (0, 7):
            await unit.fill(0, tokens - tail)
            await unit.execute(Opcode.OPEN, 1)
            times.note("fork", count, await unit.execute(Opcode.FORK, 0, 1))
            times.note("free", count, await unit.execute(Opcode.FREE, 1))
            await unit.execute(Opcode.OPEN, 1)
            await unit.execute(Opcode.FORK, 0, 1)
            # What is shared stays; what is not becomes free.
            times.note("trim", count, await unit.execute(Opcode.TRIM, 1, 0))
            times.note("trim", 0, await unit.execute(Opcode.TRIM, 0, tokens - tail))
            await unit.execute(Opcode.TRIM, 0, tokens - tail - 1)
            times.note("trim", count, await unit.execute(Opcode.TRIM, 0, 0))
            await unit.execute(Opcode.FREE, 0)
            await unit.execute(Opcode.FREE, 1)
        await unit.fill(0, tokens + 5)
        await unit.execute(Opcode.OPEN, 1)
        await unit.execute(Opcode.FORK, 0, 1)
        for seq in (0, 1):
            times.note("slide", 0, await unit.execute(Opcode.SLIDE, seq, 15))
            times.note("slide", count, await unit.execute(Opcode.SLIDE, seq, tokens + 3))
            times.note("trim", 1, await unit.execute(Opcode.TRIM, seq, tokens))
            await unit.execute(Opcode.FREE, seq)


async def time_replacement(unit: Unit, times: Times, most: int) -> None:
    """APPEND into blocks that are shared, all of them without a token yet: replaced, nothing copied."""
    for count in range(1, most + 1):
        await unit.execute(Opcode.OPEN, 0)
        await unit.execute(Opcode.ALLOC, 0, 16 * count)
        await unit.execute(Opcode.OPEN, 1)
        await unit.execute(Opcode.FORK, 0, 1)
        times.note("append_replacing_long", count, await unit.execute(Opcode.APPEND, 1, 16 * count))
        for seq in (0, 1):
            await unit.execute(Opcode.FREE, seq)
    # Up to 16 tokens: into a shared block from its start, and out of an own one into a shared one.
    for count in range(1, 17):
        await unit.execute(Opcode.OPEN, 0)
        await unit.execute(Opcode.ALLOC, 0, 32)
        await unit.execute(Opcode.OPEN, 1)
        await unit.execute(Opcode.FORK, 0, 1)
        times.note("append_replacing", 1, await unit.execute(Opcode.APPEND, 1, count))
        if count < 16:
            place = 16 - count
            await unit.execute(Opcode.APPEND, 0, place)
            times.note("append_replacing", 1, await unit.execute(Opcode.APPEND, 0, count + 1))
        for seq in (0, 1):
            await unit.execute(Opcode.FREE, seq)


async def time_rest(unit: Unit, times: Times, most: int) -> None:
    for _ in range(2):
        times.note("stat", 0, (await unit.raw(Opcode.STAT, 0, 0, Stat.POOL_PEAK, 0))[2])
    times.note("refused", 0, (await unit.raw(Opcode.ALLOC, 5, 0, 16, 0))[2])
    times.note("refused", 0, (await unit.raw(255, 5, 0, 16, 0))[2])
    times.note("reset_pool", unit.golden.blocks - 1, await unit.execute(Opcode.RESET_POOL, 0))


@cocotb.test()
async def commands(dut: Any) -> None:
    """Cycles of every command that needs no memory."""
    plan = read_plan()
    unit = Unit(dut, preset(plan["preset"]))
    AxiMemory(MEMORY, size=plan["memory_bytes"])
    await unit.start(plan["blocks"])
    times = Times()
    parts = (
        (time_allocation, plan["most"]),
        (time_steps, plan["tokens"]),
        (time_long_steps, plan["most"]),
        (time_sharing, plan["most"]),
        (time_shared_prefixes, plan["most"]),
        (time_replacement, plan["most"]),
        (time_rest, plan["most"]),
    )
    for part, most in parts:
        try:
            await part(unit, times, most)
        except NotThere as name:
            times.absent.add(str(name))
            for seq in list(unit.golden.sequences):
                await unit.execute(Opcode.FREE, seq)
    leave(
        {
            "times": times.found,
            "absent": sorted(times.absent),
            "commands": unit.commands,
            "leaked": await unit.leaked(),
        }
    )


# Waste


@cocotb.test()
async def waste(dut: Any) -> None:
    """Blocks held after ALLOC of each length, as many sequences at a time as there are."""
    plan = read_plan()
    config = preset(plan["preset"])
    unit = Unit(dut, config)
    AxiMemory(MEMORY, size=plan["memory_bytes"])
    await unit.start(plan["blocks"])
    rng = random.Random("waste")
    held: list[list[int]] = []
    for lengths in plan["lengths"]:
        blocks = []
        for start in range(0, len(lengths), config.sequences_max):
            before = await unit.stat(Stat.POOL_USED)
            group = lengths[start : start + config.sequences_max]
            for seq, tokens in enumerate(group):
                await unit.execute(Opcode.OPEN, seq)
                await unit.execute(Opcode.ALLOC, seq, tokens)
                used = await unit.stat(Stat.POOL_USED)
                blocks.append(used - before)
                before = used
            for seq in rng.sample(range(len(group)), len(group)):
                await unit.execute(Opcode.FREE, seq)
        held.append(blocks)
    leave({"held": held, "commands": unit.commands, "leaked": await unit.leaked()})


# Moves


class Mirror:
    """Golden bytes of all blocks and of the host's buffer, which moves change."""

    def __init__(self, pages: Pages, n: int):
        self.cache = KVCache(1, pages.records, pages.head_dim, n, blocks=pages.blocks)
        self.cache.image[:] = pages.image()
        self.buffer = np.zeros((pages.blocks, pages.record_bytes), dtype=np.uint8)

    def move(self, move: Move) -> bool:
        cache = self.cache
        if move.kind is Kind.COPY:
            cache.copy(move.source, move.destination, move.high, move.low)
        elif move.kind is Kind.SCRUB:
            cache.scrub(move.destination)
        else:
            self.buffer[move.index] = cache.record(move.source, move.record, move.low, move.high)
        return True

    def differing(self, memory: AxiMemory) -> int:
        """Bytes of blocks and buffer that are not golden."""
        pairs = ((BASE, self.cache.image), (LINEAR, self.buffer))
        return sum(
            int(np.count_nonzero(memory.array(address, np.uint8, golden.shape) != golden))
            for address, golden in pairs
        )


async def move_copies(unit: Unit, check: Callable[[str, int, int], None], tokens: int) -> None:
    """APPEND behind so many tokens in a shared block, and in a sealed one."""
    await unit.fill(0, 32 + tokens)
    await unit.execute(Opcode.OPEN, 1)
    await unit.execute(Opcode.FORK, 0, 1)
    check("append_copy", tokens, await unit.execute(Opcode.APPEND, 1, 1))
    await unit.execute(Opcode.FREE, 1)
    await unit.execute(Opcode.FREE, 0)
    await unit.fill(0, 48)
    await unit.execute(Opcode.SEAL, 0, 2)
    await unit.execute(Opcode.TRIM, 0, 32 + tokens)
    check("append_copy", tokens, await unit.execute(Opcode.APPEND, 0, 16))
    await unit.execute(Opcode.FREE, 0)


@cocotb.test()
async def moves(dut: Any) -> None:
    """Copies on write, scrubbing and GATHER by command, with every byte of the pool compared after each."""
    plan = read_plan()
    config, pages = preset(plan["preset"]), Pages(**plan["pages"])
    unit, mirror = Unit(dut, config), Mirror(pages, preset(plan["preset"]).n)
    memory = AxiMemory(MEMORY, size=plan["memory_bytes"])
    await unit.start(pages.blocks, pages.records, mirror.move)
    memory.configure(read_latency=plan["latency"], write_latency=plan["latency"])
    memory.write(BASE, mirror.cache.image)
    dut.geometry.value = geometry_of(pages, config)
    dut.buffer.value = LINEAR
    found = []
    for writes in plan["writes"]:
        memory.configure(max_writes=writes)

        def check(name: str, size: int, cycles: int, writes: int = writes) -> None:
            move = {"name": name, "size": size, "writes": writes, "cycles": cycles}
            found.append({**move, "differing": mirror.differing(memory)})

        for tokens in plan["tokens"]:
            await move_copies(unit, check, tokens)
        for number in plan["scrubbed"]:
            check("scrub", 0, await unit.execute(Opcode.SCRUB, 0, number))
        await unit.fill(0, 2 * 16 * max(plan["gathered"]))
        for blocks in plan["gathered"]:
            arguments = (16, 16 * blocks | (pages.records - 1) << 16)
            check("gather", blocks, await unit.execute(Opcode.GATHER, 0, *arguments))
        await unit.execute(Opcode.FREE, 0)
        # New bytes for the next round.
        mirror.cache.image[:] = pages.image()
        memory.write(BASE, mirror.cache.image)
    leave({"moves": found, "commands": unit.commands, "leaked": await unit.leaked()})
