# SPDX-License-Identifier: Apache-2.0
"""What the driver needs of a way to the accelerator."""

import struct
from collections.abc import Sequence
from typing import Protocol, Self

__all__ = ["Transport"]


class Transport(Protocol):
    """Registers and memory of an accelerator, and its interrupt.

    A transport derives from this class and gives the first five methods and ``memory_bytes``; the rest has
    a default that a transport overrides where it can do better. All errors are
    :class:`~serrano_host.errors.TransportError`.

    Parameters
    ----------
    memory_bytes : int
        Memory that host and accelerator share, from address 0 on.
    """

    memory_bytes: int

    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""
        ...

    def write_register(self, offset: int, value: int) -> None:
        """Write a register."""
        ...

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes from an address on."""
        ...

    def write_memory(self, address: int, data: bytes) -> None:
        """Put bytes at an address; all of them are there when this returns."""
        ...

    def wait(self, cycles: int) -> bool:
        """Wait for the interrupt line; whether it is high.

        Ends at once if the line is high, as soon as a watched range has been written to since the last call
        ended, or after about so many of the accelerator's clock cycles. Where these are not to be had, the
        transport takes what corresponds to them at the nominal clock.
        """
        ...

    def read_registers(self, offset: int, count: int) -> list[int]:
        """So many consecutive registers, in one transfer where possible."""
        return [self.read_register(offset + 4 * index) for index in range(count)]

    def write_registers(self, offset: int, values: Sequence[int]) -> None:
        """Write consecutive registers, in one transfer where possible."""
        for index, value in enumerate(values):
            self.write_register(offset + 4 * index, value)

    def watch(self, address: int, size: int) -> bool:
        """Let :meth:`wait` end with writes to a range too; whether this transport can.

        One that can also reads memory as it is between two clock cycles, at no cost worth avoiding.
        """
        return False

    def cycles(self) -> int | None:
        """The accelerator's clock cycles since some moment, where the transport knows them."""
        return None

    def close(self) -> None:
        """End the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def words(values: Sequence[int]) -> bytes:
    """Token ids, or anything else of 32 bits, as it lies in memory."""
    return struct.pack(f"<{len(values)}I", *values)
