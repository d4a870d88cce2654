# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the cells of an ECP5, each against a model of some lines."""

import random

import cocotb
from cocotb.triggers import Timer

CYCLES = 3000


async def tick(dut):
    """What is given is seen at the edge; returns with the edge's results."""
    await Timer(1, "ns")
    dut.clk.value = 1
    await Timer(1, "ns")
    dut.clk.value = 0
    await Timer(1, "ns")


@cocotb.test()
async def logic(dut):
    dut.clk.value = 0
    for value in range(16):
        dut.table_i.value = value
        await Timer(1, "ns")
        assert int(dut.table_o.value) == 0xB3C5 >> value & 1
    for value in range(512):
        x, y, carry = value & 15, value >> 4 & 15, value >> 8
        dut.sum_x.value, dut.sum_y.value, dut.sum_c.value = x, y, carry
        await Timer(1, "ns")
        assert int(dut.sum_o.value) + 16 * int(dut.sum_carry.value) == x + y + carry


@cocotb.test()
async def flip_flops(dut):
    choose = random.Random(2)
    dut.clk.value, dut.ff_lsr.value = 0, 0
    await Timer(1, "ns")
    kept = [1, 0, 0, 1]
    assert int(dut.ff_q.value) == 0b1001
    for _ in range(CYCLES):
        d, ce, lsr = (choose.random() < share for share in (0.5, 0.5, 0.2))
        dut.ff_d.value, dut.ff_ce.value, dut.ff_lsr.value = int(d), int(ce), int(lsr)
        await Timer(1, "ns")
        if lsr:
            # The last one does not wait for the clock.
            kept[3] = 1
            assert int(dut.ff_q.value) >> 3
        await tick(dut)
        for bit, (enabled, value) in enumerate([(True, 1), (ce, 0), (not ce, 0), (ce, 1)]):
            if lsr:
                kept[bit] = value
            elif enabled:
                kept[bit] = int(d)
        assert int(dut.ff_q.value) == sum(value << bit for bit, value in enumerate(kept))


@cocotb.test()
async def small_memory_and_products(dut):
    choose = random.Random(3)
    words = list(range(16))
    ends = {"mul_slow": [0] * 2, "mul_fast": [0]}
    held = dict.fromkeys(ends, 0)
    dut.clk.value = 0
    for _ in range(CYCLES):
        write, at, data, read = (
            choose.random() < 0.5,
            choose.randrange(16),
            choose.randrange(16),
            choose.randrange(16),
        )
        dut.dpr_we.value, dut.dpr_wa.value, dut.dpr_d.value, dut.dpr_ra.value = int(write), at, data, read
        a, b = (
            choose.choice([-(1 << 17), (1 << 17) - 1, choose.randrange(-(1 << 17), 1 << 17)]) for _ in "ab"
        )
        dut.mul_a.value, dut.mul_b.value = a % (1 << 18), b % (1 << 18)
        enabled = {name: choose.random() < 0.3 for name in ends}
        for name, value in enabled.items():
            getattr(dut, f"{name}_b_en").value = int(value)
        await Timer(1, "ns")
        assert int(dut.dpr_q.value) == words[read]
        await tick(dut)
        if write:
            words[at] = data
        for name, line in ends.items():
            held[name] = b if enabled[name] else held[name]
            line.append(a * held[name])
            assert int(getattr(dut, name).value) == line.pop(0) % (1 << 36), name


@cocotb.test()
async def block_memories(dut):
    choose = random.Random(4)
    dut.clk.value = 0
    registered = {36: False, 18: False, 9: True, 4: True}
    rows = [5 * (2 * row) % (1 << 18) | (5 * (2 * row + 1) % (1 << 18)) << 18 for row in range(512)]
    contents = {width: list(rows) for width in registered}
    read, shown, met = dict.fromkeys(registered, 0), dict.fromkeys(registered, 0), 0

    def place(width, address):
        """Row and lowest bit of a word."""
        per_row = {36: 1, 18: 2, 9: 4, 4: 8}[width]
        row, word = divmod(address, per_row)
        return row, 9 * (word // 2) + 4 * (word % 2) if width == 4 else width * word

    for cycle in range(CYCLES):
        given, row = {}, choose.randrange(512)
        dut.fixed_ra.value, dut.fixed_re.value = row, 1
        dut.fixed_we.value, dut.fixed_wa.value, dut.fixed_be.value, dut.fixed_d.value = 1, row, 15, 0
        for width in registered:
            depth = 1 << {36: 9, 18: 10, 9: 11, 4: 12}[width]
            wa, ra = (choose.randrange(depth if cycle % 2 else 8) for _ in "wr")
            we, re, be = (
                choose.random() < 0.5,
                choose.random() < 0.7,
                choose.randrange(1 << max(1, width // 9)),
            )
            data = choose.randrange(1 << width)
            given[width] = wa, ra, we, re, be, data
            for name, value in (
                ("wa", wa),
                ("ra", ra),
                ("we", int(we)),
                ("re", int(re)),
                ("be", be),
                ("d", data),
            ):
                getattr(dut, f"m{width}_{name}").value = value
        await tick(dut)
        assert int(dut.fixed_q.value) == rows[row]
        for width, (wa, ra, we, re, be, data) in given.items():
            memory = contents[width]
            (row, low), (read_row, read_low) = place(width, wa), place(width, ra)
            mask = (
                sum(0x1FF << 9 * byte for byte in range(4) if be >> byte & 1)
                if width >= 18
                else (1 << width) - 1
            )
            shown[width] = read[width]
            if re:
                read[width] = memory[read_row] >> read_low & ((1 << width) - 1)
                if we and row == read_row:
                    # What is being written is not to be known.
                    read[width] ^= (mask << low >> read_low) & ((1 << width) - 1)
                    met += 1
            if we:
                memory[row] = memory[row] & ~(mask << low) | (data & mask) << low
            expected = shown[width] if registered[width] else read[width]
            assert int(getattr(dut, f"m{width}_q").value) == expected, (cycle, width)
    assert met > 100
