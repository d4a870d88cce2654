# SPDX-License-Identifier: Apache-2.0
"""The one on-chip memory of the project."""

from typing import Any

from amaranth import *
from amaranth.hdl import ShapeCastable
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["NEVER_COLLIDES", "OnChipMemory"]

NEVER_COLLIDES = "never_collides"
"""Attribute of the RTLIL memory of an :class:`OnChipMemory` whose ``collides`` is not set."""


def _lanes(shape: Any, granularity: int | None) -> int:
    """Number of lanes of the write mask: 1 without a granularity, else words / granularity."""
    if granularity is None:
        return 1
    if isinstance(granularity, bool) or not isinstance(granularity, int) or granularity < 1:
        raise ValueError(f"Granularity must be a positive integer or None, not {granularity!r}")
    if isinstance(shape, data.ArrayLayout):
        units, of_what = shape.length, "elements"
    elif not isinstance(shape, ShapeCastable) and not Shape.cast(shape).signed:
        units, of_what = Shape.cast(shape).width, "bits"
    else:
        raise ValueError(f"Granularity needs an unsigned shape or an array layout, not {shape!r}")
    if units % granularity:
        raise ValueError(f"Granularity must divide the word's {units} {of_what}, not {granularity!r}")
    return units // granularity


class OnChipMemory(wiring.Component):
    """One write port, one read port, one clock: the wrapper around every memory on the chip.

    Writing: in a cycle with ``w_en[i]`` set, lane ``i`` of the word at ``w_addr`` takes lane ``i`` of
    ``w_data`` at the clock edge. Reading: in a cycle with ``r_en`` set the word at ``r_addr`` appears on
    ``r_data`` in the next cycle (``latency`` 1) and stays until the next read. A read of the word that is
    being written in the same cycle gives the old word, or with ``transparent`` the written lanes of the new
    one.

    There is no reset and there are no initial values: what was never written is undefined (0 in Amaranth's
    simulator, which does not model more). Addresses from ``depth`` up are not to be used, where ``depth`` is
    not a power of two.

    For a platform that has a method ``get_on_chip_memory(memory)``, elaboration is what that method returns;
    a target uses this to supply its own macros, and :mod:`serrano.verilog` to refer to the module
    ``serrano_mem_1r1w``. All others get an :class:`amaranth.lib.memory.Memory`.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of a word.
    depth : :class:`int`
        Number of words, at least 2.
    granularity : :class:`int` or ``None``
        Width of a lane of the write mask: in elements where ``shape`` is an array layout, in bits where it is
        unsigned. ``None``: a write replaces the whole word.
    transparent : :class:`bool`
        Whether a read in the cycle of a write to the same address gives the new data.
    collides : :class:`bool`
        Whether there are such reads whose data is used. If not, it is undefined: blocks that give neither the
        old nor the new word by themselves need no logic around them.

    Members
    -------
    w_en : ``In(lanes)``
        Write enable, one bit for each lane.
    w_addr : ``In(ceil_log2(depth))``
        Write address, in words.
    w_data : ``In(shape)``
        Word to write.
    r_en : ``In(1)``
        Read enable.
    r_addr : ``In(ceil_log2(depth))``
        Read address, in words.
    r_data : ``Out(shape)``
        Word read, one cycle after ``r_en``.

    Raises
    ------
    TypeError
        If ``depth`` is not an integer, or ``transparent`` or ``collides`` not a boolean.
    ValueError
        If ``depth`` is below 2, ``shape`` is empty, or ``granularity`` does not divide the word.
    """

    latency = 1

    def __init__(
        self,
        shape: Any,
        depth: int,
        *,
        transparent: bool,
        granularity: int | None = None,
        collides: bool = True,
    ):
        if isinstance(depth, bool) or not isinstance(depth, int):
            raise TypeError(f"Depth must be an integer, not {depth!r}")
        if depth < 2:
            raise ValueError(f"Depth must be at least 2, not {depth!r}")
        for name, value in (("Transparent", transparent), ("Collides", collides)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        self.width = Shape.cast(shape).width
        if self.width == 0:
            raise ValueError(f"Shape must have at least one bit, not {shape!r}")
        self.shape = shape
        self.depth = depth
        self.granularity = granularity
        self.transparent = transparent
        self.collides = collides
        self.lanes = _lanes(shape, granularity)
        self.addr_width = ceil_log2(depth)
        super().__init__(
            {
                "w_en": In(self.lanes),
                "w_addr": In(self.addr_width),
                "w_data": In(shape),
                "r_en": In(1),
                "r_addr": In(self.addr_width),
                "r_data": Out(shape),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        if hasattr(platform, "get_on_chip_memory"):
            return platform.get_on_chip_memory(self)
        return self.describe()

    def describe(self, **attributes: Any) -> Module:
        """The memory as tools know memories, with attributes for them."""
        m = Module()
        if not self.collides:
            attributes |= {NEVER_COLLIDES: 1}
        m.submodules.storage = storage = memory.Memory(
            shape=unsigned(self.width), depth=self.depth, init=[], attrs=attributes
        )
        write = storage.write_port(granularity=self.width // self.lanes)
        read = storage.read_port(transparent_for=(write,) if self.transparent else ())
        m.d.comb += [
            write.en.eq(self.w_en),
            write.addr.eq(self.w_addr),
            write.data.eq(Value.cast(self.w_data)),
            read.en.eq(self.r_en),
            read.addr.eq(self.r_addr),
            Value.cast(self.r_data).eq(read.data),
        ]
        return m
