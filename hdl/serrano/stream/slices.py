# SPDX-License-Identifier: Apache-2.0
"""Register slices, and registers of events, where a configuration asks for them."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring

from .register import HalfRegister, StreamRegister

__all__ = ["connect_reads", "later", "slice_before", "sliced"]


def sliced(m: Module, name: str, source: Any, *, registered: bool, kind: Any = StreamRegister) -> Any:
    """The stream ``source``, with ``registered`` behind a register slice of that kind, submodule ``name``."""
    if not registered:
        return source
    m.submodules[name] = register = kind(source.payload.shape())
    wiring.connect(m, source, register.i)
    return register.o


def slice_before(m: Module, name: str, target: Any, *, registered: bool, kind: Any = StreamRegister) -> Any:
    """What to drive instead of ``target``: with ``registered`` such a slice before it, submodule ``name``."""
    if not registered:
        return target
    m.submodules[name] = register = kind(target.payload.shape())
    wiring.connect(m, register.o, target)
    return register.i


def connect_reads(m: Module, client: Any, port: Any, *, registered: bool) -> None:
    """Connects one who reads little to his port, with ``registered`` through slices of half the rate."""
    behind = {"registered": registered, "kind": HalfRegister}
    wiring.connect(m, sliced(m, "reads_request", client.request, **behind), port.request)
    wiring.connect(m, sliced(m, "reads_data", port.data, **behind), client.data)


def later(m: Module, value: Any, *, registered: bool, name: str) -> Any:
    """``value``, with ``registered`` a cycle later; 0 after a reset, as events have to be.

    Views stay views of the same layout.
    """
    if not registered:
        return value
    late = Signal(value.shape(), name=name)
    m.d.sync += late.eq(value)
    return late
