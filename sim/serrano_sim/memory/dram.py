# SPDX-License-Identifier: Apache-2.0
"""DRAM parts, by the figures of their data sheets, and their times in cycles of a clock."""

import math
from dataclasses import dataclass

__all__ = ["PARTS", "Dram", "settings_of"]


@dataclass(frozen=True, kw_only=True)
class Dram:
    """A DRAM behind a controller that runs at the accelerator's clock; times in nanoseconds.

    Parameters
    ----------
    name : :class:`str`
        The part.
    clock_mhz : :class:`float`
        Clock of accelerator and memory port, in which the data bus moves one beat.
    bytes_per_cycle : :class:`int`
        Peak of the data bus, in bytes per cycle of that clock: the beat that these figures are meant for.
    banks, row_bytes : :class:`int`
        Banks, each with one open row of so many bytes. Successive rows of memory lie in successive banks.
    rcd, rp, ras, rrd : :class:`float`
        Activate to column command; precharge; activate to precharge; activate to activate of another bank.
    rfc, refresh_interval : :class:`float`
        Duration of a refresh, and the mean time between two.
    write_recovery : :class:`float`
        From the last data written to a precharge.
    write_to_read, read_to_write : :class:`float`
        What the data bus stands still when the direction changes.
    """

    name: str
    clock_mhz: float
    bytes_per_cycle: int
    banks: int
    row_bytes: int
    rcd: float
    rp: float
    ras: float
    rrd: float
    rfc: float
    refresh_interval: float
    write_recovery: float
    write_to_read: float
    read_to_write: float

    def cycles(self, nanoseconds: float) -> int:
        """A time in cycles, rounded up."""
        return math.ceil(nanoseconds * self.clock_mhz / 1000 - 1e-9)


_TIMES = ("rcd", "rp", "ras", "rrd", "rfc", "write_recovery", "write_to_read", "read_to_write")

PARTS = {
    # DDR3-1600 of 2 Gbit, 16 bits wide (Micron MT41J128M16, speed grade -125, CL 11): 1600 MT/s * 2 bytes are
    # 16 bytes in a cycle of 200 MHz. tRCD = tRP = 13.75 ns, tRAS 35 ns, tRRD and tWTR 7.5 ns, tWR 15 ns,
    # tRFC 160 ns, tREFI 7.8 us; pages of 2 KiB, 8 banks. A write's data follows a read's after CL - CWL + 2
    # clocks of 800 MHz, a read's a write's after tWTR and CL.
    "ddr3-1600": Dram(
        name="DDR3-1600 x16, 2 Gbit (MT41J128M16-125)",
        clock_mhz=200,
        bytes_per_cycle=16,
        banks=8,
        row_bytes=2048,
        rcd=13.75,
        rp=13.75,
        ras=35,
        rrd=7.5,
        rfc=160,
        refresh_interval=7800,
        write_recovery=15,
        write_to_read=7.5 + 13.75,
        read_to_write=6.25,
    ),
}
"""Known parts by a short name."""


def settings_of(dram: "Dram | str") -> dict[str, int]:
    """Words of the control file for a DRAM, a known part's name, or ``""`` for none.

    Raises
    ------
    ValueError
        If the name is unknown, or banks and rows are not powers of two.
    """
    if dram == "":
        return {"dram_banks": 0}
    if isinstance(dram, str):
        if dram not in PARTS:
            raise ValueError(f"DRAM must be one of {', '.join(PARTS)}, not {dram!r}")
        dram = PARTS[dram]
    for name in ("banks", "row_bytes"):
        value = getattr(dram, name)
        if value < 1 or value & (value - 1):
            raise ValueError(f"{name} of a DRAM must be a power of two, not {value!r}")
    return {
        "dram_banks": dram.banks,
        "dram_row_bytes": dram.row_bytes,
        # The last refresh that is due is made up for: an interval is never rounded up.
        "dram_refresh_interval": max(1, math.floor(dram.refresh_interval * dram.clock_mhz / 1000)),
        **{f"dram_{name}": dram.cycles(getattr(dram, name)) for name in _TIMES},
    }
