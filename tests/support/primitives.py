# SPDX-License-Identifier: Apache-2.0
"""Models of the memory and multiplier wrappers, and a component with several of each."""

import random

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.primitives.memory import OnChipMemory
from serrano.primitives.multiplier import Multiplier

__all__ = ["MEMORIES", "MULTIPLIERS", "Bank", "MemoryModel", "MultiplierModel", "models", "sequence"]

# width, depth, granularity, transparent
MEMORIES = [(8, 16, None, False), (8, 16, None, True), (40, 5, 8, False), (40, 5, 8, True), (3, 2, 1, True)]
# a_width, b_width, latency
MULTIPLIERS = [(8, 8, 1), (9, 8, 3), (16, 33, 2)]


class MemoryModel:
    """Cycle by cycle behaviour of the memory; words that were never written are not read.

    With ``collides`` unset as in Verilog, where a read that meets a write of its word spoils the data.
    """

    def __init__(self, width, depth, granularity, transparent, collides=True):
        self.collides = collides
        self.width, self.depth, self.transparent = width, depth, transparent
        self.lane = granularity or width
        self.words = {}
        self.data = None

    def stimulus(self, rng):
        """Values for the inputs; addresses collide often, and reads follow writes of whole words."""
        lanes = self.width // self.lane
        w_addr = rng.randrange(self.depth)
        w_en = rng.choice([0, (1 << lanes) - 1, rng.getrandbits(lanes)])
        if w_addr not in self.words:
            w_en = (1 << lanes) - 1
        r_addr = rng.choice([w_addr, *self.words]) if self.words else w_addr
        r_en = rng.randrange(2) if r_addr in self.words else 0
        return {
            "w_en": w_en,
            "w_addr": w_addr,
            "w_data": rng.getrandbits(self.width),
            "r_en": r_en,
            "r_addr": r_addr,
        }

    def clock(self, *, w_en, w_addr, w_data, r_en, r_addr):
        """Takes the inputs of a cycle; ``data`` is then what the output shows, ``None`` if undefined."""
        old = self.words.get(w_addr, 0)
        new = old
        for lane in range(self.width // self.lane):
            if w_en >> lane & 1:
                mask = ((1 << self.lane) - 1) << (lane * self.lane)
                new = (new & ~mask) | (w_data & mask)
        if r_en:
            self.data = new if self.transparent and r_addr == w_addr else self.words[r_addr]
            if not self.collides and w_en and r_addr == w_addr:
                self.data ^= (1 << self.width) - 1
        if w_en:
            self.words[w_addr] = new


class MultiplierModel:
    """The last products of enabled cycles; the oldest is on the output."""

    def __init__(self, a_width, b_width, latency):
        self.widths = (a_width, b_width)
        self.products = [None] * latency

    def stimulus(self, rng):
        def operand(width):
            low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
            return rng.choice([low, high, -1, 0, rng.randint(low, high), rng.randint(low, high)])

        return {"en": int(rng.random() < 0.7), "a": operand(self.widths[0]), "b": operand(self.widths[1])}

    def clock(self, *, en, a, b):
        if en:
            self.products = [*self.products[1:], a * b]

    @property
    def data(self):
        return self.products[0]


class Element(wiring.Component):
    """A registered sum with a weight of its own; many of them make a chain."""

    x: In(signed(8))
    total: In(signed(20))
    x_out: Out(signed(8))
    total_out: Out(signed(20))

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = Multiplier(8, 8)
        m.d.comb += [multiplier.a.eq(self.x), multiplier.b.eq(3)]
        m.d.sync += self.x_out.eq(self.x)
        m.d.comb += self.total_out.eq(self.total + multiplier.p)
        return m


class Chain(wiring.Component):
    """Equal elements in a row: the last total is three times the sum of the last ``length`` inputs."""

    def __init__(self, length):
        self.length = length
        super().__init__({"x": In(signed(8)), "total": Out(signed(20))})

    def elaborate(self, platform):
        m = Module()
        x, total = self.x, Const(0, 20)
        for index in range(self.length):
            m.submodules[f"element_{index}"] = element = Element()
            m.d.comb += [element.x.eq(x), element.total.eq(total)]
            x, total = element.x_out, element.total_out
        m.d.comb += self.total.eq(total)
        return m


class Bank(wiring.Component):
    """All memories and multipliers of the lists above, and a chain of 16."""

    def __init__(self):
        self.parts = {}
        for index, (width, depth, granularity, transparent) in enumerate(MEMORIES):
            self.parts[f"memory{index}"] = OnChipMemory(
                width, depth, granularity=granularity, transparent=transparent
            )
        self.parts["apart"] = OnChipMemory(12, 4, granularity=4, transparent=False, collides=False)
        for index, (a_width, b_width, latency) in enumerate(MULTIPLIERS):
            self.parts[f"multiplier{index}"] = Multiplier(a_width, b_width, latency=latency)
        self.parts["chain"] = Chain(16)
        super().__init__({name: Out(part.signature) for name, part in self.parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self.parts.items():
            m.submodules[name] = part
            wiring.connect(m, part, wiring.flipped(getattr(self, name)))
        return m


def models():
    """A fresh model for each memory and multiplier of the bank, by name."""
    found = {f"memory{index}": MemoryModel(*entry) for index, entry in enumerate(MEMORIES)}
    found["apart"] = MemoryModel(12, 4, 4, False, collides=False)
    found |= {f"multiplier{index}": MultiplierModel(*entry) for index, entry in enumerate(MULTIPLIERS)}
    return found


def sequence(model, cycles, seed):
    """Inputs and expected output after each of some cycles."""
    rng = random.Random(seed)
    for _ in range(cycles):
        values = model.stimulus(rng)
        model.clock(**values)
        yield values, model.data
