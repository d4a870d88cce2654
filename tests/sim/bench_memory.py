# SPDX-License-Identifier: Apache-2.0
"""cocotb bench: copiers of several widths against the behavioural memory."""

import random
import time
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge, ValueChange, with_timeout

from serrano_sim.cocotb.axilite import reset
from serrano_sim.memory.dram import settings_of
from serrano_sim.memory.handle import AxiMemory, Trace

WIDTHS = (2, 4, 16, 64)
SIZE = 1 << 20
INPUTS = ("source", "target", "bursts", "last_beat", "size", "strobe", "drop_valid", "wrong_last")


class Copy:
    """One copier with its memory."""

    def __init__(self, dut, width):
        self.dut = dut
        self.width = width
        self.memory = AxiMemory(f"mem{width}", size=SIZE)
        self.memory.clear_errors()
        self.memory.clear_watches()
        self.memory.configure(read_latency=1, write_latency=1, stall=0.0, read_bandwidth=(0, 0))
        self.memory.configure(write_bandwidth=(0, 0), shared_port=False, max_reads=16, max_writes=16)
        self.memory.configure(dram="")
        self.memory.contents[:] = 0

    def signal(self, name):
        return getattr(self.dut, f"c{self.width}_{name}")

    def fill(self, seed=0):
        self.memory.contents[:] = np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)

    async def run(self, *, source, target, bursts, beats, **options):
        """Copies and returns when the last response has come."""
        values = {"size": self.width.bit_length() - 1, "strobe": (1 << self.width) - 1, **options}
        values |= {"source": source, "target": target, "bursts": bursts, "last_beat": beats - 1}
        await FallingEdge(self.dut.clk)
        for name in INPUTS:
            self.signal(name).value = values.get(name, 0)
        self.signal("start").value = 1
        await FallingEdge(self.dut.clk)
        self.signal("start").value = 0
        await FallingEdge(self.dut.clk)
        await with_timeout(RisingEdge(self.signal("done")), 10, "ms")
        await FallingEdge(self.dut.clk)

    def value(self, name):
        return int(self.signal(name).value)


async def start(dut, width=4):
    for each in WIDTHS:
        for name in ("start", *INPUTS):
            getattr(dut, f"c{each}_{name}").value = 0
        AxiMemory(f"mem{each}", size=SIZE)
    await reset(dut)
    return Copy(dut, width)


@cocotb.test()
async def copies_at_full_rate(dut):
    """Every width moves one beat a cycle, whatever the latency."""
    for width in WIDTHS:
        copy = await start(dut, width)
        for latency in (1, 2, 60):
            copy.fill(latency)
            copy.memory.configure(read_latency=latency, write_latency=latency)
            bursts = 16 if width == 64 else 40
            count = bursts * 16 * width
            await copy.run(source=0, target=0x80000, bursts=bursts, beats=16)
            assert copy.memory.read(0x80000, count) == copy.memory.read(0, count)
            assert copy.value("read_delay") == latency
            assert copy.value("write_delay") == latency
            assert copy.value("errors") == 0
            # One beat a cycle from the first address to the last response.
            assert copy.value("duration") == bursts * 16 + 2 * latency
        assert copy.memory.violations() == []


@cocotb.test()
async def stalls_change_time_only(dut):
    """Random stalls on each channel alone and on all of them: the same bytes, later."""
    copy = await start(dut)
    for stall in ("ar", "r", "aw", "w", "b", "all"):
        copy.fill(7)
        probability = {
            channel: float(stall in (channel, "all")) / 2 for channel in ("ar", "r", "aw", "w", "b")
        }
        durations = []
        for seed in (1, 2, 1):
            copy.memory.contents[0x80000:] = 0
            copy.memory.configure(stall=probability, seed=seed)
            await copy.run(source=0, target=0x80000, bursts=100, beats=4)
            assert copy.memory.read(0x80000, 1600) == copy.memory.read(0, 1600)
            assert not any(copy.memory.read(0x80000 + 1600, 4096))
            durations.append(copy.value("duration"))
        if stall in ("r", "w", "all"):
            assert min(durations) > 600
    copy.memory.configure(stall=0.0)
    await copy.run(source=0, target=0x80000, bursts=100, beats=4)
    assert copy.value("duration") == 400 + 2


@cocotb.test()
async def bandwidth_is_limited(dut):
    copy = await start(dut, 16)
    copy.fill(3)
    for limits, expected in (
        ({"read_bandwidth": (1, 4)}, 4.0),
        ({"write_bandwidth": (3, 4)}, 4 / 3),
        ({"read_bandwidth": (1, 1), "shared_port": True}, 2.0),
    ):
        copy.memory.configure(read_bandwidth=(0, 0), write_bandwidth=(0, 0), shared_port=False)
        copy.memory.configure(**limits)
        await copy.run(source=0, target=0x80000, bursts=100, beats=8)
        assert copy.memory.read(0x80000, 800 * 16) == copy.memory.read(0, 800 * 16)
        assert abs(copy.value("duration") / 800 - expected) < 0.03, (limits, copy.value("duration"))


@cocotb.test()
async def dram_has_rows(dut):
    """A closed row costs its activation, a wrong one the precharge too, and an open one nothing."""
    copy = await start(dut, 16)
    copy.fill(5)
    memory, latency = copy.memory, 20
    memory.configure(read_latency=latency, write_latency=latency, dram="ddr3-1600")
    settings = settings_of("ddr3-1600")
    rcd, rp, row = settings["dram_rcd"], settings["dram_rp"], settings["dram_row_bytes"]
    same_bank = row * settings["dram_banks"]
    delays = []
    for source in (0, 64, same_bank, row, 0):
        await copy.run(source=source, target=0x80000 + 2 * row, bursts=1, beats=1)
        assert memory.read(0x80000 + 2 * row, 16) == memory.read(source, 16)
        for _ in range(40):
            await FallingEdge(dut.clk)
        delays.append(copy.value("read_delay") - latency)
    assert delays == [rcd, 0, rp + rcd, rcd, rp + rcd]


@cocotb.test()
async def dram_streams(dut):
    """Reading and writing one row after the other keeps the shared bus busy; refreshes come in time."""
    copy = await start(dut, 16)
    copy.fill(6)
    memory, beats = copy.memory, 0x80000 // 16
    memory.configure(read_latency=20, write_latency=20, dram="ddr3-1600", max_writes=64)
    before, cycles = memory.statistics(), memory.cycles
    await copy.run(source=0, target=0x80000, bursts=beats // 16, beats=16)
    assert memory.read(0x80000, 16 * beats) == memory.read(0, 16 * beats)
    after, cycles = memory.statistics(), memory.cycles - cycles
    passed = {name: after[name] - before[name] for name in after}
    settings = settings_of("ddr3-1600")
    assert abs(passed["dram_refreshes"] - cycles / settings["dram_refresh_interval"]) <= 1
    # Each row is opened once, and once more after a refresh or where reads and writes meet in a bank.
    rows = 2 * 0x80000 // settings["dram_row_bytes"]
    assert (
        rows <= passed["dram_row_misses"] <= rows + 4 * passed["dram_refreshes"] + passed["dram_turnarounds"]
    )
    stands = passed["dram_turnarounds"] * settings["dram_write_to_read"]
    assert 2 * beats <= copy.value("duration") <= 1.1 * 2 * beats + stands
    memory.configure(dram="")


@cocotb.test()
async def few_outstanding_expose_latency(dut):
    copy = await start(dut, 16)
    copy.fill(4)
    copy.memory.configure(read_latency=50, max_reads=1)
    copy.memory.reset_statistics()
    await copy.run(source=0, target=0x80000, bursts=10, beats=4)
    assert copy.value("duration") >= 10 * (50 + 3)
    statistics = copy.memory.statistics()
    assert statistics["reads_outstanding_peak"] == 1
    assert statistics["reads"] == statistics["writes"] == 10
    assert statistics["read_beats_done"] == statistics["write_beats_done"] == 40
    copy.memory.configure(max_reads=4)
    copy.memory.reset_statistics()
    await copy.run(source=0, target=0x80000, bursts=10, beats=4)
    assert copy.memory.statistics()["reads_outstanding_peak"] == 4


@cocotb.test()
async def strobes_and_narrow_beats(dut):
    """Only enabled bytes change; a beat narrower than the bus touches its own lanes."""
    for width in (4, 64):
        copy = await start(dut, width)
        copy.fill(5)
        before = copy.memory.contents.copy()
        strobe = random.Random(width).getrandbits(width) | 1
        await copy.run(source=0, target=0x80000, bursts=8, beats=2, strobe=strobe)
        expected = before.copy()
        for byte in range(16 * width):
            if strobe >> (byte % width) & 1:
                expected[0x80000 + byte] = before[byte]
        assert np.array_equal(copy.memory.contents, expected)
    # Two bytes at a time on a bus of four: the copier hands over whole words, the strobe picks the lanes.
    copy = await start(dut, 4)
    copy.fill(6)
    before = copy.memory.contents.copy()
    await copy.run(source=0x100, target=0x40000, bursts=1, beats=1, size=1, strobe=0b0011)
    assert copy.memory.read(0x40000, 2) == before[0x100:0x102].tobytes()
    assert copy.memory.read(0x40002, 2) == before[0x40002:0x40004].tobytes()
    assert copy.memory.violations() == []


@cocotb.test()
async def errors_are_injected(dut):
    copy = await start(dut)
    memory = copy.memory
    copy.fill(8)
    target = memory.read(0x80000, 4096)
    # The third write burst and nothing else fails, and is not stored.
    rule = memory.inject_error("SLVERR", on="write", after=2)
    await copy.run(source=0, target=0x80000, bursts=6, beats=4)
    assert copy.value("errors") == 1
    assert memory.error_hits(rule) == 1
    assert memory.read(0x80000 + 32, 16) == target[32:48]
    assert memory.read(0x80000 + 48, 16) == memory.read(48, 16)
    # Reads of two words in the middle of bursts fail, every time.
    memory.clear_errors()
    memory.inject_error("DECERR", on="read", low=0x24, high=0x2C, limit=0)
    for _ in range(2):
        await copy.run(source=0, target=0x80000, bursts=4, beats=8)
        assert copy.value("errors") == 2
    memory.clear_errors()
    await copy.run(source=0, target=0x80000, bursts=4, beats=8)
    assert copy.value("errors") == 0
    # Some of them, by chance, up to a limit; the first beat of each is in the log.
    before = memory.errors()
    assert [error.response for error in before] == ["SLVERR"] + ["DECERR"] * 2
    rule = memory.inject_error("SLVERR", on="write", low=0x80000, high=0x80800, limit=30, chance=0.3)
    await copy.run(source=0, target=0x80000, bursts=60, beats=4)
    hits = memory.error_hits(rule)
    assert 8 <= hits < 30 and copy.value("errors") == hits
    await copy.run(source=0, target=0x80000, bursts=60, beats=4)
    assert memory.error_hits(rule) == 30
    log = memory.errors()[len(before) :]
    assert len(log) == 30 and all(error.write and error.response == "SLVERR" for error in log)
    assert [error.cycle for error in log] == sorted(error.cycle for error in log)
    assert len({error.address for error in log[:hits]}) == hits
    assert all(0x80000 <= error.address < 0x80800 for error in log)
    memory.clear_errors()
    # Nothing is there beyond the end.
    await copy.run(source=SIZE - 16, target=0x80000, bursts=2, beats=4)
    assert copy.value("errors") == 4
    assert memory.violations() == []


@cocotb.test()
async def a_write_counts_when_it_is_acknowledged(dut):
    """The watched range raises the event with the response; before, Python still sees the old bytes."""
    copy = await start(dut)
    memory = copy.memory
    memory.configure(write_latency=500)
    memory.write(0, b"\xa5" * 64)
    memory.watch(0x90020, 0x90040)
    untouched = memory.watch(0x90040, 0x90080)
    event, before = dut.mem4_event, int(dut.mem4_event.value)
    run = cocotb.start_soon(copy.run(source=0, target=0x90000, bursts=1, beats=16))
    for _ in range(200):
        await FallingEdge(dut.clk)
    assert not any(memory.read(0x90000, 64))
    await with_timeout(ValueChange(event), 10, "us")
    assert int(event.value) == 1 - before
    assert memory.read(0x90000, 64) == b"\xa5" * 64
    assert memory.watch_hits(untouched) == 0
    await run
    region = memory.region(0x90010, 0x90020)
    memory.configure(write_latency=1)
    await copy.run(source=0, target=0x90000, bursts=2, beats=8)
    await copy.run(source=0x90000, target=0x1000, bursts=4, beats=4)
    assert memory.region_beats(region) == (4, 4)


@cocotb.test()
async def violations_are_recorded(dut):
    copy = await start(dut)
    memory = copy.memory
    memory.configure(stall={"ar": 0.9}, seed=1)
    await copy.run(source=0, target=0x80000, bursts=3, beats=4, drop_valid=1)
    memory.configure(stall=0.0)
    unstable = memory.violations()
    assert unstable and all("ARVALID fell" in text for text in unstable)
    await copy.run(source=0, target=0x80000, bursts=1, beats=4, wrong_last=1)
    assert ["WLAST before" in text for text in memory.violations()[len(unstable) :]] == [True] * 3
    crossing = len(memory.violations())
    await copy.run(source=0xFF8, target=0x80000, bursts=1, beats=4)
    await copy.run(source=0, target=0x80000, bursts=1, beats=1, size=1)
    assert ["4 KiB" in text or "WSTRB" in text for text in memory.violations()[crossing:]] == [True] * 2
    assert memory.unexpected_violations() == memory.violations()
    memory.expect_violations(len(memory.violations()))
    assert memory.unexpected_violations() == []


@cocotb.test()
async def trace_sink_records_every_beat(dut):
    copy = await start(dut)
    copy.fill(9)
    first = len(Trace.read("beats").cycles)
    begin = copy.memory.cycles
    await copy.run(source=0, target=0x80000, bursts=3000, beats=16)
    trace = Trace.read("beats")
    words = trace.fields("<u4")[first:]
    assert np.array_equal(words, copy.memory.array(0, "<u4", 48000))
    cycles = trace.cycles[first:]
    assert np.array_equal(cycles, cycles[0] + np.arange(48000, dtype=np.uint64))
    assert begin < int(cycles[0]) < begin + 20


@cocotb.test()
async def speed(dut):
    """Cycles per second with nothing but the memory at work."""
    copy = await start(dut, 16)
    copy.memory.configure(read_latency=60, alarm_period=100_000)
    runs = cocotb.start_soon(copy.run(source=0, target=0x80000, bursts=2000, beats=256 // 16))
    begun, cycles = time.perf_counter(), copy.memory.cycles
    for _ in range(3):
        await ValueChange(dut.mem16_alarm)
    seconds = time.perf_counter() - begun
    rate = (copy.memory.cycles - cycles) / seconds
    copy.memory.configure(alarm_period=0)
    await runs
    cocotb.log.info("%.0f cycles per second with four copiers and memories", rate)
    Path("speed.txt").write_text(f"{rate:.0f}\n")
    assert rate > 20_000
