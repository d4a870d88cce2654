# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the whole accelerator: does what a host outside the simulation asks for."""

import cocotb

from serrano_sim.transport.server import Server


@cocotb.test()
async def live(dut: object) -> None:
    """Until the host goes away."""
    await Server(dut).serve()
