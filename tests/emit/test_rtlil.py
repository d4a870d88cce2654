# SPDX-License-Identifier: Apache-2.0
"""Merging of equal blocks, and what crosses their edges."""

import re

import pytest
from amaranth import *
from amaranth.hdl._nir import CombinationalCycle
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from serrano.emit.rtlil import convert_merged


class Leaf(wiring.Component):
    """A register; ``step`` makes two kinds of it."""

    def __init__(self, step=1):
        self.step = step
        super().__init__({"i": In(8), "o": Out(8), "spare": Out(4)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i + self.step)
        return m


class Pair(wiring.Component):
    def __init__(self, *steps):
        self.steps = steps
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        value = self.i
        for index, step in enumerate(self.steps):
            m.submodules[f"leaf_{index}"] = leaf = Leaf(step)
            m.d.comb += leaf.i.eq(value)
            value = leaf.o
        m.d.comb += self.o.eq(value)
        return m


class Root(Elaboratable):
    """Ports as plain signals, as convert_merged wants them."""

    def __init__(self, *parts):
        self.parts = parts
        self.clk, self.rst, self.i, self.o = Signal(), Signal(), Signal(8), Signal(8)

    @property
    def ports(self):
        inputs = {"clk": self.clk, "rst": self.rst, "i": self.i}
        return {**{name: (signal, "input") for name, signal in inputs.items()}, "o": (self.o, "output")}

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain("sync", local=True)
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(self.rst)]
        total = 0
        for index, part in enumerate(self.parts):
            m.submodules[f"part_{index}"] = part
            m.d.comb += part.i.eq(self.i)
            total = total + part.o
        m.d.comb += self.o.eq(total)
        return m


def convert(*parts):
    root = Root(*parts)
    return convert_merged(root, "top", root.ports, None)


def ports_of(text, module):
    body = text[text.index(f"module \\{module}\n") :]
    found = re.findall(
        r"wire width \d+ (?:input|output) \d+ +(?:signed )?\\(\S+)", body[: body.index("\nend\n")]
    )
    return sorted(found)


def test_equal_blocks_are_one_module():
    """At every level: four leaves in two pairs become one leaf and one pair, wherever they stand."""
    design = convert(Pair(1, 1), Pair(1, 1))
    assert design.modules == {"top": 1, "top_pair": 2, "top_leaf": 4}
    assert design.instances == 7
    assert ports_of(design.text, "top_leaf") == ["clk", "i", "o", "rst", "spare"]


def test_different_blocks_stay_apart():
    design = convert(Pair(1, 2), Pair(2, 1), Pair(1, 1))
    assert design.modules == {
        "top": 1,
        "top_pair_v0": 1,
        "top_pair_v1": 1,
        "top_pair_v2": 1,
        "top_leaf_v0": 4,
        "top_leaf_v1": 2,
    }
    for name in design.modules:
        assert design.text.count(f"module \\{name}\n") == 1


def test_every_instance_has_its_module():
    design = convert(Pair(1, 2), Pair(1, 1), Leaf())
    cells = re.findall(r"^  cell \\(\S+) ", design.text, re.MULTILINE)
    assert set(cells) == set(design.modules) - {"top"}
    assert "@" not in design.text


def test_no_initial_values():
    class Counter(Leaf):
        def elaborate(self, platform):
            m = Module()
            state = Signal(8, init=77)
            free = Signal(8, init=5, reset_less=True)
            m.d.sync += [state.eq(state + self.i), free.eq(state)]
            m.d.comb += self.o.eq(free)
            return m

    text = convert(Counter()).text
    assert "\\init" not in text
    assert "01001101" in text  # The value that reset loads is logic and stays.


def test_undriven_ports_take_their_default():
    """An input that nothing drives has its initial value, as in Amaranth's simulator."""

    class Default(wiring.Component):
        def __init__(self):
            super().__init__({"i": In(8), "k": In(8, init=0xA5), "o": Out(8)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(self.i ^ self.k)
            return m

    assert "connect \\k 8'10100101" in convert(Default()).text


def test_signals_shared_without_a_port():
    """A transformer's enable crosses the edge though no signature names it."""
    enable = Signal(name="gate")

    class Gated(wiring.Component):
        def __init__(self):
            super().__init__({"i": In(8), "o": Out(8)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += enable.eq(self.i[0])
            m.submodules.leaf = EnableInserter(enable)(leaf := Leaf())
            m.d.comb += [leaf.i.eq(self.i), self.o.eq(leaf.o)]
            return m

    design = convert(Gated())
    assert design.modules == {"top": 1, "top_gated": 1, "top_leaf": 1}
    assert ports_of(design.text, "top_leaf") == ["clk", "gate", "i", "o", "rst", "spare"]


def test_loops_through_blocks_are_found():
    class Through(Leaf):
        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(self.i + 1)
            return m

    class Loop(Leaf):
        def elaborate(self, platform):
            m = Module()
            m.submodules.a = a = Through()
            m.submodules.b = b = Through()
            m.d.comb += [a.i.eq(b.o), b.i.eq(a.o), self.o.eq(a.o)]
            return m

    with pytest.raises(CombinationalCycle):
        convert(Loop())


def test_counts_written_memories():
    class Stored(wiring.Component):
        def __init__(self):
            super().__init__({"i": In(8), "o": Out(8)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.words = words = memory.Memory(shape=8, depth=4, init=[])
            port, read = words.write_port(), words.read_port()
            m.d.comb += [port.data.eq(self.i), port.en.eq(1), self.o.eq(read.data)]
            return m

    assert convert(Stored(), Leaf()).memories == 1
    assert convert(Leaf()).memories == 0


class Named(wiring.Component):
    """Signals of the same name, behind so many of other names."""

    def __init__(self, others=0):
        self.others = others
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        value = self.i
        for index in range(self.others):
            m.d.sync += Signal(name=f"other_{index}").eq(value[0])
        m.submodules.leaf = leaf = Leaf()
        m.submodules.twice = Leaf(2)
        for name in ("twice", "o", "twice", "i", "twice"):
            late = Signal(8, name=name)
            m.d.sync += late.eq(value)
            value = late
        m.d.comb += [leaf.i.eq(value), self.o.eq(leaf.o)]
        return m


def test_names_do_not_depend_on_other_names():
    """They are told apart by their order; ports keep theirs, those of a block inside too."""

    def module(part):
        text = convert(part).text
        return text[text.index("module \\top_named\n") :]

    one, other = module(Named()), module(Named(5))
    names = set(re.findall(r"\\((?:twice|o|i)(?:\$\d+)?)\s", one))
    # The third i and o are wires to the ports of the block inside.
    assert names == {f"{name}{number}" for name in ("twice", "o", "i") for number in ("", "$1", "$2")}
    assert names == set(re.findall(r"\\((?:twice|o|i)(?:\$\d+)?)\s", other))
    assert re.search(r"cell \\top_leaf_v\d \\leaf\n(?:.*\n)*?    connect \\i ", one)
    # A block with the name of a signal.
    assert re.search(r"cell \\top_leaf_v\d \\twice_block$", one, re.MULTILINE)
    assert re.search(r"wire width 8 input \d+  \\i$", one, re.MULTILINE)
