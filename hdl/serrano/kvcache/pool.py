# SPDX-License-Identifier: Apache-2.0
"""The pool of KV blocks: their state and the free list."""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pace import pace, settled

from .payloads import GENERATION_BITS, REFERENCE_BITS, SLOT_BITS, TENANT_BITS, BlockState, block_bits

__all__ = ["BlockPool", "PoolOperation"]


class PoolOperation(enum.Enum, shape=3):
    """What to do with a block."""

    READ = 0
    """Nothing."""
    TAKE = 1
    """Take the first one off the free list: one reference, nothing written, next generation."""
    DROP = 2
    """One reference less; without references it goes to the end of the free list."""
    MARK = 3
    """Set the number of tokens written."""
    HOLD = 4
    """One reference more; off the free list if it is the first. Nothing if there are as many as can be."""
    SEAL = 5
    """Set sealed."""
    FORGET = 6
    """Clear sealed; next generation. The place in the free list stays."""


class BlockPool(wiring.Component):
    """State of every block, and the list of those that nobody holds.

    The free list is linked in both directions through two memories, 0 standing for none; the links of a block
    that is not free are 0. Blocks are taken at the front and come back at the end, so the list is in order of
    last use. With ``go`` the block is looked up, ``latency`` cycles later (``done``) the outputs tell what it
    was before, and it changes; ``latency`` is 1, or 4 if the accelerator is ``registered``. The next ``go``
    is allowed in the cycle behind ``done``, but not in that behind the ``done`` of a HOLD that took a block
    off the list.

    ``initialize`` makes blocks 1 to ``blocks - 1`` free, in this order, within ``blocks_max + latency + 1``
    cycles. The first time after reset generations start at 0, later they advance. A generation that has
    reached its highest value stays there.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    generation_bits, reference_bits : :class:`int`
        Width of a generation, and of a count of references.

    Members
    -------
    initialize : ``In(1)``
        Start over; everything else waits until ``initializing`` is clear.
    blocks : ``In(range(blocks_max + 1))``
        Blocks of the pool, NULL included; taken over by ``initialize``.
    initializing : ``Out(1)``
        The pool is being initialized.
    go : ``In(1)``
        Start an operation.
    operation : ``In(PoolOperation)``
        Which one.
    block : ``In(block_bits)``
        On which block; not for TAKE.
    tenant : ``In(8)``
        New owner, for TAKE.
    written : ``In(5)``
        Tokens written, for MARK.
    done : ``Out(1)``
        The outputs below are valid.
    subject : ``Out(block_bits)``
        The block.
    state : ``Out(BlockState)``
        Its state before the operation.
    following, previous : ``Out(block_bits)``
        Its links before the operation.
    freed : ``Out(1)``
        The operation makes it free; clear outside of ``done``.
    full : ``Out(1)``
        The operation is a HOLD, and it is held as often as can be; clear outside of ``done``.
    advanced : ``Out(generation_bits)``
        The generation that follows its own.
    size : ``Out(range(blocks_max + 1))``
        Blocks of the pool, NULL included.
    used, free, peak : ``Out(range(blocks_max + 1))``
        Blocks held, blocks free, most blocks ever held since ``initialize``.
    head, tail : ``Out(block_bits)``
        Ends of the free list.

    Raises
    ------
    ValueError
        If block numbers have more than 16 bits, generations not 1 to 32, or counts not 2 to 8.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        generation_bits: int = GENERATION_BITS,
        reference_bits: int = REFERENCE_BITS,
    ):
        self.config = config
        self.layout = BlockState(generation_bits, reference_bits)
        self.number = block_bits(config)
        self.latency = pace(config)
        count = range(config.blocks_max + 1)
        super().__init__(
            {
                "initialize": In(1),
                "blocks": In(count),
                "initializing": Out(1),
                "go": In(1),
                "operation": In(PoolOperation),
                "block": In(self.number),
                "tenant": In(TENANT_BITS),
                "written": In(SLOT_BITS + 1),
                "done": Out(1),
                "subject": Out(self.number),
                "state": Out(self.layout),
                "following": Out(self.number),
                "previous": Out(self.number),
                "freed": Out(1),
                "full": Out(1),
                "advanced": Out(generation_bits),
                "size": Out(count),
                "used": Out(count),
                "free": Out(count),
                "peak": Out(count),
                "head": Out(self.number),
                "tail": Out(self.number),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # An unused number may be looked up: it has a place.
        depth = 1 << self.number
        # A block is looked up when what was done with it before has been written.
        shapes = {"states": self.layout, "followers": self.number, "predecessors": self.number}
        for name, shape in shapes.items():
            m.submodules[name] = OnChipMemory(shape, depth, transparent=False, collides=False)
        states, followers, predecessors = (m.submodules[name] for name in shapes)
        memories = (states, followers, predecessors)

        operation = Signal(PoolOperation)
        tenant, written = Signal(TENANT_BITS), Signal(SLOT_BITS + 1)
        self._look_up(m, memories, operation)
        writes = self._write_ports(m, memories)
        # With registers a cycle later, as is the address.
        given = Signal(
            data.StructLayout({"operation": PoolOperation, "tenant": TENANT_BITS, "written": len(written)})
        )
        m.d.comb += [
            given.operation.eq(self.operation),
            given.tenant.eq(self.tenant),
            given.written.eq(self.written),
        ]
        given = settled(m, self.config, given, "given")
        with m.If(settled(m, self.config, self.go, "goes")):
            m.d.sync += [operation.eq(given.operation), tenant.eq(given.tenant), written.eq(given.written)]
        changed = Signal(self.layout)
        m.d.comb += [
            changed.eq(self.state),
            writes[0].w_addr.eq(self.subject),
            writes[0].w_data.eq(changed),
        ]
        with m.If(self.used > self.peak):
            m.d.sync += self.peak.eq(self.used)
        # A block taken out of the list's middle loses its own links one cycle after its neighbours'.
        unlinked = Signal()
        m.d.sync += unlinked.eq(0)
        with m.If(unlinked):
            for links in writes[1:]:
                m.d.comb += [links.w_en.eq(1), links.w_addr.eq(self.subject), links.w_data.eq(0)]
        with m.If(self.done):
            with m.Switch(operation):
                with m.Case(PoolOperation.TAKE):
                    self._take(m, writes, changed, tenant)
                with m.Case(PoolOperation.DROP):
                    self._drop(m, writes, changed)
                with m.Case(PoolOperation.MARK):
                    m.d.comb += [writes[0].w_en.eq(1), changed.written.eq(written)]
                with m.Case(PoolOperation.HOLD):
                    self._hold(m, writes, changed, unlinked)
                with m.Case(PoolOperation.SEAL):
                    m.d.comb += [writes[0].w_en.eq(1), changed.sealed.eq(1)]
                with m.Case(PoolOperation.FORGET):
                    m.d.comb += [
                        writes[0].w_en.eq(1),
                        changed.sealed.eq(0),
                        changed.generation.eq(self.advanced),
                    ]
        self._initialize(m, memories[0], writes)
        return m

    def _look_up(self, m: Module, memories: tuple, operation: Signal) -> None:
        """From ``go`` to ``done``: address, words, what follows from them, each in a register if need be."""
        config = self.config
        states, followers, predecessors = memories
        address = Mux(self.operation == PoolOperation.TAKE, self.head, self.block)
        look, place = settled(m, config, self.go, "look"), settled(m, config, address, "place")
        for memory in memories:
            m.d.comb += [memory.r_en.eq(look), memory.r_addr.eq(place)]
        with m.If(look):
            m.d.sync += self.subject.eq(place)
        done: Any = look
        for _ in range(self.latency - 2):
            done = settled(m, config, done, "found")
        m.d.sync += self.done.eq(done)
        m.d.comb += [
            self.state.eq(settled(m, config, states.r_data, "state_read")),
            self.following.eq(settled(m, config, followers.r_data, "following_read")),
            self.previous.eq(settled(m, config, predecessors.r_data, "previous_read")),
            self.advanced.eq(settled(m, config, self._advanced(self.state.generation), "advanced_read")),
        ]
        references = self.state.references
        # With registers, a cycle before `done`, so that outputs are registers too.
        found = done if config.registered else self.done
        drops, holds = (found & (operation == which) for which in (PoolOperation.DROP, PoolOperation.HOLD))
        m.d.comb += [
            self.freed.eq(settled(m, config, drops & (references == 1), "frees")),
            self.full.eq(settled(m, config, holds & references.all(), "fills")),
        ]
        self._unlists = settled(m, config, holds & (references == 0), "unlists")

    def _write_ports(self, m: Module, memories: tuple) -> tuple:
        """What is to be written into each memory, a cycle later with registers."""
        writes = []
        for memory in memories:
            layout = data.StructLayout({"w_en": 1, "w_addr": self.number, "w_data": memory.shape})
            write = Signal(layout, name="write")
            late = settled(m, self.config, write, "write_before")
            m.d.comb += [
                memory.w_en.eq(late.w_en),
                memory.w_addr.eq(late.w_addr),
                memory.w_data.eq(late.w_data),
            ]
            writes.append(write)
        return tuple(writes)

    def _advanced(self, generation: Value) -> Value:
        """The next generation."""
        return Mux(generation.all(), generation, generation + 1)

    def _take(self, m: Module, writes: tuple, changed: Any, tenant: Signal) -> None:
        states, followers, predecessors = writes
        m.d.comb += [
            states.w_en.eq(1),
            changed.references.eq(1),
            changed.tenant.eq(tenant),
            changed.sealed.eq(0),
            changed.written.eq(0),
            changed.generation.eq(self.advanced),
            followers.w_en.eq(1),
            followers.w_addr.eq(self.subject),
            followers.w_data.eq(0),
            predecessors.w_en.eq(self.following != 0),
            predecessors.w_addr.eq(self.following),
            predecessors.w_data.eq(0),
        ]
        m.d.sync += [
            self.head.eq(self.following),
            self.used.eq(self.used + 1),
            self.free.eq(self.free - 1),
        ]
        with m.If(self.following == 0):
            m.d.sync += self.tail.eq(0)

    def _drop(self, m: Module, writes: tuple, changed: Any) -> None:
        states, followers, predecessors = writes
        m.d.comb += [
            states.w_en.eq(1),
            changed.references.eq(self.state.references - 1),
        ]
        with m.If(self.freed):
            m.d.comb += [
                followers.w_en.eq(self.tail != 0),
                followers.w_addr.eq(self.tail),
                followers.w_data.eq(self.subject),
                predecessors.w_en.eq(1),
                predecessors.w_addr.eq(self.subject),
                predecessors.w_data.eq(self.tail),
            ]
            m.d.sync += [
                self.tail.eq(self.subject),
                self.used.eq(self.used - 1),
                self.free.eq(self.free + 1),
            ]
            with m.If(self.tail == 0):
                m.d.sync += self.head.eq(self.subject)

    def _hold(self, m: Module, writes: tuple, changed: Any, unlinked: Signal) -> None:
        states, followers, predecessors = writes
        m.d.comb += [
            states.w_en.eq(~self.full),
            changed.references.eq(self.state.references + 1),
        ]
        with m.If(self._unlists):
            m.d.comb += [
                followers.w_en.eq(self.previous != 0),
                followers.w_addr.eq(self.previous),
                followers.w_data.eq(self.following),
                predecessors.w_en.eq(self.following != 0),
                predecessors.w_addr.eq(self.following),
                predecessors.w_data.eq(self.previous),
            ]
            m.d.sync += [
                unlinked.eq(1),
                self.used.eq(self.used + 1),
                self.free.eq(self.free - 1),
            ]
            with m.If(self.previous == 0):
                m.d.sync += self.head.eq(self.following)
            with m.If(self.following == 0):
                m.d.sync += self.tail.eq(self.previous)

    def _initialize(self, m: Module, memory: OnChipMemory, writes: tuple) -> None:
        """One block per cycle; the generation that is read is written ``latency`` cycles later."""
        states, followers, predecessors = writes
        last_block = self.config.blocks_max - 1
        reading, writing, warm = Signal(), Signal(), Signal()
        index, place = Signal(self.number), Signal(self.number)
        behind, before = Signal(self.number), Signal(self.number)
        last = Signal(range(self.config.blocks_max + 1))
        under_way: list[Any] = [reading]
        number: Any = index
        for _ in range(self.latency - 2):
            under_way.append(settled(m, self.config, under_way[-1], "under_way"))
            number = settled(m, self.config, number, "number")
        m.d.comb += [
            self.initializing.eq(Cat(under_way).any() | writing),
            last.eq(settled(m, self.config, (self.size - 1)[: len(last)], "last_number")),
        ]
        m.d.sync += [
            writing.eq(under_way[-1]),
            place.eq(number),
            behind.eq(Mux((number != 0) & (number < last), number + 1, 0)),
            before.eq(Mux((number != 0) & (number <= last), number - 1, 0)),
        ]
        with m.If(self.initialize):
            m.d.sync += [reading.eq(1), index.eq(0), self.size.eq(Mux(self.blocks == 0, 1, self.blocks))]
        with m.Elif(reading):
            m.d.sync += [index.eq(index + 1), reading.eq(index != last_block)]
        with m.If(reading):
            m.d.comb += [memory.r_en.eq(1), memory.r_addr.eq(index)]
        with m.If(writing):
            m.d.comb += [
                states.w_en.eq(1),
                states.w_addr.eq(place),
                states.w_data.eq(Const(0, len(Value.cast(self.state)))),
                states.w_data.generation.eq(Mux(warm, self.advanced, 0)),
                followers.w_en.eq(1),
                followers.w_addr.eq(place),
                followers.w_data.eq(behind),
                predecessors.w_en.eq(1),
                predecessors.w_addr.eq(place),
                predecessors.w_data.eq(before),
            ]
            m.d.sync += [
                self.head.eq(last != 0),
                self.tail.eq(last),
                self.used.eq(0),
                self.free.eq(last),
                self.peak.eq(0),
            ]
            with m.If(~under_way[-1]):
                m.d.sync += warm.eq(1)
