# SPDX-License-Identifier: Apache-2.0
"""The outermost module of what is emitted: port names, clock and reset as the outside world wants them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring

__all__ = ["Boundary", "Port", "axi_port_names"]

# Words of Verilog and SystemVerilog that a port could plausibly be called.
_RESERVED = frozenset(
    "always and assign before begin bind bit buf byte case cell chandle checker class clocking config const"
    " constraint context cover cross default design disable dist do edge else end endcase enum event expect"
    " export extends final first_match for force forever fork function generate global if iff import initial"
    " inout input inside instance int interface join library local logic longint modport module nand negedge"
    " new nor not null or output package packed parameter posedge primitive priority process program property"
    " pure rand randc real ref reg release repeat restrict return scalared sequence shortint signed"
    " small soft solve static string strong struct super table tagged task this time timeunit tran tri type"
    " typedef union unique unsigned until untyped use var vectored virtual void wait wand weak while wildcard"
    " wire with within wor xnor xor".split()
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Port:
    """A port of the emitted module: its Verilog name, ``"input"`` or ``"output"``, and its width in bits."""

    name: str
    direction: str
    width: int


def _leaves(name: str, value: Any, split: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The value itself, or its fields where the name map speaks of them."""
    if isinstance(value, data.View) and any(key.startswith(name + "__") for key in split):
        for field, _ in value.shape():
            yield from _leaves(f"{name}__{field}", value[field], split)
    else:
        yield name, value


def axi_port_names(component: wiring.Component, member: str, prefix: str) -> dict[str, str]:
    """Standard names for an interface's ports: ``member.araddr`` becomes ``<prefix>_araddr``.

    Where the interface is made of streams, ``member.ar.payload.addr`` becomes ``<prefix>_araddr`` as well,
    and ``member.ar.valid`` becomes ``<prefix>_arvalid``.

    Parameters
    ----------
    component : :class:`~amaranth.lib.wiring.Component`
        Owner of the interface.
    member : :class:`str`
        Name of the interface in the component's signature.
    prefix : :class:`str`
        Start of each name, for instance ``m_axi``.

    Raises
    ------
    ValueError
        If the component has no such interface.
    """
    names = {}
    for path, _, value in component.signature.flatten(component):
        if path[0] != member or len(path) < 2:
            continue
        flat = "__".join(map(str, path))
        if path[-1] != "payload":
            names[flat] = f"{prefix}_{''.join(map(str, path[1:]))}"
        elif isinstance(value, data.View):
            for field, _ in value.shape():
                names[f"{flat}__{field}"] = f"{prefix}_{path[1]}{field}"
        else:
            names[flat] = f"{prefix}_{path[1]}data"
    if not names:
        raise ValueError(f"Component {component!r} has no interface named {member!r}")
    return names


class Boundary(Elaboratable):
    """Wraps a component for emission: plain signals for ports, an explicit clock and reset.

    Parameters
    ----------
    component : :class:`~amaranth.lib.wiring.Component`
        What is emitted.
    port_names : mapping of :class:`str` to :class:`str`
        Verilog name for a port's Amaranth name, the path joined by two underscores (``bus__ar__valid``).
        Names of fields (``bus__ar__payload__addr``) split a structured payload into one port for each field.
        Ports that are not named keep their Amaranth name, those called like a word of Verilog with
        an underscore after it.
    clock : :class:`str`
        Name of the clock input, of domain ``sync``.
    reset : :class:`str` or ``None``
        Name of the reset input, synchronous; without one, registers begin with their initial values.
    reset_active_low : :class:`bool`
        Whether the reset input is active low.

    Raises
    ------
    TypeError
        If ``component`` is not a component.
    ValueError
        If a name in ``port_names`` is not a port, or a Verilog name is used twice or is not an identifier.
    """

    def __init__(
        self,
        component: wiring.Component,
        *,
        port_names: Mapping[str, str],
        clock: str,
        reset: str | None,
        reset_active_low: bool,
    ):
        if not isinstance(component, wiring.Component):
            raise TypeError(f"Only a component can be emitted, not {component!r}")
        self._component = component
        self._clock = Signal(name=clock)
        self._reset = None if reset is None else Signal(name=reset)
        self._reset_active_low = reset_active_low
        self._inner = []  # (flow, inner value, port signal)
        self.ports: dict[str, tuple[Signal, str]] = {clock: (self._clock, "input")}
        if self._reset is not None:
            self.ports[reset] = (self._reset, "input")
        unknown = dict(port_names)
        for path, member, value in component.signature.flatten(component):
            for name, leaf in _leaves("__".join(map(str, path)), value, port_names):
                unknown.pop(name, None)
                default = f"{name}_" if name in _RESERVED else name
                self._add_port(port_names.get(name, default), leaf, member.flow)
        if unknown:
            raise ValueError(
                f"Name map speaks of {', '.join(map(repr, unknown))}, which is no port of {component!r}"
            )

    def _add_port(self, name: str, leaf: Any, flow: wiring.Flow) -> None:
        value = Value.cast(leaf)
        if len(value) == 0:
            return
        if not _IDENTIFIER.match(name) or name in _RESERVED:
            raise ValueError(f"Port name must be a Verilog identifier, not {name!r}")
        if name in self.ports:
            raise ValueError(f"Port name {name!r} is used twice")
        port = Signal(value.shape(), name=name)
        self._inner.append((flow, value, port))
        self.ports[name] = (port, "input" if flow == wiring.In else "output")

    def describe(self) -> tuple[Port, ...]:
        """The ports in their order in the emitted module: clock, reset, then those of the signature."""
        return tuple(Port(name, direction, len(port)) for name, (port, direction) in self.ports.items())

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync", local=True, reset_less=self._reset is None)
        m.d.comb += ClockSignal().eq(self._clock)
        if self._reset is not None:
            m.d.comb += ResetSignal().eq(~self._reset if self._reset_active_low else self._reset)
        m.submodules.core = self._component
        for flow, inner, port in self._inner:
            m.d.comb += inner.eq(port) if flow == wiring.In else port.eq(inner)
        return m
