# SPDX-License-Identifier: Apache-2.0
"""What a proof is made of: a unit of the hardware, opened, with free inputs, assumptions and checks."""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import FrameType
from typing import Any

from amaranth import *
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cover, ValueCastable
from amaranth.hdl._xfrm import TransformedElaboratable
from amaranth.lib.wiring import In

from serrano.primitives.memory import OnChipMemory

__all__ = ["START", "Bench", "Unit"]

START = "formal_start"
"""Name of the register that is set in the first cycle, and keeps its initial value in every proof."""


class _Cells(Elaboratable):
    """An on-chip memory made of registers, which checks can read."""

    def __init__(self, memory: OnChipMemory):
        self.memory = memory
        self.cells = [Signal(memory.width, name=f"cell_{index}") for index in range(memory.depth)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        memory = self.memory
        old, new = Signal(memory.width), Signal(memory.width)
        read = Value.cast(memory.r_data)
        mask = Cat(memory.w_en[lane].replicate(memory.width // memory.lanes) for lane in range(memory.lanes))
        m.d.comb += [
            old.eq(Array(self.cells)[memory.w_addr]),
            new.eq((old & ~mask) | (Value.cast(memory.w_data) & mask)),
        ]
        for index, cell in enumerate(self.cells):
            with m.If(memory.w_en.any() & (memory.w_addr == index)):
                m.d.sync += cell.eq(new)
        with m.If(memory.r_en):
            m.d.sync += read.eq(Array(self.cells)[memory.r_addr])
            if memory.transparent:
                with m.If(memory.r_addr == memory.w_addr):
                    m.d.sync += read.eq(new)
        return m


class _Platform:
    """Supplies the memories; see :class:`~serrano.primitives.memory.OnChipMemory`."""

    def get_on_chip_memory(self, memory: OnChipMemory) -> _Cells:
        return _Cells(memory)


def _elaborated(component: Any, platform: Any) -> tuple[Any, dict[str, list[Any]]]:
    """A component's module, and what its methods, and functions of its package, had under local names."""
    own: dict[str, list[Any]] = {}
    others: dict[str, list[Any]] = {}
    package = type(component).__module__.rpartition(".")[0]

    def note(frame: FrameType, event: str, result: Any) -> None:
        if event != "return" or frame.f_globals.get("__name__", "").rpartition(".")[0] != package:
            return
        found = own if frame.f_locals.get("self") is component else others
        for name, value in frame.f_locals.items():
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, (Value, ValueCastable)):
                known = found.setdefault(name, [])
                if not any(value is other for other in known):
                    known.append(value)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        return component.elaborate(platform), others | own
    finally:
        sys.setprofile(before)


class Unit:
    """A component of the hardware whose inside can be seen.

    Parameters
    ----------
    component
        The component. It is elaborated here, and not to be used as a submodule itself.
    platform
        What its memories come from.
    """

    def __init__(self, component: Any, platform: Any):
        self.component = component
        self.inside: dict[str, Any] = {}
        body, self.variables = _elaborated(component, platform)
        # A bench that is made only to be looked at is fine.
        component._MustUse__used = body._MustUse__used = True
        self._storage = body if isinstance(body, _Cells) else None
        self.body = body
        if isinstance(body, Module):
            body._flush()
            for name, (submodule, place) in list(body._named_submodules.items()):
                if isinstance(submodule, TransformedElaboratable):
                    unit = Unit(submodule._elaboratable_, platform)
                    wrapped = TransformedElaboratable(unit.body)
                    wrapped._transforms_[:] = submodule._transforms_
                    submodule._MustUse__used = wrapped._MustUse__used = True
                    body._named_submodules[name] = (wrapped, place)
                else:
                    unit = Unit(submodule, platform)
                    body._named_submodules[name] = (unit.body, place)
                self.inside[name] = unit

    def __getitem__(self, path: str) -> Unit:
        """The submodule of this name; names of submodules of submodules are joined by dots."""
        name, _, rest = path.partition(".")
        if name not in self.inside:
            raise KeyError(f"No submodule {name!r}; there are {', '.join(self.inside) or 'none'}")
        return self.inside[name][rest] if rest else self.inside[name]

    def __getattr__(self, name: str) -> Any:
        """Ports of the component."""
        return getattr(self.component, name)

    def signal(self, name: str) -> Any:
        """What a local variable of ``elaborate``, or of a method or function that it calls, stood for."""
        found = self.variables.get(name, [])
        if len(found) != 1:
            names = ", ".join(sorted(self.variables))
            raise KeyError(f"{len(found)} signals are called {name!r}; there are {names}")
        return found[0]

    def driven(self, name: str) -> Signal:
        """The signal of this name that the unit itself drives; for those that a loop made."""
        found = [signal for signal in self.body._driving if signal.name == name]
        if len(found) != 1:
            raise KeyError(f"{len(found)} signals that are driven are called {name!r}")
        return found[0]

    def signals(self, name: str) -> list[Any]:
        """As :meth:`signal`, where a method is called several times: one for each call."""
        return self.variables[name]

    @property
    def cells(self) -> list:
        """Words of a memory, in its shape."""
        shape = self.component.shape
        return [shape(cell) if hasattr(shape, "as_shape") else cell for cell in self._storage.cells]

    def ongoing(self, state: str) -> Value:
        """Whether the unit's state machine is in this state."""
        machine = self.body._generated["fsm"]
        if state not in machine.encoding:
            raise KeyError(f"No state {state!r}; there are {', '.join(machine.encoding)}")
        return machine.state == machine.encoding[state]

    def known_state(self) -> Value:
        """Whether the unit's state machine is in any state at all."""
        machine = self.body._generated["fsm"]
        return machine.state < len(machine.encoding)


class Bench:
    """A module that holds opened units, and what is assumed and checked about them.

    Parameters
    ----------
    only
        Names of the checks to keep; all if ``None``.
    """

    def __init__(self, only: Collection[str] | None = None):
        self.m = Module()
        self.m._MustUse__used = True
        self.m.domains.sync = clock = ClockDomain(reset_less=True)
        self.only = only
        self.serial = 0
        self.names: list[str] = []
        self.covered: list[str] = []
        # A clock that is no port would stand still.
        self.ports: list[Signal] = [clock.clk]
        self.start = Signal(init=1, name=START)
        self.m.d.sync += self.start.eq(0)

    def open(self, component: Any, name: str = "unit") -> Unit:
        """Adds a component; its inputs are left to the caller."""
        unit = Unit(component, _Platform())
        self.m.submodules[name] = unit.body
        return unit

    def free_inputs(self, component: Any, *, but: Collection[str] = ()) -> None:
        """Lets a component's inputs take any values, except members whose dotted path begins with ``but``."""
        component = component.component if isinstance(component, Unit) else component
        for path, member, value in component.signature.flatten(component):
            dotted = ".".join(str(part) for part in path)
            if member.flow == In and not any(dotted == name or dotted.startswith(f"{name}.") for name in but):
                self.ports.append(Value.cast(value))

    def free(self, shape: Any, name: str) -> Any:
        """Any value, another one in each cycle."""
        signal = Signal(shape, name=name)
        self.ports.append(Value.cast(signal))
        return signal

    def rigid(self, shape: Any, name: str) -> Any:
        """Any value, the same one in all cycles."""
        value = self.free(shape, name)
        self.assume(self.start | (Value.cast(value) == self.past(value)))
        return value

    def past(self, value: Any, *, when: Any = None) -> Any:
        """The value of the cycle before, or when ``when`` was set last."""
        register = Signal.like(Value.cast(value), name="past", init=0)
        if when is None:
            self.m.d.sync += register.eq(value)
        else:
            with self.m.If(when):
                self.m.d.sync += register.eq(value)
        return register

    def let(self, value: Any, name: str) -> Signal:
        """A name for a value, so that it is seen in traces."""
        value = Value.cast(value)
        signal = Signal(value.shape(), name=name)
        self.m.d.comb += signal.eq(value)
        return signal

    def assume(self, condition: Any, *, at_start: bool = False) -> None:
        """Restricts what may happen, in all cycles or in the first one."""
        condition = Value.cast(condition).bool()
        self.m.d.comb += Assume(~self.start | condition if at_start else condition)

    def check(self, name: str, condition: Any) -> None:
        """Demands this in all cycles, under a name that several demands may share."""
        if name not in self.names:
            self.names.append(name)
        if self.only is None or name in self.only:
            self.serial += 1
            good = self.let(Value.cast(condition).bool(), f"check_{name}_{self.serial}")
            self._add(Assert(good), name)

    def _add(self, statement: Any, name: str) -> None:
        # The solver's driver reports the place in the source: give it the name instead.
        statement.src_loc = (name, self.serial)
        self.m.d.comb += statement

    def cover(self, name: str, condition: Any) -> None:
        """Asks whether this can happen at all; kept only if it is named in ``only``."""
        self.covered.append(name)
        if self.only is not None and name in self.only:
            self.serial += 1
            self._add(Cover(self.let(Value.cast(condition).bool(), f"cover_{name}_{self.serial}")), name)

    def stable(self, name: str, stream: Any, *, unless: Any = 0) -> None:
        """A stream that was not taken stays as it is."""
        stuck = self.past(stream.valid & ~stream.ready & ~Value.cast(unless).bool())
        same = Value.cast(stream.payload) == self.past(stream.payload)
        self.check(name, self.start | ~stuck | (stream.valid & same))

    def assume_stable(self, stream: Any) -> None:
        """The producer of a stream keeps the rules."""
        stuck = self.past(stream.valid & ~stream.ready)
        same = Value.cast(stream.payload) == self.past(stream.payload)
        self.assume(self.start | ~stuck | (stream.valid & same))

    def rtlil(self, *, any_state: bool = False) -> str:
        """The module, called ``top``.

        With ``any_state`` the units begin in any state whatever, and only what the bench itself keeps has
        initial values.
        """
        missing = set(self.only or ()) - set(self.names) - set(self.covered)
        if missing:
            raise ValueError(f"No check or cover is called {', '.join(sorted(missing))}")
        ports = {id(port): port for port in self.ports}
        text = rtlil.convert(self.m, name="top", ports=list(ports.values()))
        if not any_state:
            return text
        lines, inside = [], False
        for line in text.splitlines():
            if line.startswith("module "):
                inside = line != r"module \top"
            if not (inside and line.lstrip().startswith(r"attribute \init ")):
                lines.append(line)
        return "\n".join(lines) + "\n"
