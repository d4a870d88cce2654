# SPDX-License-Identifier: Apache-2.0
"""Reset, and an AXI4-Lite manager, for cocotb benches."""

from typing import Any

from cocotb.triggers import FallingEdge, ReadOnly

__all__ = ["AxiLite", "reset"]


async def reset(dut: Any, cycles: int = 5) -> None:
    """Holds ``dut.rst`` high for some cycles of ``dut.clk`` and leaves it low, between two rising edges."""
    clk, rst = dut.clk, dut.rst
    rst.value = 1
    for _ in range(cycles):
        await FallingEdge(clk)
    rst.value = 0
    await FallingEdge(clk)


class AxiLite:
    """AXI4-Lite manager on ports ``<prefix>_awaddr`` and so on; one transfer at a time.

    Signals change at the clock's falling edge, so that what happens at the next rising edge is settled and
    visible before it.

    Parameters
    ----------
    dut : cocotb handle
        The bench, with ``clk`` and the ports.
    prefix : :class:`str`
        Start of the ports' names.

    ``transfers`` counts the transfers begun, so that a bench can show that none took place.
    """

    def __init__(self, dut: Any, prefix: str = "s_axil"):
        self._clk = dut.clk
        self.transfers = 0

        def signal(name: str) -> Any:
            return getattr(dut, f"{prefix}_{name}", None)

        names = "awaddr awvalid awready wdata wstrb wvalid wready bresp bvalid bready"
        names += " araddr arvalid arready rdata rresp rvalid rready"
        self._signals = {name: signal(name) for name in names.split()}
        missing = [name for name, handle in self._signals.items() if handle is None]
        if missing:
            raise ValueError(f"The bench has no {', '.join(f'{prefix}_{name}' for name in missing)}")
        self._lanes = len(self._signals["wstrb"])
        for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
            self._signals[name].value = 0

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            self._signals[name].value = value

    async def _settled(self, *names: str) -> list[int]:
        await ReadOnly()
        return [int(self._signals[name].value) for name in names]

    async def write_response(self, address: int, data: int, strobe: int | None = None) -> int:
        """Writes a word and returns the response."""
        self.transfers += 1
        await FallingEdge(self._clk)
        self._set(awaddr=address, awvalid=1, wdata=data, wvalid=1, bready=1)
        self._set(wstrb=(1 << self._lanes) - 1 if strobe is None else strobe)
        waiting = {"awvalid": "awready", "wvalid": "wready"}
        response = None
        while response is None:
            *ready, bvalid, bresp = await self._settled(*waiting.values(), "bvalid", "bresp")
            taken = [valid for valid, is_ready in zip(waiting, ready, strict=True) if is_ready]
            if bvalid:
                response = bresp
            await FallingEdge(self._clk)
            for valid in taken:
                self._set(**{valid: 0})
                del waiting[valid]
        self._set(bready=0)
        return response

    async def read_response(self, address: int) -> tuple[int, int]:
        """Reads a word and returns it with the response."""
        self.transfers += 1
        await FallingEdge(self._clk)
        self._set(araddr=address, arvalid=1, rready=1)
        accepted = False
        while True:
            arready, rvalid, rdata, rresp = await self._settled("arready", "rvalid", "rdata", "rresp")
            await FallingEdge(self._clk)
            if arready and not accepted:
                accepted = True
                self._set(arvalid=0)
            if rvalid:
                self._set(rready=0)
                return rdata, rresp

    async def write(self, address: int, data: int, strobe: int | None = None) -> None:
        """Writes a word.

        Raises
        ------
        RuntimeError
            If the response is an error.
        """
        if response := await self.write_response(address, data, strobe):
            raise RuntimeError(f"Write to {address:#x} got response {response}")

    async def read(self, address: int) -> int:
        """Reads a word.

        Raises
        ------
        RuntimeError
            If the response is an error.
        """
        data, response = await self.read_response(address)
        if response:
            raise RuntimeError(f"Read of {address:#x} got response {response}")
        return data
