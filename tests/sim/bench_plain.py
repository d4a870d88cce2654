# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the runner's own tests; some of these are meant to fail."""

import os

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from serrano_sim.cocotb.axilite import AxiLite, reset


@cocotb.test()
async def registers(dut):
    bus = AxiLite(dut)
    await reset(dut)
    for index in range(4):
        await bus.write(4 * index, 0x11111111 * (index + 1))
    await bus.write(8, 0xAABBCCDD, strobe=0b0101)
    assert [await bus.read(4 * index) for index in range(4)] == [
        0x11111111,
        0x22222222,
        0x33BB33DD,
        0x44444444,
    ]
    with pytest.raises(RuntimeError, match=r"^Write to 0x10 got response 2$"):
        await bus.write(16, 1)
    with pytest.raises(RuntimeError, match=r"^Read of 0x10 got response 3$"):
        await bus.read(16)
    assert bus.transfers == 11
    with pytest.raises(ValueError, match=r"^The bench has no x_awaddr, x_awvalid, "):
        AxiLite(dut, "x")


@cocotb.test()
async def counts(dut):
    await reset(dut)
    before = int(dut.count.value)
    for _ in range(10):
        await FallingEdge(dut.clk)
    assert int(dut.count.value) == before + 10
    assert os.environ["SAYS"] == "hello"


@cocotb.test()
async def random_contents(dut):
    await reset(dut)
    with open("unset.txt", "w") as file:
        file.write(str(int(dut.unset.value)))


@cocotb.test()
async def fails(dut):
    await FallingEdge(dut.clk)
    assert int(dut.count.value) == -1, "this must be seen"


@cocotb.test()
async def ends_the_simulator(dut):
    await FallingEdge(dut.clk)
    os._exit(3)


@cocotb.test()
async def leaves_quietly(dut):
    await FallingEdge(dut.clk)
    os._exit(0)


@cocotb.test()
async def never_ends(dut):
    while True:
        await FallingEdge(dut.clk)
