# SPDX-License-Identifier: Apache-2.0
"""Proofs about look-ups: what a client of the controller is told of a sequence's blocks."""

from __future__ import annotations

from typing import Any

from amaranth import *

from serrano.kvcache.commands import Status
from serrano.kvcache.tables import SequenceTables

from .bench import Bench
from .sizes import CONFIG

__all__ = ["lookups"]

PORTS = 2


def lookups(bench: Bench) -> None:
    """Every look-up that is taken, in any state whatever, while the controller writes what it likes.

    The answer is compared with the sequence and its table in the cycle in which the look-up was taken, and
    with the block's owner in the one after.
    """
    unit = bench.open(SequenceTables(CONFIG, PORTS))
    bench.free_inputs(unit)
    states, owners, entries = unit["lookup_states"].cells, unit["owners"].cells, unit["block_table"].cells
    stride = len(entries) // len(states)

    seq: Any = Const(0)
    index: Any = Const(0)
    asks = []
    for place, port in enumerate(unit.ports):
        request = port.request
        asks.append(bench.let(request.valid & request.ready, f"asks_{place}"))
        before = Cat(other.request.valid for other in unit.ports[:place]).any() if place else Const(0)
        # Nobody waits but for the controller and for those before.
        bench.check("one_per_cycle", request.ready | unit.entry_r_en | before)
        seq = Mux(asks[-1], request.payload.seq, seq)
        index = Mux(asks[-1], request.payload.index, index)
    bench.check("one_per_cycle", (sum(asks) <= 1) & ~(unit.entry_r_en & Cat(asks).any()))

    # Cycle 0: the sequence and its table. Cycle 1: the block's owner.
    state = {
        name: Array(getattr(state, name) for state in states)[seq]
        for name in ("tenant", "entries", "first", "length")
    }
    block = bench.let(Array(entries)[seq * stride + index], "block")
    told: Any = Mux((index < state["first"]) | (block == 0), Status.NOT_MAPPED.value, Status.OK.value)
    told = Mux(index >= state["entries"], Status.OUT_OF_RANGE.value, told)
    told = bench.let(Mux(unit.signal("opened").bit_select(seq, 1), told, Status.BAD_SEQ.value), "told")

    rest = bench.let(Mux(state["length"] >= (index << 4), state["length"] - (index << 4), 0), "rest")
    tokens = Mux(rest < 16, rest, 16)

    def later(value: Any, cycles: int) -> Any:
        for _ in range(cycles):
            value = bench.past(value)
        return value

    latency = SequenceTables.latency
    block_then, tenant_then = later(block, 1), later(state["tenant"], latency)
    owner = later(Array(owners)[block_then], latency - 1)
    told_then = later(told, latency)
    foreign = (told_then == Status.OK.value) & (owner != tenant_then)
    settled = later(Const(1), latency)
    for ask, port in zip(asks, unit.ports, strict=True):
        answer = port.response
        status, asked = Value.cast(answer.status), later(ask, latency)
        good = answer.valid & (status == Status.OK.value) & settled
        bench.check("answered", ~settled | (answer.valid == asked))
        wanted = Mux(foreign, Status.TENANT.value, told_then)
        bench.check("status", ~(asked & answer.valid) | (status == wanted))
        bench.check("block", ~good | (answer.block == later(block, latency)))
        bench.check("tokens", ~good | (answer.tokens == later(tokens, latency)))
        bench.check("tenant", ~good | (owner == tenant_then))
