# SPDX-License-Identifier: Apache-2.0
"""The UART bridge between a line and AXI4, with the host's own frames."""

import random
import zlib

import pytest
from amaranth.sim import Simulator

from serrano.boards.bridge import BridgeState, UartBridge
from serrano_host.board.frames import (
    PAYLOAD_MAX,
    VERSION,
    Command,
    Decoder,
    Flags,
    Frame,
    Identity,
    State,
    Status,
    encode,
)
from support.axi import AXIMemory
from support.line import receive_line, send_line

IDENTITY = {"memory_bytes": 1 << 16, "clock_hz": 100_000_000, "baud": 25_000_000}
DIVISOR = 4


class Registers:
    """64 words behind AXI4-Lite; each write is remembered."""

    def __init__(self):
        self.values = {4 * index: 0x01010101 * index for index in range(64)}
        self.writes = []

    async def serve_writes(self, ctx, bus):
        ctx.set(bus.bvalid, 0)
        while True:
            _, _, awvalid, wvalid, address, value = await ctx.tick().sample(
                bus.awvalid, bus.wvalid, bus.awaddr, bus.wdata
            )
            if awvalid and wvalid:
                ctx.set(bus.awready, 1)
                ctx.set(bus.wready, 1)
                await ctx.tick()
                ctx.set(bus.awready, 0)
                ctx.set(bus.wready, 0)
                self.writes.append((address, value))
                self.values[address] = value
                ctx.set(bus.bresp, 2 if address == 0x80 else 0)
                ctx.set(bus.bvalid, 1)
                await ctx.tick()
                ctx.set(bus.bvalid, 0)

    async def serve_reads(self, ctx, bus):
        while True:
            ctx.set(bus.arready, 1)
            _, _, valid, address = await ctx.tick().sample(bus.arvalid, bus.araddr)
            if valid:
                ctx.set(bus.arready, 0)
                ctx.set(bus.rdata, self.values[address])
                ctx.set(bus.rvalid, 1)
                await ctx.tick()
                ctx.set(bus.rvalid, 0)


class Bench:
    """A bridge with a memory and registers. ``run`` sends pieces, and waits for answers after each."""

    def __init__(self, width=2, stall=0.0, **options):
        options = {"gap": 400, **options}
        self.dut = UartBridge(32, width, divisor=DIVISOR, identity=IDENTITY, **options)
        self.memory = AXIMemory(1 << 16, latency=7, stall=stall, seed=3)
        self.memory.data[:] = random.Random(5).randbytes(1 << 16)
        self.registers = Registers()
        self.decoder = Decoder()
        self.answers = []
        self.state = 0

    def run(self, pieces, *, quiet=1500):
        dut, received = self.dut, bytearray()
        sim = Simulator(dut)
        sim.add_clock(1e-8)

        def background(function, *arguments):
            async def bench(ctx):
                await function(ctx, *arguments)

            sim.add_testbench(bench, background=True)

        background(self.memory.serve_reads, dut.read)
        background(self.memory.serve_writes, dut.write)
        background(self.registers.serve_reads, dut.registers)
        background(self.registers.serve_writes, dut.registers)
        background(receive_line, dut.tx, DIVISOR, received)

        async def host(ctx):
            ctx.set(dut.rx, 1)
            ctx.set(dut.state, BridgeState.const({"ready": 1, "irq": self.state & 1}))
            await ctx.tick().repeat(10)
            for piece in pieces:
                if isinstance(piece, int):
                    await ctx.tick().repeat(piece)
                    continue
                await send_line(ctx, dut.rx, piece, DIVISOR)
            still, seen = 0, 0
            while still < quiet:
                await ctx.tick().repeat(50)
                still = still + 50 if len(received) == seen else 0
                seen = len(received)

        sim.add_testbench(host)
        sim.run()
        self.answers = self.decoder.feed(bytes(received))
        assert self.decoder.dropped == self.decoder.bad == self.decoder.waiting == 0
        return self.answers


def word(*values):
    return b"".join(value.to_bytes(4, "little") for value in values)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_commands(width, stall):
    bench = Bench(width, stall)
    memory = bytes(bench.memory.data)
    data = random.Random(1).randbytes(44)
    frames = [
        Frame(7, Command.PING),
        Frame(8, Command.READ, 0, word(0x204, 60)),
        Frame(9, Command.WRITE, 0, word(0x1FF8) + data),
        Frame(10, Command.READ, 0, word(0x1FF4, 56)),
        Frame(11, Command.CHECK, 0, word(0x100, 200)),
        Frame(12, Command.READ_REGISTERS, 0, word(8, 5)),
        Frame(13, Command.WRITE_REGISTERS, 0, word(0x40, 0xDEADBEEF, 1, 2)),
        Frame(14, Command.WRITE_REGISTERS, 0, word(0x20)),
        Frame(15, Command.READ, 0, word(0, 0)),
        Frame(16, Command.CHECK, 0, word(0, 0)),
    ]
    answers = bench.run([encode(frame) for frame in frames])
    assert [(a.sequence, a.command, a.flags) for a in answers] == [
        (f.sequence, f.command | 0x80, Status.OK) for f in frames
    ]
    assert {a.state for a in answers} == {State.MEMORY_READY}
    identity = Identity.unpack(answers[0].payload)
    assert identity == Identity(VERSION, PAYLOAD_MAX, 1 << 16, 100_000_000, 25_000_000, width, 0, 1)
    assert answers[1].payload == memory[0x204 : 0x204 + 60]
    assert bytes(bench.memory.data[0x1FF8 : 0x1FF8 + 44]) == data
    assert answers[3].payload == memory[0x1FF4:0x1FF8] + data + memory[0x1FF8 + 44 : 0x1FF8 + 52]
    assert answers[4].payload == word(zlib.crc32(memory[0x100 : 0x100 + 200]))
    assert answers[5].payload == word(*(0x01010101 * index for index in range(2, 7)))
    assert bench.registers.writes == [(0x40, 0xDEADBEEF), (0x44, 1), (0x48, 2)]
    assert answers[7].payload == answers[8].payload == b""
    assert answers[9].payload == word(0)


def test_several_requests_at_a_time():
    """A host need not wait: what comes while a request is carried out waits in a buffer."""
    bench = Bench(stall=0.5)
    rng = random.Random(3)
    blocks = [rng.randbytes(64) for _ in range(6)]
    frames = [Frame(i, Command.WRITE, 0, word(64 * i) + block) for i, block in enumerate(blocks)]
    answers = bench.run([b"".join(encode(frame) for frame in frames)])
    assert [(a.sequence, a.flags) for a in answers] == [(i, Status.OK) for i in range(6)]
    assert bytes(bench.memory.data[: 64 * 6]) == b"".join(blocks)


@pytest.mark.parametrize(
    ("command", "payload", "status"),
    [
        (6, b"", Status.BAD_COMMAND),
        (0x81, word(0, 4), Status.BAD_COMMAND),
        (Command.PING, b"1", Status.BAD_LENGTH),
        (Command.READ, word(0), Status.BAD_LENGTH),
        (Command.READ, word(1, 4), Status.BAD_LENGTH),
        (Command.READ, word(0, 5), Status.BAD_LENGTH),
        (Command.READ, word(0, 1026), Status.BAD_LENGTH),
        (Command.WRITE, b"123", Status.BAD_LENGTH),
        (Command.WRITE, word(0) + b"123", Status.BAD_LENGTH),
        (Command.WRITE, word(3) + b"1234", Status.BAD_LENGTH),
        (Command.READ_REGISTERS, word(0, 257), Status.BAD_LENGTH),
        (Command.WRITE_REGISTERS, word(0) + b"12", Status.BAD_LENGTH),
        (Command.CHECK, word(0, 7), Status.BAD_LENGTH),
        (Command.READ, word(0x4000, 8), Status.BUS_ERROR),
        (Command.CHECK, word(0x4000, 8), Status.BUS_ERROR),
        (Command.WRITE, word(0x4000, 1, 2, 3), Status.BUS_ERROR),
        (Command.WRITE_REGISTERS, word(0x80, 5), Status.BUS_ERROR),
    ],
)
def test_refusals(command, payload, status):
    """With the status, without a payload; and the next request is carried out."""
    bench = Bench()
    bench.memory.read_errors[0x4004] = 2
    bench.memory.write_errors[0x4002] = 3
    before = bytes(bench.memory.data)
    frames = [Frame(1, command, 0, payload), Frame(2, Command.READ, 0, word(0, 16))]
    answers = bench.run([encode(frame) for frame in frames])
    assert (answers[0].sequence, answers[0].flags, answers[0].payload) == (1, status, b"")
    assert (answers[1].sequence, answers[1].flags, answers[1].payload) == (2, Status.OK, before[:16])
    if status is Status.BAD_LENGTH:
        assert not bench.memory.writes and not bench.registers.writes


def test_bad_crc():
    bad = bytearray(encode(Frame(1, Command.WRITE, 0, word(0, 1))))
    bad[-6] ^= 4
    answers = (bench := Bench()).run([bytes(bad), encode(Frame(2, Command.PING))])
    assert [(a.sequence, a.flags) for a in answers] == [(1, Status.BAD_CRC), (2, Status.OK)]
    assert not bench.memory.writes
    assert Identity.unpack(answers[1].payload).frames_bad == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00",
        b"\xa5",
        b"\xa5\xa5",
        b"hello, board",
        b"\xa5\x5e",
        b"\xa5\x5e\x01\x01\x00\x00\x05\x04",
        b"\xa5\x5e\x01\x01\x00\x00\x08\x00\x00",
        encode(Frame(1, Command.READ, 0, word(0, 4)))[:-1],
    ],
)
def test_resync(garbage):
    """After garbage and a gap, every request is understood."""
    ping = encode(Frame(9, Command.PING))
    answers = Bench().run([garbage, 500, ping])
    assert [(a.sequence, a.flags) for a in answers] == [(9, Status.OK)]


def test_resync_without_a_gap():
    """Garbage that is no beginning of a frame does not matter at all."""
    answers = Bench().run([b"\x00\xff\xa5\x00 garbage \xa5" + encode(Frame(9, Command.PING))])
    assert [a.sequence for a in answers] == [9]


def test_repeated_register_writes_are_done_once():
    first = Frame(5, Command.WRITE_REGISTERS, 0, word(0x40, 1))
    again = Frame(5, Command.WRITE_REGISTERS, Flags.REPEATED, word(0x40, 1))
    other = Frame(6, Command.WRITE_REGISTERS, Flags.REPEATED, word(0x44, 2))
    bench = Bench()
    answers = bench.run([encode(frame) for frame in (first, again, other, other, first)])
    assert [(a.sequence, a.flags) for a in answers] == [(n, Status.OK) for n in (5, 5, 6, 6, 5)]
    assert bench.registers.writes == [(0x40, 1), (0x44, 2), (0x40, 1)]


def test_interrupt_is_seen():
    bench = Bench()
    bench.state = 1
    answers = bench.run([encode(Frame(1, Command.PING))])
    assert answers[0].state == State.IRQ | State.MEMORY_READY


def test_overrun_is_told():
    """More requests at a time than there is room for: some are lost, and the next PINGs tell."""
    request = encode(Frame(1, Command.READ, 0, word(0, 64)))
    ping = encode(Frame(2, Command.PING))
    answers = Bench(waiting=64).run([request * 12, 12_000, ping, 5000, ping], quiet=5000)
    assert len(answers) < 12
    assert [bool(a.state & State.OVERRUN) for a in answers[-2:]] == [True, False]


def test_refuses():
    with pytest.raises(ValueError, match=r"^The memory port must have 2 or 4 bytes, not 16$"):
        UartBridge(32, 16, divisor=4, identity=IDENTITY, gap=100)
