# SPDX-License-Identifier: Apache-2.0
"""One RTLIL module for each distinct block of a design.

Amaranth's own conversion emits a module for each instance, with ports made from the nets that happen to cross
its edge: 256 processing elements become 256 modules that differ in names and at the rim of the array in their
ports. Here every fragment of the hierarchy is converted alone, with the ports of its signature, so that equal
blocks give equal text; equal texts are then one module.

This page uses parts of Amaranth that carry no promise of stability; the package's version is pinned for that.
"""

import inspect
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Instance, Module, Signal, Value, _ast, _ir, _mem, _nir
from amaranth.lib import wiring

__all__ = ["MergedDesign", "convert_merged"]

_DIRECTIONS = {"input": _ir.PortDirection.Input, "output": _ir.PortDirection.Output}
_INIT = re.compile(r"^ *attribute \\init [^\n]*\n", re.MULTILINE)
_NUMBER = re.compile(r"\$\d+$")
_WIRE = re.compile(r"^ *wire .*\\(\S+)$", re.MULTILINE)
_CELL = re.compile(r"^( *cell \\\S+ \\)(\S+)$", re.MULTILINE)
# Not the port of a cell that something is connected to, and not a cell: names of those are others.
_NAME = re.compile(r"^( +connect \\\S+| +cell .*)|\\(\S+\$\d+)(?=\s)", re.MULTILINE)


@dataclass(frozen=True)
class MergedDesign:
    """RTLIL of a design, one module for each distinct block.

    ``modules`` maps each module's name to the number of its instances in the whole design, ``sources`` to
    the class that it was made from: name and file, and on a second line the class's summary if it has one.
    """

    text: str
    modules: Mapping[str, int]
    sources: Mapping[str, str]
    memories: int

    @property
    def instances(self) -> int:
        """Number of blocks in the hierarchy, that is the number of modules without merging."""
        return sum(self.modules.values())


@dataclass
class _Block:
    """What is known of one distinct module: its class name and body, the children in it, its source."""

    label: str
    body: str
    children: dict[int, int]
    source: str


def _snake(name: str) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").lower() or "block"


def _source(origin: type) -> str:
    """Name of a class, its file from the root of its package, and the first line of its docstring."""
    summary = (inspect.getdoc(origin) or "").partition("\n")[0]
    file = origin.__module__.replace(".", "/") + ".py"
    return f"{origin.__qualname__}, {file}\n{summary}".strip()


def _statement_targets(statements: Iterable[Any], into: _ast.SignalDict) -> None:
    for statement in statements:
        if isinstance(statement, _ast.Assign):
            _value_targets(statement.lhs, into)
        elif isinstance(statement, _ast.Switch):
            for _patterns, inner, _src_loc in statement.cases:
                _statement_targets(inner, into)


def _value_targets(value: Value, into: _ast.SignalDict) -> None:
    """Adds the signals that an assignment to ``value`` drives."""
    if isinstance(value, Signal):
        into[value] = None
    elif isinstance(value, _ast.Slice | _ast.Part):
        _value_targets(value.value, into)
    elif isinstance(value, _ast.Concat):
        for part in value.parts:
            _value_targets(part, into)
    elif isinstance(value, _ast.SwitchValue):
        for _patterns, element in value.cases:
            _value_targets(element, into)
    elif isinstance(value, _ast.Operator):  # as_signed, as_unsigned
        for operand in value.operands:
            _value_targets(operand, into)


def _claimed(base: str, used: set[str], mark: str = "$") -> str:
    """The name itself, or with the first number with which it is not used yet; it is used from now on."""
    numbers = itertools.count(1)
    name = base
    while name in used:
        name = f"{base}{mark}{next(numbers)}"
    used.add(name)
    return name


def _renumbered(body: str, ports: Collection[str]) -> str:
    """A module in which what has the same name is told apart by its order, and not by how many names come
    before it: one more signal changes no other name.

    A block inside that has the name of a signal gets another one that no tool wants escaped.
    """
    wires, cells = _WIRE.findall(body), [name for _, name in _CELL.findall(body)]
    used = {*ports, *(name for name in wires + cells if not _NUMBER.search(name))}
    signals = {name: _claimed(_NUMBER.sub("", name), used) for name in wires if name not in used}
    blocks = {name: _claimed(_NUMBER.sub("_block", name), used, "_") for name in cells if name not in used}

    def renamed(match: re.Match[str]) -> str:
        return match[0] if match[1] else "\\" + signals.get(match[2], match[2])

    body = _NAME.sub(renamed, body)
    return _CELL.sub(lambda match: match[1] + blocks.get(match[2], match[2]), body)


class _Splitter:
    """Converts the fragments of a design from the leaves up."""

    def __init__(self, design: _ir.Design):
        self._info = design.fragments
        self._blocks: list[_Block] = []
        self._by_text: dict[tuple[str, str], int] = {}

    def split(self, fragment: _ir.Fragment, name: str, ports: list[tuple[str, Signal, str]]) -> int:
        """Converts a fragment and what is below it, and returns the number of its block."""
        shell = _ir.Fragment(src_loc=fragment.src_loc)
        shell.statements = fragment.statements
        shell.domains = fragment.domains
        shell.attrs = fragment.attrs
        children: dict[int, int] = {}
        for child, child_name, src_loc in fragment.subfragments:
            if type(child) is _ir.Fragment:
                child_ports = self._ports_of(child, fragment)
                number = self.split(child, child_name or "block", child_ports)
                children[number] = children.get(number, 0) + 1
                child = Instance(
                    f"@{number}@", *((direction[0], port, signal) for port, signal, direction in child_ports)
                )
            shell.add_subfragment(child, child_name, src_loc=src_loc)
        design = _ir.Design(
            shell,
            [(port, signal, _DIRECTIONS[direction]) for port, signal, direction in ports],
            hierarchy=("@@",),
        )
        body, _ = rtlil.convert_fragment(design, name="@@", emit_src=False)
        body = _renumbered(body, {port for port, *_ in ports})
        origin = self._origin(fragment)
        label = _snake(name if origin is None else origin.__name__)
        return self._intern(_Block(label, body, children, "" if origin is None else _source(origin)))

    def _intern(self, block: _Block) -> int:
        key = (block.label, block.body)
        if key not in self._by_text:
            self._by_text[key] = len(self._blocks)
            self._blocks.append(block)
        return self._by_text[key]

    def _origin(self, fragment: _ir.Fragment) -> type | None:
        """The class that the fragment was elaborated from; None if it is a bare module."""
        for origin in reversed(fragment.origins or ()):
            if not isinstance(origin, Module):
                return type(origin)
        return None

    def _drives(self, fragment: _ir.Fragment) -> _ast.SignalDict:
        """The signals driven in a fragment or below it."""
        driven = _ast.SignalDict()
        if isinstance(fragment, Instance):
            for value, kind in fragment.ports.values():
                if kind == "o":
                    _value_targets(value, driven)
        elif isinstance(fragment, _mem.MemoryInstance):
            for port in fragment._read_ports:
                _value_targets(port._data, driven)
        else:
            for statements in fragment.statements.values():
                _statement_targets(statements, driven)
            for child, _name, _src_loc in fragment.subfragments:
                driven.update(self._drives(child))
        return driven

    def _ports_of(self, fragment: _ir.Fragment, parent: _ir.Fragment) -> list[tuple[str, Signal, str]]:
        """Signature first, then what else crosses the edge: clock, reset, signals shared by other means."""
        inside, outside = self._info[fragment].used_signals, self._info[parent].used_signals
        driven = self._drives(fragment)
        ports: list[tuple[str, Signal, str]] = []
        seen = _ast.SignalDict()
        used_names = set()
        for path, member, signal in self._signature_of(fragment):
            if signal in seen or len(signal) == 0:
                continue
            seen[signal] = None
            used_names.add(path)
            direction = "input" if member.flow == wiring.In else "output"
            if signal in driven:
                direction = "output"
            ports.append((path, signal, direction))
        for signal in inside:
            if signal not in outside or signal in seen or len(signal) == 0:
                continue
            seen[signal] = None
            known = self._info[fragment].signal_names.get(signal, signal.name) or "private"
            name = _claimed(_NUMBER.sub("", known), used_names)
            ports.append((name, signal, "output" if signal in driven else "input"))
        return ports

    def _signature_of(self, fragment: _ir.Fragment) -> Iterable[tuple[str, wiring.Member, Signal]]:
        for origin in reversed(fragment.origins or ()):
            if isinstance(origin, wiring.Component):
                for path, member, value in origin.signature.flatten(origin):
                    signal = Value.cast(value)
                    if isinstance(signal, Signal):
                        yield "__".join(map(str, path)), member, signal
                return

    def link(self, top: int, name: str) -> MergedDesign:
        """Names the blocks and joins their texts, the outermost first."""
        order: list[int] = []
        counts: dict[int, int] = {top: 1}
        for number in range(top, -1, -1):  # A block's number is above its children's.
            order.append(number)
            for child, times in self._blocks[number].children.items():
                counts[child] = counts.get(child, 0) + counts[number] * times
        labels: dict[str, list[int]] = {}
        for number in order[1:]:
            labels.setdefault(self._blocks[number].label, []).append(number)
        names = {top: name}
        for label, numbers in labels.items():
            for variant, number in enumerate(reversed(numbers)):
                names[number] = f"{name}_{label}" if len(numbers) == 1 else f"{name}_{label}_v{variant}"
        texts = []
        for number in order:
            body = self._blocks[number].body
            if number != top:
                body = body.replace("attribute \\top 1\n", "", 1)
            body = body.replace("module \\@@\n", f"module \\{names[number]}\n", 1)
            texts.append(re.sub(r"\\@(\d+)@", lambda match: "\\" + names[int(match[1])], body))
        text = "".join(texts)
        return MergedDesign(
            text=_INIT.sub("", text),
            modules={names[number]: counts[number] for number in order},
            sources={names[number]: self._blocks[number].source for number in order},
            memories=len(re.findall(r"^ *cell \$memwr", text, re.MULTILINE)),
        )


def convert_merged(
    elaboratable: Elaboratable, name: str, ports: Mapping[str, tuple[Signal, str]], platform: Any
) -> MergedDesign:
    """Converts a design to RTLIL in which equal blocks are one module.

    Registers carry no initial values. The outermost module is called ``name``, every other one
    ``<name>_<class in snake case>``, with a number where a class gives several distinct modules.

    Parameters
    ----------
    elaboratable : :class:`~amaranth.hdl.Elaboratable`
        The design. It defines its clock domains.
    name : :class:`str`
        Name of the outermost module.
    ports : mapping of :class:`str` to (:class:`~amaranth.hdl.Signal`, ``"input"`` or ``"output"``)
        Ports of the outermost module.
    platform : object
        Passed to each ``elaborate``.

    Raises
    ------
    CombinationalCycle
        If logic without a register feeds itself, be it through several blocks.
    """
    fragment = _ir.Fragment.get(elaboratable, platform)
    listed = [(port, signal, direction) for port, (signal, direction) in ports.items()]
    prepared = [(port, signal, _DIRECTIONS[direction]) for port, signal, direction in listed]
    design = fragment.prepare(ports=prepared, hierarchy=(name,))
    # Loops and conflicts that run through several blocks show in the whole only.
    netlist = _nir.Netlist()
    _ir._emit_netlist(netlist, design)
    netlist.check_comb_cycles()
    splitter = _Splitter(design)
    return splitter.link(splitter.split(design.fragment, name, listed), name)
