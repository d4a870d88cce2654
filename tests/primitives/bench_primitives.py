# SPDX-License-Identifier: Apache-2.0
"""cocotb bench: the Verilog of the wrappers and of a chain of equal blocks against their models."""

import random
from collections import deque

import cocotb
from cocotb.triggers import FallingEdge

from serrano_sim.cocotb.axilite import reset
from support.primitives import models, sequence


def signed(value, width):
    return value - (1 << width) if value >> (width - 1) else value


@cocotb.test()
async def wrappers_equal_models(dut):
    await reset(dut)
    checked = dict.fromkeys(models(), 0)
    steps = [(name, sequence(model, 400, seed=7)) for name, model in models().items()]
    handles = {}
    for _ in range(400):
        expected = {}
        for name, step in steps:
            values, expected[name] = next(step)
            for port, value in values.items():
                handle = handles.setdefault((name, port), getattr(dut, f"{name}__{port}"))
                handle.value = value & ((1 << len(handle)) - 1)
        await FallingEdge(dut.clk)
        for name, value in expected.items():
            if value is None:
                continue
            port = "p" if name.startswith("multiplier") else "r_data"
            handle = handles.setdefault((name, port), getattr(dut, f"{name}__{port}"))
            assert int(handle.value) == value & ((1 << len(handle)) - 1), name
            checked[name] += 1
    assert min(checked.values()) > 300


@cocotb.test()
async def merged_chain_computes(dut):
    await reset(dut)
    rng = random.Random(3)
    window = deque([0] * 16, maxlen=16)
    for _ in range(20):
        dut.chain__x.value = 0
        await FallingEdge(dut.clk)
    for _ in range(200):
        x = rng.randint(-128, 127)
        dut.chain__x.value = x & 0xFF
        await FallingEdge(dut.clk)
        window.append(x)
        assert signed(int(dut.chain__total.value), 20) == 3 * sum(window)
