# SPDX-License-Identifier: Apache-2.0
"""Python's side of the behavioural memory and of the trace sink.

Both sides map the same files, so nothing here calls into the simulation: a handle may be made in the process
that runs the tests, in the one that starts it, before the run, during it and after it.
"""

import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .dram import Dram, settings_of

__all__ = ["CPP_SOURCES", "VERILOG_SOURCES", "AxiMemory", "ErrorBurst", "Trace", "violations_in"]

_FOLDER = Path(__file__).parent
VERILOG_SOURCES = (_FOLDER / "axi_memory.sv", _FOLDER / "trace_sink.sv")
CPP_SOURCES = (_FOLDER / "axi_memory.cpp", _FOLDER / "trace_sink.cpp")

_MAGIC = 0x314D454D41525253
_VERSION = 3
_TRACE_MAGIC = 0x3145434152545253
_RULES = 8
_RESPONSES = {"SLVERR": 2, "DECERR": 3}
_WRITE = 4
_KINDS = {"read": 1, "write": 2, "both": 3}
_CHANNELS = ("ar", "r", "aw", "w", "b")
_STATISTICS = (
    "cycles",
    "reads",
    "writes",
    "read_beats_done",
    "write_beats_done",
    "read_blocked",
    "write_blocked",
    "read_idle",
    "ar_waits",
    "aw_waits",
    "reads_outstanding_peak",
    "writes_outstanding_peak",
    "error_responses",
    "dram_row_hits",
    "dram_row_misses",
    "dram_refreshes",
    "dram_turnarounds",
)
_VIOLATIONS = {
    1: "ARVALID fell or the read address changed before ARREADY",
    2: "AWVALID fell or the write address changed before AWREADY",
    3: "WVALID fell or the write data changed before WREADY",
    4: "a burst crosses a boundary of 4 KiB",
    5: "a burst is not of type INCR",
    6: "a beat is wider than the data bus",
    7: "WLAST before the last beat of a burst",
    8: "no WLAST on the last beat of a burst",
    9: "WSTRB outside the byte lanes of the beat",
    10: "a valid signal is high during reset",
}


def _layout() -> np.dtype:
    """The control file's words, from the same list that the model includes."""
    fields = []
    for kind, name, count in re.findall(
        r"^(FIELD|ARRAY)\((\w+)(?:, (\d+))?\)$", (_FOLDER / "control.def").read_text(), re.MULTILINE
    ):
        fields.append((name, "<u8") if kind == "FIELD" else (name, "<u8", (int(count),)))
    return np.dtype(fields)


_LAYOUT = _layout()


def _map(path: Path, size: int) -> np.ndarray:
    """A file as bytes, made or extended where needed; what is not written takes no space on disk."""
    with path.open("a+b") as file:
        if os.fstat(file.fileno()).st_size < size:
            os.truncate(file.fileno(), size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=np.uint8)


def _range(low: int, high: int) -> tuple[int, int]:
    if not 0 <= low < high:
        raise ValueError(f"Address range must be low < high, both not negative, not {low:#x} to {high:#x}")
    return low, high


@dataclass(frozen=True)
class ErrorBurst:
    """A burst that was answered with an error.

    Parameters
    ----------
    cycle : :class:`int`
        When the answer was first driven.
    address : :class:`int`
        Where the burst begins.
    write : :class:`bool`
        Whether it was a write.
    response : :class:`str`
        ``"SLVERR"`` or ``"DECERR"``.
    """

    cycle: int
    address: int
    write: bool
    response: str


class AxiMemory:
    """Contents, settings, statistics and violations of one behavioural memory.

    The SystemVerilog module ``axi_memory`` with the parameter ``NAME`` and every handle of the same name and
    folder share them. Settings take effect in the next clock cycle.

    Parameters
    ----------
    name : :class:`str`
        Parameter ``NAME`` of the module.
    folder : path
        Folder of the run, which is the current one inside a test.
    size : :class:`int`
        Size in bytes where the memory is new, a multiple of 4 KiB. Accesses beyond it get DECERR.
    **settings
        As for :meth:`configure`.

    Raises
    ------
    ValueError
        If the files are not of this version, or a setting is out of range.
    """

    def __init__(
        self, name: str = "memory", *, folder: Path | str = ".", size: int = 64 << 20, **settings: Any
    ):
        if size < 4096 or size % 4096:
            raise ValueError(f"Size must be a positive multiple of 4096 bytes, not {size!r}")
        self.name = name
        path = Path(folder)
        control = _map(path / f"{name}.ctl", _LAYOUT.itemsize)
        self._words = control[: _LAYOUT.itemsize].view(_LAYOUT)
        if self._get("magic") == 0:
            self._set(magic=_MAGIC, version=_VERSION, size=size)
            self.configure(read_latency=1, write_latency=1, max_reads=16, max_writes=16, stall=0.0)
        if self._get("magic") != _MAGIC or self._get("version") != _VERSION:
            raise ValueError(f"{path / name}.ctl is not a control file of version {_VERSION}")
        self.size = self._get("size")
        self.contents = _map(path / f"{name}.bin", self.size)
        self.configure(**settings)

    def _get(self, name: str) -> int:
        return int(self._words[name][0])

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            self._words[name][0] = value

    # Contents

    def _check(self, address: int, count: int) -> None:
        if address < 0 or count < 0 or address + count > self.size:
            raise ValueError(
                f"Bytes {address:#x} to {address + count:#x} are not in a memory of {self.size:#x} bytes"
            )

    def read(self, address: int, count: int) -> bytes:
        """Bytes from an address on."""
        self._check(address, count)
        return self.contents[address : address + count].tobytes()

    def write(self, address: int, data: bytes | np.ndarray) -> None:
        """Puts bytes, or an array's bytes, at an address."""
        flat = np.frombuffer(
            np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else data, np.uint8
        )
        self._check(address, len(flat))
        self.contents[address : address + len(flat)] = flat

    def load(self, path: Path | str, address: int = 0) -> int:
        """Puts a file's bytes at an address and returns their number."""
        data = Path(path).read_bytes()
        self.write(address, data)
        return len(data)

    def array(self, address: int, dtype: Any, shape: int | tuple[int, ...]) -> np.ndarray:
        """A live view of the contents: it shows what the simulation writes, and writing to it is a write."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._check(address, count)
        return self.contents[address : address + count].view(dtype).reshape(shape)

    # Settings

    def configure(
        self,
        *,
        read_latency: int | None = None,
        write_latency: int | None = None,
        read_bandwidth: tuple[int, int] | None = None,
        write_bandwidth: tuple[int, int] | None = None,
        shared_port: bool | None = None,
        max_reads: int | None = None,
        max_writes: int | None = None,
        stall: float | Mapping[str, float] | None = None,
        seed: int | None = None,
        alarm_period: int | None = None,
        dram: Dram | str | None = None,
    ) -> None:
        """Changes the settings that are given.

        Parameters
        ----------
        read_latency : :class:`int`
            Cycles from a read address to its first beat of data, at least 1.
        write_latency : :class:`int`
            Cycles from the last beat of a write to its response, at least 1. The write takes effect then.
        read_bandwidth, write_bandwidth : (:class:`int`, :class:`int`)
            Most beats in so many cycles; ``(0, 0)`` for no limit.
        shared_port : :class:`bool`
            Whether reads and writes share ``read_bandwidth``.
        max_reads, max_writes : :class:`int`
            Most bursts accepted and not finished.
        stall : :class:`float` or mapping
            Probability that a channel does nothing in a cycle: one for all five channels, or by name
            (``ar``, ``r``, ``aw``, ``w``, ``b``), others unchanged.
        seed : :class:`int`
            Starts the random stalls anew.
        alarm_period : :class:`int`
            Cycles between two changes of ``alarm_toggle``; 0 for never.
        dram : :class:`~serrano_sim.memory.dram.Dram` or :class:`str`
            Behave like this DRAM, or the one of this name; ``""`` for a memory without rows. The latencies
            are then those on the way to it and back.

        Raises
        ------
        ValueError
            If a value is out of range.
        """
        at_least_one = {
            "read_latency": read_latency,
            "write_latency": write_latency,
            "max_reads": max_reads,
            "max_writes": max_writes,
        }
        for name, value in at_least_one.items():
            if value is not None:
                if value < 1:
                    raise ValueError(f"{name} must be at least 1, not {value!r}")
                self._set(**{name: value})
        for kind, limit in (("read", read_bandwidth), ("write", write_bandwidth)):
            if limit is not None:
                if len(limit) != 2 or min(limit) < 0 or (limit[0] == 0) != (limit[1] == 0):
                    raise ValueError(f"{kind}_bandwidth must be (beats, cycles) or (0, 0), not {limit!r}")
                self._set(**{f"{kind}_beats": limit[0], f"{kind}_window": limit[1]})
        if shared_port is not None:
            self._set(shared_port=int(shared_port))
        if stall is not None:
            self._set_stalls(
                dict.fromkeys(_CHANNELS, stall) if isinstance(stall, int | float) else dict(stall)
            )
        if seed is not None:
            self._set(seed=seed % 2**64, seed_epoch=self._get("seed_epoch") + 1)
        if alarm_period is not None:
            self._set(alarm_period=alarm_period)
        if dram is not None:
            self._set(**settings_of(dram))

    def _set_stalls(self, stalls: dict[str, float]) -> None:
        for channel, probability in stalls.items():
            if channel not in _CHANNELS:
                raise ValueError(f"Channel must be one of {', '.join(_CHANNELS)}, not {channel!r}")
            if not 0 <= probability < 1:
                raise ValueError(f"Stall probability must be in [0, 1), not {probability!r}")
            self._set(**{f"stall_{channel}": round(probability * 2**32)})

    def _free(self, field: str) -> int:
        for number in range(_RULES):
            if not self._words[field][0, number]:
                return number
        raise ValueError(f"All {_RULES} entries of {field.partition('_')[0]} are in use")

    def inject_error(
        self,
        response: str,
        *,
        on: str = "both",
        low: int = 0,
        high: int = 2**63,
        after: int = 0,
        limit: int = 1,
        chance: float = 1.0,
    ) -> int:
        """Answers bursts that touch a range with an error; such a write is not stored. Returns the rule's
        number.

        Parameters
        ----------
        response : :class:`str`
            ``"SLVERR"`` or ``"DECERR"``.
        on : :class:`str`
            ``"read"``, ``"write"`` or ``"both"``.
        low, high : :class:`int`
            The range, ``high`` excluded. Of a read, only the beats in it carry the response.
        after : :class:`int`
            How many matching bursts pass first.
        limit : :class:`int`
            How many bursts then get the response; 0 for all.
        chance : :class:`float`
            Probability with which each of them does, above 0; the seed is that of the stalls.
        """
        if response not in _RESPONSES:
            raise ValueError(f"Response must be SLVERR or DECERR, not {response!r}")
        if on not in _KINDS:
            raise ValueError(f"Kind must be read, write or both, not {on!r}")
        if not 0 < chance <= 1:
            raise ValueError(f"Chance must be above 0 and at most 1, not {chance!r}")
        low, high = _range(low, high)
        number = self._free("fault_kind")
        values = {
            "response": _RESPONSES[response],
            "low": low,
            "high": high,
            "after": after,
            "limit": limit,
            "chance": 0 if chance == 1 else max(1, round(chance * 2**32)),
            "seen": 0,
            "hits": 0,
            "kind": _KINDS[on],
        }
        for name, value in values.items():
            self._words[f"fault_{name}"][0, number] = value
        return number

    def error_hits(self, number: int) -> int:
        """How many bursts a rule of :meth:`inject_error` has answered."""
        return int(self._words["fault_hits"][0, number])

    def errors(self) -> list[ErrorBurst]:
        """The bursts answered with an error so far, in the order of the answers; the first 1024 of them."""
        names, words = {number: name for name, number in _RESPONSES.items()}, self._words
        count = min(self._get("error_bursts"), words["error_cycle"].shape[1])
        return [
            ErrorBurst(
                cycle=int(words["error_cycle"][0, i]),
                address=int(words["error_address"][0, i]),
                write=bool(words["error_what"][0, i] & _WRITE),
                response=names[int(words["error_what"][0, i]) & 3],
            )
            for i in range(count)
        ]

    def clear_errors(self) -> None:
        """Removes all rules of :meth:`inject_error`."""
        self._words["fault_kind"][0] = 0

    def watch(self, low: int, high: int) -> int:
        """Lets ``event_toggle`` change with each write that takes effect in a range; returns its number."""
        low, high = _range(low, high)
        number = self._free("watch_high")
        self._words["watch_hits"][0, number] = 0
        self._words["watch_low"][0, number] = low
        self._words["watch_high"][0, number] = high
        return number

    def watch_hits(self, number: int) -> int:
        """Beats written so far in a watched range."""
        return int(self._words["watch_hits"][0, number])

    def clear_watches(self) -> None:
        """Removes all ranges of :meth:`watch`."""
        self._words["watch_high"][0] = 0

    def region(self, low: int, high: int) -> int:
        """Counts the beats of a range apart; returns its number."""
        low, high = _range(low, high)
        number = self._free("region_high")
        self._words["region_read_beats"][0, number] = 0
        self._words["region_write_beats"][0, number] = 0
        self._words["region_low"][0, number] = low
        self._words["region_high"][0, number] = high
        return number

    def region_beats(self, number: int) -> tuple[int, int]:
        """Beats read and written so far in a region."""
        words = self._words
        return int(words["region_read_beats"][0, number]), int(words["region_write_beats"][0, number])

    # Observation

    @property
    def cycles(self) -> int:
        """Clock cycles without reset so far."""
        return self._get("cycles")

    def statistics(self) -> dict[str, int]:
        """All counters by name.

        ``read_blocked`` and ``write_blocked`` are cycles in which a valid beat was not taken (by the manager,
        by the memory), ``read_idle`` cycles without a beat of read data, ``ar_waits`` and ``aw_waits`` cycles
        in which an address waited.
        """
        return {name: self._get(name) for name in _STATISTICS}

    def reset_statistics(self) -> None:
        """Sets all counters but ``cycles`` to 0."""
        self._set(**{name: 0 for name in _STATISTICS if name != "cycles"})
        self._words["region_read_beats"][0] = 0
        self._words["region_write_beats"][0] = 0

    def violations(self) -> list[str]:
        """What the manager did against the protocol, the first 32 in full."""
        count = self._get("violations")
        words = self._words
        found = [
            f"{self.name}: cycle {int(words['violation_cycle'][0, i])}, address"
            f" {int(words['violation_address'][0, i]):#x}: {_VIOLATIONS[int(words['violation_code'][0, i])]}"
            for i in range(min(count, 32))
        ]
        if count > len(found):
            found.append(f"{self.name}: and {count - len(found)} more violations")
        return found

    def expect_violations(self, count: int) -> None:
        """Says how many violations a bench provokes; any other number of them fails the run."""
        self._set(violations_expected=count)

    def unexpected_violations(self) -> list[str]:
        """Violations, unless there are just as many as were expected."""
        expected = self._get("violations_expected")
        if self._get("violations") == expected:
            return []
        return self.violations() or [f"{self.name}: {expected} violations were expected, there are none"]


def violations_in(folder: Path | str) -> list[str]:
    """Unexpected violations of every memory that ran in a folder."""
    found = []
    for file in sorted(Path(folder).glob("*.ctl")):
        found += AxiMemory(file.stem, folder=folder).unexpected_violations()
    return found


@dataclass(frozen=True)
class Trace:
    """What a trace sink recorded: each beat's cycle, and the payloads as rows of bytes, little endian."""

    width: int
    cycles: np.ndarray
    payloads: np.ndarray

    @classmethod
    def read(cls, name: str = "trace", *, folder: Path | str = ".") -> "Trace":
        """Reads a recording, also while it is being made.

        Raises
        ------
        ValueError
            If the file is not a recording.
        """
        path = Path(folder) / f"{name}.trace"
        raw = np.fromfile(path, dtype=np.uint8)
        if len(raw) < 64 or int(raw[:8].view("<u8")[0]) != _TRACE_MAGIC:
            raise ValueError(f"{path} is not a recording of a trace sink")
        width, record, count = (int(word) for word in raw[16:40].view("<u8"))
        records = raw[64 : 64 + record * count].reshape(count, record)
        return cls(
            width, records[:, :8].copy().view("<u8").reshape(count), records[:, 8 : 8 + (width + 7) // 8]
        )

    def fields(self, dtype: Any) -> np.ndarray:
        """The payloads as records of a dtype, whose size is that of the payload rounded up to bytes.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        dtype = np.dtype(dtype)
        if dtype.itemsize != self.payloads.shape[1]:
            raise ValueError(f"dtype has {dtype.itemsize} bytes, the payload {self.payloads.shape[1]}")
        return np.ascontiguousarray(self.payloads).view(dtype).reshape(len(self.cycles))
