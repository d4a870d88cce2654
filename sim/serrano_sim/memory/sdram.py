# SPDX-License-Identifier: Apache-2.0
"""A behavioural SDRAM that checks every rule of its data sheet: the model of ``sdram.h``, from Python."""

import ctypes
import fcntl
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from serrano.boards.description import SdramPart

from ..runner import SimulationError, build_root

__all__ = ["Sdram", "part_fields"]

_FOLDER = Path(__file__).parent
_TIMES = ("rcd", "rp", "ras", "rc", "rrd", "rfc", "wr", "refi", "init")
_COUNTS = (
    "wr_cycles",
    "mrd_cycles",
    "postponed_max",
    "init_refreshes",
    "data_bits",
    "bank_bits",
    "row_bits",
    "column_bits",
)
STATISTICS = ("cycles", "reads", "writes", "activates", "refreshes", "driven")
CONTROL = ("clk_en", "cs", "ras", "cas", "we", "dq_oe")


class _Part(ctypes.Structure):
    """``SdramPart`` of ``sdram.h``."""

    _fields_ = (
        [("period", ctypes.c_int64)]
        + [(name, ctypes.c_int64) for name in _TIMES]
        + [(name, ctypes.c_int32) for name in _COUNTS]
        + [("cas_latencies", ctypes.c_int32 * 2), ("cas_periods", ctypes.c_int64 * 2)]
    )


def part_fields(part: SdramPart, clock_hz: int) -> dict[str, int | list[int]]:
    """Fields of ``SdramPart`` of ``sdram.h``, in their order; times in picoseconds."""
    latencies = list(part.cas_latencies)[:2]
    latencies += [(0, 0.0)] * (2 - len(latencies))
    return {
        "period": round(1e12 / clock_hz),
        **{name: round(1e3 * getattr(part, f"t_{name}")) for name in _TIMES},
        **{name: getattr(part, name) for name in _COUNTS},
        "cas_latencies": [latency for latency, _ in latencies],
        "cas_periods": [round(1e3 * period) for _, period in latencies],
    }


@functools.cache
def _library() -> ctypes.CDLL:
    sources = [_FOLDER / "sdram.cpp", _FOLDER / "sdram.h"]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = build_root() / "sim"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"sdram-{key}.so"
    with (folder / f".sdram-{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = Path(work) / "sdram.so"
                command = ["g++", "-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", made]
                done = subprocess.run([*command, sources[0]], capture_output=True, text=True)
                if done.returncode:
                    raise SimulationError(f"the SDRAM's model does not compile: {done.stderr}")
                os.rename(made, library)
    loaded = ctypes.CDLL(str(library))
    handle = ctypes.c_void_p
    loaded.sdram_new.restype, loaded.sdram_new.argtypes = handle, [ctypes.POINTER(_Part)]
    for name, result in (
        ("delete", None),
        ("memory", ctypes.POINTER(ctypes.c_uint8)),
        ("size", ctypes.c_uint64),
        ("violations", ctypes.c_uint64),
        ("first", ctypes.c_char_p),
        ("dq", ctypes.c_uint32),
    ):
        function = getattr(loaded, f"sdram_{name}")
        function.restype, function.argtypes = result, [handle]
    loaded.sdram_edge.restype = None
    loaded.sdram_edge.argtypes = [handle] + 5 * [ctypes.c_uint32]
    loaded.sdram_statistics.restype = None
    loaded.sdram_statistics.argtypes = [handle, ctypes.POINTER(ctypes.c_uint64)]
    return loaded


class Sdram:
    """An SDRAM, from power-up on.

    Parameters
    ----------
    part : :class:`~serrano.boards.description.SdramPart`
        Its geometry, and the times that are checked.
    clock_hz : int
        Its clock.
    """

    def __init__(self, part: SdramPart, clock_hz: int):
        fields = part_fields(part, clock_hz)
        values = _Part()
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(values, name)[:] = value
            else:
                setattr(values, name, value)
        self._library = _library()
        self._handle = self._library.sdram_new(ctypes.byref(values))
        size = self._library.sdram_size(self._handle)
        self.memory: np.ndarray = np.ctypeslib.as_array(self._library.sdram_memory(self._handle), (size,))
        """Its bytes, by address."""

    def edge(self, pins: Mapping[str, int]) -> int:
        """A rising edge with the pins as they were before it; what is on the data bus after it."""
        control = sum(pins[name] << place for place, name in enumerate(CONTROL))
        self._library.sdram_edge(
            self._handle, control, pins["ba"], pins["a"], pins["dqm"], pins.get("dq_o", 0)
        )
        return self._library.sdram_dq(self._handle)

    @property
    def violation(self) -> str:
        """The first violation: the rule, the cycle, what was wrong. Empty if there was none."""
        return self._library.sdram_first(self._handle).decode()

    def statistics(self) -> dict[str, int]:
        """Cycles; READ, WRITE, ACTIVE and REFRESH commands; cycles in which it drove the data bus."""
        values = (ctypes.c_uint64 * len(STATISTICS))()
        self._library.sdram_statistics(self._handle, values)
        return dict(zip(STATISTICS, values, strict=True))

    def close(self) -> None:
        """Free its memory."""
        if self._handle:
            del self.memory
            self._library.sdram_delete(self._handle)
            self._handle = None
