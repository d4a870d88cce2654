# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the whole accelerator: carries out the job in the run's folder."""

import cocotb

from serrano_sim.top.device import Device
from serrano_sim.top.job import Job


@cocotb.test()
async def job(dut: object) -> None:
    """What the job file says."""
    await Device(dut, Job.read()).run()
