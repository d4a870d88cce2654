# SPDX-License-Identifier: Apache-2.0
"""Recorded operations of software block managers: docs/conformance.md has the format.

Everything about the format that can be judged without a block manager is judged here: after :func:`read`, an
operation has what it must have, of the right types, and belongs to a pool that exists. Whether its values are
right is for the replay.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BLOCKS_LIMIT", "OPERATIONS", "Malformed", "Operation", "Recording", "Script", "read"]

BLOCKS_LIMIT = 1 << 16
"""Blocks of a pool: STAT tells their numbers in 16 bits."""

IDS_LIMIT = 1 << 32

OPERATIONS = ("INIT", "ALLOC", "SHARE", "SEAL", "FREE", "RESET")


class Malformed(Exception):
    """A file that is no recording; the message names the line and what is wrong with it."""


@dataclass(frozen=True)
class Operation:
    """One recorded operation. What the recording does not speak of is ``None``."""

    number: int
    """Its place among the operations of its test, from 0."""
    op: str
    count: int = 0
    """INIT: blocks of the pool, NULL included. ALLOC: blocks wanted."""
    blocks: tuple[tuple[int, ...], ...] = ()
    """SHARE, SEAL, FREE: the blocks; for SHARE one list per group, else one list."""
    returned: tuple[int, ...] | None = None
    """ALLOC: the blocks it gave."""
    refused: bool = False
    """ALLOC: it gave none though some were wanted."""
    ok: bool | None = None
    """RESET: whether it was done."""
    free: tuple[int, ...] | None = None
    """Blocks on the free list, head first."""
    free_count: int | None = None
    """Number of them."""
    references: tuple[int, ...] | None = None
    """Count of each block; that of block 0 has no meaning."""
    cached: tuple[bool, ...] | None = None
    """Whether each block may be shared; likewise."""


@dataclass(frozen=True)
class Script:
    """The operations of one pool of a test, from its INIT on, in order."""

    test: str
    line: int
    pool: int
    operations: tuple[Operation, ...]

    @property
    def renamed(self) -> bool:
        """Whether blocks are the recorded ones up to their names only."""
        counted = any(operation.free_count is not None for operation in self.operations)
        return counted and all(operation.free is None for operation in self.operations)

    @property
    def size(self) -> int:
        """The largest of the script's pools, in blocks."""
        return max(operation.count for operation in self.operations if operation.op == "INIT")


@dataclass(frozen=True)
class Recording:
    """A file's contents. Pools have nothing to do with each other: each is a script of its own."""

    file: Path
    tests: int
    scripts: tuple[Script, ...]

    @property
    def operations(self) -> int:
        return sum(len(script.operations) for script in self.scripts)


def read(file: Path | str) -> Recording:
    """Reads a recording.

    Raises
    ------
    Malformed
        If it cannot be read, or is no recording.
    """
    file = Path(file)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise Malformed(f"{file}: {error.strerror or error}") from error
    scripts: list[Script] = []
    tests = 0
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip():
            try:
                scripts += _scripts(_parse(line), number)
            except Malformed as error:
                raise Malformed(f"{file}, line {number}: {error}") from error
            tests += 1
    if not scripts:
        raise Malformed(f"{file}: there is no operation in it")
    return Recording(file, tests, tuple(scripts))


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise Malformed(f"not JSON that can be read: {error}") from error
    except RecursionError as error:
        raise Malformed("not JSON that can be read: nested too deeply") from error


def _scripts(test: Any, line: int) -> Iterator[Script]:
    if not isinstance(test, dict):
        raise Malformed(f"a test must be an object with test and ops, not {_shown(test)}")
    name, recorded = test.get("test"), test.get("ops")
    if not isinstance(name, str):
        raise Malformed(f"test must be the test's name, not {_shown(name)}")
    if not isinstance(recorded, list):
        raise Malformed(f"ops must be a list of operations, not {_shown(recorded)}")
    pools: dict[int, list[Operation]] = {}
    for number, fields in enumerate(recorded):
        where = f"ops[{number}]"
        if not isinstance(fields, dict):
            raise Malformed(f"{where} must be an object, not {_shown(fields)}")
        if fields.get("op") not in OPERATIONS:
            raise Malformed(
                f"{where}: op must be one of {', '.join(OPERATIONS)}, not {_shown(fields.get('op'))}"
            )
        reader = _Reader(fields, f"{where} ({fields['op']})")
        pool = reader.number("pool", 0, default=0)
        operation = reader.operation(number)
        if operation.op == "INIT":
            pools.setdefault(pool, [])
        elif pool not in pools:
            raise Malformed(f"{where} ({operation.op}): there was no INIT of pool {pool}")
        pools[pool].append(operation)
    for pool, operations in pools.items():
        yield Script(name, line, pool, tuple(operations))


def _shown(value: Any) -> str:
    """A value for a message."""
    if value is None:
        return "null, or missing"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


@dataclass(frozen=True)
class _Reader:
    """Takes an operation's fields out of what stands in the file."""

    fields: dict[str, Any]
    where: str

    def operation(self, number: int) -> Operation:
        op, fields = self.fields["op"], self.fields
        kept: dict[str, Any] = {
            "free": self.ids("free", fields["free"]) if fields.get("free") is not None else None,
            "free_count": self.number("nfree", 0, default=None),
            "references": self.counts("ref"),
            "cached": self.flags("cached"),
        }
        if op == "INIT":
            kept["count"] = self.number("n", 1, BLOCKS_LIMIT + 1)
        elif op == "ALLOC":
            kept["count"] = self.number("n", 0)
            kept["returned"], kept["refused"] = self.returned(kept["count"])
        elif op == "RESET":
            kept["ok"] = self.flag("ok")
        else:
            kept["blocks"] = self.groups() if op == "SHARE" else (self.listed(),)
        return Operation(number, op, **kept)

    def fail(self, name: str, wanted: str) -> Malformed:
        return Malformed(f"{self.where}: {name} must be {wanted}, not {_shown(self.fields.get(name))}")

    def number(self, name: str, low: int, high: int = IDS_LIMIT, **default: int | None) -> int | None:
        value = self.fields.get(name)
        if value is None and default:
            return default["default"]
        if not _is_number(value, low, high):
            raise self.fail(name, f"a number from {low} to {high - 1}")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.fields.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.fail(name, "true or false")

    def ids(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not all(_is_number(item, 0, IDS_LIMIT) for item in value):
            raise self.fail(name, "a list of block numbers")
        return tuple(value)

    def counts(self, name: str) -> tuple[int, ...] | None:
        value = self.fields.get(name)
        if value is None:
            return None
        # That of block 0 may be anything, below 0 too.
        if isinstance(value, list) and all(_is_number(item, 0, IDS_LIMIT) for item in value[1:]):
            return tuple(value)
        raise self.fail(name, "a list with the count of each block")

    def flags(self, name: str) -> tuple[bool, ...] | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, list) and all(item in (0, 1) for item in value[1:]):
            return tuple(bool(item) for item in value)
        raise self.fail(name, "a list with true or false for each block")

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Lists of blocks; one list is taken for one group."""
        value = self.fields.get("blk")
        if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
            return tuple(self.ids("blk", item) for item in value)
        return (self.ids("blk", value),)

    def listed(self) -> tuple[int, ...]:
        """A list of blocks; several lists are taken for one."""
        return tuple(number for group in self.groups() for number in group)

    def returned(self, count: int) -> tuple[tuple[int, ...] | None, bool]:
        """What ALLOC gave, and whether it was refused: there are several ways to write that down."""
        value = self.fields.get("ret")
        done = self.flag("ok")
        if done is False:
            return None, True
        if isinstance(value, list) and value:
            return self.ids("ret", value), False
        if count == 0 and value in (None, []):
            return (), False
        if done:
            # Done, but nobody wrote down what it gave.
            if value is None and not _told(self.fields):
                return None, False
            raise self.fail("ret", "what was given, as ok is true")
        if value is None or value is False or value == [] or isinstance(value, str):
            return None, True
        raise self.fail("ret", "a list of block numbers, or null if it was refused")


def _told(fields: Mapping[str, Any]) -> bool:
    """Whether an operation says that it failed."""
    return any(fields.get(name) is not None for name in ("error", "err", "exception"))
