# SPDX-License-Identifier: Apache-2.0
"""The simulation's end of the live transport: carries out what comes over a socket, one line of JSON each.

Simulated time passes only while a command is carried out: ``["read", offset, count]``,
``["write", offset, values]``, ``["watch", address, size]``, ``["wait", cycles]``. Each is answered by a line
with a list. When the other end closes the socket, the simulation ends.
"""

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from cocotb.triggers import First, Timer, ValueChange

from ..cocotb.axilite import AxiLite, reset
from ..memory.handle import AxiMemory
from ..top.job import MEMORY

__all__ = ["SOCKET_FILE", "Server"]

SOCKET_FILE = "socket.path"
"""File in the run's folder that names the socket."""

PERIOD_NS = 2
# Longest sleep in one piece: what Timer takes is bounded.
SLEEP_CYCLES = 1 << 40


class Server:
    """Serves one host.

    Parameters
    ----------
    dut : cocotb handle
        The bench of :mod:`serrano_sim.top.design`.
    """

    def __init__(self, dut: Any):
        self.dut = dut
        self.memory = AxiMemory(MEMORY)
        self.bus = AxiLite(dut, "s_axi")
        for name in ("activity_enable", "s_axi_awprot", "s_axi_arprot"):
            if hasattr(dut, name):
                getattr(dut, name).value = 0
        self._irq, self._event = dut.irq, dut.memory_event
        self._watched: int | None = None
        self._seen = 0

    async def serve(self) -> None:
        """Until the host closes the connection."""
        await reset(self.dut)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(Path(SOCKET_FILE).read_text())
            # A host that goes away while it waits is no failure.
            with contextlib.suppress(ConnectionError), connection.makefile("rw") as lines:
                for line in lines:
                    command, *arguments = json.loads(line)
                    answer = await getattr(self, f"_{command}")(*arguments)
                    lines.write(json.dumps(answer) + "\n")
                    lines.flush()

    async def _read(self, offset: int, count: int) -> list[int]:
        return [await self.bus.read(offset + 4 * index) for index in range(count)]

    async def _write(self, offset: int, values: list[int]) -> list[int]:
        for index, value in enumerate(values):
            await self.bus.write(offset + 4 * index, value)
        return []

    async def _watch(self, address: int, size: int) -> list[int]:
        self.memory.clear_watches()
        self._watched, self._seen = self.memory.watch(address, address + size), 0
        return []

    async def _wait(self, cycles: int) -> list[int]:
        end = self.memory.cycles + cycles
        while not int(self._irq.value) and not self._written() and self.memory.cycles < end:
            left = min(end - self.memory.cycles, SLEEP_CYCLES)
            await First(ValueChange(self._irq), ValueChange(self._event), Timer(PERIOD_NS * left, "ns"))
        return [int(self._irq.value)]

    def _written(self) -> bool:
        """Whether the watched range has been written to since this said so last."""
        hits = 0 if self._watched is None else self.memory.watch_hits(self._watched)
        seen, self._seen = self._seen, hits
        return hits != seen
