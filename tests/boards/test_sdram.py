# SPDX-License-Identifier: Apache-2.0
"""The SDRAM controller on a memory that checks every rule of its data sheet."""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from serrano.boards.sdram import SdramController, SdramTiming
from serrano_sim.memory.sdram import Sdram
from support.sdram import CLOCK_HZ, FAST_START, Manager, serve_sdram
from support.streams import STALLS

TIMING = SdramTiming.of(FAST_START, CLOCK_HZ, 3)


def simulate(
    manager,
    enough,
    *,
    part=FAST_START,
    timing=TIMING,
    clock_hz=CLOCK_HZ,
    io_latency=0,
    limit=60_000,
    fill=None,
):
    """Runs until ``enough()`` is true, and some cycles more; the memory with its statistics."""
    dut = SdramController(part, timing, address_bits=32, io_latency=io_latency)
    sdram = Sdram(part, clock_hz)
    if fill is not None:
        fill(sdram.memory)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    manager.attach(sim, dut.read, dut.write)

    async def memory(ctx):
        await serve_sdram(ctx, dut.pins, sdram, io_latency)

    async def run(ctx):
        for _ in range(limit):
            await ctx.tick()
            if enough():
                break
        else:
            raise AssertionError("took too long")
        await ctx.tick().repeat(20)

    sim.add_testbench(memory, background=True)
    sim.add_testbench(run)
    sim.run()
    return sdram


def noise(seed):
    def fill(memory):
        memory[: 1 << 20] = np.random.default_rng(seed).integers(0, 256, 1 << 20, np.uint8)

    return fill


def words(memory, address, beats):
    return memory[address : address + 2 * beats].view("<u2").tolist()


@pytest.mark.parametrize("clock_hz", [40_000_000, 100_000_000, 133_000_000])
def test_linear_read_uses_the_bus(clock_hz):
    """Bursts as the tape's: 512 bytes each, back to back; refreshes are included."""
    bursts = 40
    timing = SdramTiming.of(FAST_START, clock_hz, 3)
    manager = Manager()
    manager.reads.extend((1, 512 * index, 256) for index in range(bursts))
    enough = lambda: len(manager.read_beats) >= 256 * bursts  # noqa: E731
    sdram = simulate(manager, enough, timing=timing, clock_hz=clock_hz, fill=noise(1))
    assert sdram.violation == ""
    assert [beat[1] for beat in manager.read_beats] == words(sdram.memory, 0, 256 * bursts)
    cycles = manager.read_cycles[-1] - manager.read_cycles[0] + 1
    share = 256 * bursts / cycles
    assert sdram.statistics()["refreshes"] >= cycles // timing.refi
    assert share >= (0.97 if clock_hz < 100_000_000 else 0.985)


@pytest.mark.parametrize(("beats", "share"), [(32, 0.98), (26, 0.9), (16, 0.85)])
def test_short_bursts_in_order(beats, share):
    """Bursts shorter than those of the tape, one after another."""
    bursts = 150
    manager = Manager()
    manager.reads.extend((1, 2 * beats * index, beats) for index in range(bursts))
    sdram = simulate(manager, lambda: len(manager.read_beats) >= beats * bursts, fill=noise(2))
    assert sdram.violation == ""
    assert [beat[1] for beat in manager.read_beats] == words(sdram.memory, 0, beats * bursts)
    cycles = manager.read_cycles[-1] - manager.read_cycles[0] + 1
    assert beats * bursts / cycles >= share


class Traffic:
    """Random bursts in few rows of all banks. What is read and written at a time does not overlap."""

    def __init__(self, seed, count, stall):
        rng = random.Random(f"traffic {seed}")
        self.manager = Manager(stall, seed)
        self.expected_answers = []
        self.writes = {}
        places = [1024 * rng.randrange(64) for _ in range(12)]
        for _ in range(count):
            beats = rng.choice([1, 1, 2, 3, 5, 8, 17, 64])
            address = rng.choice(places) + 2 * rng.randrange(512)
            number = rng.randrange(16)
            if rng.random() < 0.5:
                self.manager.reads.append((number, address, beats))
            else:
                address += 1 << 19
                data = [(rng.randrange(1 << 16), rng.randrange(4)) for _ in range(beats)]
                self.manager.writes.append((number, address, data))
        self.reads = list(self.manager.reads)
        self.written = list(self.manager.writes)

    @property
    def beats(self):
        return sum(beats for _, _, beats in self.reads)

    def done(self):
        return len(self.manager.read_beats) == self.beats and len(self.manager.answers) == len(self.written)

    def check(self, sdram, before):
        expected = []
        for number, address, beats in self.reads:
            data = words(before, address, beats)
            expected += [(number, word, 0, index == beats - 1) for index, word in enumerate(data)]
        assert self.manager.read_beats == expected
        assert self.manager.answers == [(number, 0) for number, _, _ in self.written]
        wanted = before.copy()
        for _, address, data in self.written:
            for index, (word, strobe) in enumerate(data):
                for byte in range(2):
                    if strobe >> byte & 1:
                        wanted[address + 2 * index + byte] = word >> 8 * byte & 0xFF
        assert np.array_equal(sdram.memory[: 1 << 20], wanted)


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("seed", "cas_latency", "clock_hz", "io_latency"),
    [(1, 3, 100_000_000, 0), (2, 2, 100_000_000, 1), (3, 3, 133_000_000, 2), (4, 2, 50_000_000, 0)],
)
def test_random_traffic(seed, cas_latency, clock_hz, io_latency, stall):
    traffic = Traffic(seed, 150, stall)
    timing = SdramTiming.of(FAST_START, clock_hz, cas_latency)
    before = np.zeros(1 << 20, np.uint8)
    noise(seed)(before)
    sdram = simulate(
        traffic.manager,
        traffic.done,
        timing=timing,
        clock_hz=clock_hz,
        io_latency=io_latency,
        fill=noise(seed),
    )
    assert sdram.violation == ""
    traffic.check(sdram, before)


def test_written_data_is_read_back():
    """After the answer to a write, a read sees it."""
    manager = Manager()
    manager.writes.append((3, 0x1FE, [(0xBEEF, 3), (0x1234, 1), (0x5678, 2)]))
    read = []

    def step():
        if manager.answers and not read:
            read.append(1)
            manager.reads.append((5, 0x1FE, 3))
        return len(manager.read_beats) == 3

    sdram = simulate(manager, step)
    assert sdram.violation == ""
    assert [beat[1] for beat in manager.read_beats] == [0xBEEF, 0x0034, 0x5600]


def test_a_stalled_manager_does_not_starve_refreshes():
    """Nobody takes data for as long as ten refreshes."""
    manager = Manager()
    manager.reads.append((0, 0, 256))
    count = [0]

    def step():
        count[0] += 1
        manager.stall = 0.0 if count[0] > 8_000 else 1.0 if count[0] > 100 else 0.0
        return len(manager.read_beats) == 256

    sdram = simulate(manager, step, fill=noise(9))
    assert sdram.violation == ""
    assert sdram.statistics()["refreshes"] >= 8 + 10
    assert [beat[1] for beat in manager.read_beats] == words(sdram.memory, 0, 256)


def test_writes_get_their_turn():
    """Among reads without end, a write is answered after the burst that follows its patience."""
    manager = Manager()
    manager.reads.extend((0, 512 * index, 256) for index in range(12))
    manager.writes.append((1, 1 << 20, [(1, 3)]))
    sdram = simulate(manager, lambda: bool(manager.answers), limit=1500)
    assert sdram.violation == ""
    assert len(manager.read_beats) < 800


@pytest.mark.parametrize(
    ("address", "overrides", "response"),
    [
        (32 << 20, {}, 3),
        (0xFFFF_FFFE, {}, 3),
        (0, {"arburst": 2, "awburst": 2}, 2),
        (0, {"arburst": 0, "awburst": 0}, 2),
        (0, {"arsize": 0, "awsize": 0}, 2),
        (1, {}, 2),
    ],
)
def test_refusals(address, overrides, response):
    """What is not supported is answered in full and in order, and touches nothing."""
    manager = Manager(overrides=overrides)
    manager.reads.append((2, address, 5))
    manager.writes.append((7, address, [(0xFFFF, 3)] * 3))
    sdram = simulate(manager, lambda: len(manager.read_beats) == 5 and bool(manager.answers))
    assert sdram.violation == ""
    assert [(number, status, last) for number, _, status, last in manager.read_beats] == [
        (2, response, index == 4) for index in range(5)
    ]
    assert manager.answers == [(7, response)]
    statistics = sdram.statistics()
    assert statistics["reads"] == statistics["writes"] == 0
    assert not sdram.memory.any()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"t_rcd": 40}, "tRCD"),
        ({"t_rp": 40}, "tRP"),
        ({"t_ras": 200}, "tRAS"),
        ({"t_rc": 400}, "tRC"),
        ({"t_rrd": 300}, "tRRD"),
        ({"t_wr": 300}, "tWR"),
        ({"wr_cycles": 30}, "tWR"),
        ({"t_rfc": 150}, "tRFC"),
        ({"mrd_cycles": 12}, "tMRD"),
        ({"t_init": 1000}, "init"),
        ({"init_refreshes": 9}, "init"),
        ({"t_refi": 700}, "tREFI"),
        ({"cas_latencies": ((2, 10.0),)}, "CAS latency"),
    ],
)
def test_a_memory_that_asks_for_more_notices(change, rule):
    """Each rule fires on this very controller, made for a part that asks for less."""
    traffic = Traffic(5, 150, 0.0)
    sdram = simulate(traffic.manager, traffic.done, part=replace(FAST_START, **change), timing=TIMING)
    assert sdram.violation.startswith(f"{rule}: cycle "), sdram.violation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"io_latency": -1}, "io_latency must not be negative, but is -1"),
        ({"timing": replace(TIMING, postpone=8)}, "postpone must be from 1 to 7, not 8"),
    ],
)
def test_refuses(arguments, message):
    timing = arguments.pop("timing", TIMING)
    with pytest.raises(ValueError, match=f"^{message}$"):
        SdramController(FAST_START, timing, address_bits=32, **arguments)


def test_times_of_the_part():
    wanted = {
        "rcd": 3,
        "rp": 3,
        "ras": 5,
        "rc": 7,
        "rrd": 2,
        "rfc": 7,
        "wr": 2,
        "mrd": 2,
        "refi": 781,
        "init": 30,
    }
    assert {name: getattr(TIMING, name) for name in wanted} == wanted
