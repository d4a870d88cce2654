# SPDX-License-Identifier: Apache-2.0
"""What a board is, as data: nothing here imports a platform, so that a simulation needs none."""

from dataclasses import dataclass

__all__ = ["Board", "SdramPart"]


@dataclass(frozen=True, kw_only=True)
class SdramPart:
    """A single-data-rate SDRAM: its geometry, and the times that its data sheet asks for.

    Parameters
    ----------
    name : :class:`str`
        What it is, for messages.
    data_bits : :class:`int`
        Width of the data bus, a multiple of 8.
    bank_bits, row_bits, column_bits : :class:`int`
        Bits of a bank, of a row in it, of a column in that. At most 10 column bits: A10 has another meaning.
    t_rcd, t_rp, t_ras, t_rc, t_rrd, t_rfc : :class:`float`
        ACTIVE to READ or WRITE, PRECHARGE to ACTIVE, ACTIVE to PRECHARGE, ACTIVE to ACTIVE of a bank, of two
        banks, REFRESH to anything; nanoseconds.
    t_wr : :class:`float`
        Last data written to PRECHARGE, in nanoseconds; at least ``wr_cycles`` cycles.
    wr_cycles, mrd_cycles : :class:`int`
        Least cycles from data to PRECHARGE, and from LOAD MODE to anything.
    t_refi : :class:`float`
        Interval of refreshes, on average; nanoseconds.
    postponed_max : :class:`int`
        Refreshes that may be owed at a time.
    t_init : :class:`float`
        From power to the first command; nanoseconds.
    init_refreshes : :class:`int`
        Refreshes before LOAD MODE.
    cas_latencies : tuple of (:class:`int`, :class:`float`)
        CAS latencies, and the shortest clock period in nanoseconds of each.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    name: str
    data_bits: int
    bank_bits: int
    row_bits: int
    column_bits: int
    t_rcd: float
    t_rp: float
    t_ras: float
    t_rc: float
    t_rrd: float
    t_rfc: float
    t_wr: float
    t_refi: float
    t_init: float
    cas_latencies: tuple[tuple[int, float], ...]
    wr_cycles: int = 2
    mrd_cycles: int = 2
    postponed_max: int = 8
    init_refreshes: int = 8

    def __post_init__(self) -> None:
        if self.data_bits < 8 or self.data_bits % 8:
            raise ValueError(f"data_bits must be a multiple of 8, not {self.data_bits!r}")
        for field, low, high in (("bank_bits", 1, 2), ("row_bits", 8, 13), ("column_bits", 5, 10)):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"{field} must be from {low} to {high}, not {getattr(self, field)!r}")
        times = ("t_rcd", "t_rp", "t_ras", "t_rc", "t_rrd", "t_rfc", "t_wr", "t_refi", "t_init")
        for field in times:
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, not {getattr(self, field)!r}")

    @property
    def capacity(self) -> int:
        """Bytes."""
        return self.data_bits // 8 << self.bank_bits + self.row_bits + self.column_bits

    def reachable(self, address_bits: int) -> int:
        """Bytes that an accelerator with addresses of ``address_bits`` can use."""
        return min(self.capacity, 1 << address_bits)


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board that carries the accelerator.

    Parameters
    ----------
    name : :class:`str`
        Its name in ``BOARD=``.
    title : :class:`str`
        For people.
    platform : :class:`str`
        The platform, ``module:class``; text, as only synthesis imports it.
    preset : :class:`str`
        Preset of the accelerator (docs/presets.md).
    sdram : :class:`SdramPart`
        Its memory: the most demanding values of all parts that the board is sold with.
    cas_latency : :class:`int`
        CAS latency to set the memory to.
    clock_hz : :class:`int`
        Clock of the design and of the memory.
    baud : :class:`int`
        Of the host's line.
    cells_per_block : :class:`int` or ``None``
        Memories are block RAMs where each saves so many logic cells or more; without it the tools decide.
        For a device with block RAMs to spare.

    Raises
    ------
    ValueError
        If the line is too fast for the clock, or the memory too slow for it.
    """

    name: str
    title: str
    platform: str
    preset: str
    sdram: SdramPart
    cas_latency: int
    clock_hz: int
    baud: int
    cells_per_block: int | None = None

    def __post_init__(self) -> None:
        if self.clock_hz < 4 * self.baud:
            raise ValueError(f"baud must be at most a quarter of the clock, not {self.baud!r}")
        periods = dict(self.sdram.cas_latencies)
        if self.cas_latency not in periods:
            raise ValueError(f"cas_latency must be one of {sorted(periods)!r}, not {self.cas_latency!r}")
        if 1e9 / self.clock_hz < periods[self.cas_latency] - 1e-6:
            raise ValueError(
                f"clock_hz must be at most {1e9 / periods[self.cas_latency]:.0f} "
                f"at CAS latency {self.cas_latency}, not {self.clock_hz!r}"
            )
