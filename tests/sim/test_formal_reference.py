# SPDX-License-Identifier: Apache-2.0
"""The account of the commands that proofs use, against the golden model."""

import random

import pytest
from amaranth import Module, Signal
from amaranth.sim import Simulator

from serrano.kvcache import Opcode
from serrano_sim.formal.reference import Ask, Sizes, State, reference
from serrano_sim.golden.block_manager import BlockManager

SIZES = Sizes()


def manager(seed):
    """A golden model and, for its mover, a list whose last element says whether memory answers well."""
    good = [True]
    model = BlockManager(
        SIZES.blocks,
        SIZES.blocks,
        SIZES.sequences,
        SIZES.entries,
        generation_bits=SIZES.generation_bits,
        reference_bits=SIZES.reference_bits,
        records=2,
        mover=lambda move: good[-1],
    )
    if seed % 4 == 3:
        model.initialize(3)
    return model, good


def state_of(model):
    """The golden model's state by the names of the reference's signals."""
    found = {"count": len(model.free), "size": model.blocks, "peak": model.peak}
    for place in range(SIZES.blocks - 1):
        found[f"order_{place}"] = model.free[place] if place < len(model.free) else 0
    for number, block in enumerate(model.states):
        for name in ("references", "tenant", "sealed", "written", "generation"):
            found[f"{name}_{number}"] = int(getattr(block, name))
    for number in range(SIZES.sequences):
        sequence = model.sequences.get(number)
        found[f"opened_{number}"] = int(sequence is not None)
        found[f"owner_{number}"] = sequence.tenant if sequence else 0
        for name in ("length", "reserved", "first"):
            found[f"{name}_{number}"] = getattr(sequence, name) if sequence else 0
        table = sequence.table if sequence else []
        found[f"entries_{number}"] = len(table)
        for index in range(SIZES.entries):
            found[f"table_{number}_{index}"] = table[index] if index < len(table) else 0
    return found


def drawn(rng, model, opcode):
    """A command that is often legal."""
    seq = rng.choice([0, 0, 0, 1, 1, 1, 2])
    tenant = (
        model.sequences[seq].tenant if seq in model.sequences and rng.random() < 0.9 else rng.randrange(2)
    )
    small = [0, 1, 15, 16, 17, 31, 32, 48, 49, (1 << 32) - 1]
    arg0, arg1 = rng.choice([*small, rng.randrange(50)]), rng.randrange(1 << 32)
    if opcode in (Opcode.SEAL, Opcode.SHARE, Opcode.EVICT, Opcode.SCRUB):
        arg0 = rng.choice([0, 1, 2, 3, 1, 2, 3, 4, 1 << 16])
        if opcode == Opcode.SHARE:
            arg1 = model.states[arg0].generation if arg0 < 4 and rng.random() < 0.9 else rng.randrange(4)
        elif opcode != Opcode.SEAL and arg0 < 4 and rng.random() < 0.8:
            tenant = model.states[arg0].tenant
    if opcode == Opcode.FORK:
        arg0 = rng.choice([0, 1, 1 - min(seq, 1), 2, 1 << 16])
    if opcode == Opcode.GATHER:
        arg1 = rng.choice([0, 1, 5, 16, 33]) | rng.randrange(3) << 16
    if opcode == Opcode.STAT:
        arg0 = rng.choice([*range(4), *range(8, 11), *range(16, 22)])
        arg1 = rng.choice([0, 1, 2, 3, 4, 1 << 16])
    return seq, tenant, arg0, arg1


@pytest.mark.parametrize("opcode", [*Opcode, None], ids=lambda opcode: opcode.name if opcode else "unknown")
def test_reference_is_the_golden_model(opcode):
    m = Module()
    before = State(SIZES, "before")
    ask = Ask(Signal(16), Signal(8), Signal(32), Signal(32), records=Signal(16), failed=Signal())
    outcome = reference(m, before, opcode, ask)
    inputs, outputs = before.parts(), outcome.state.parts()
    statuses = set()

    async def process(ctx):
        for seed in range(8):
            rng = random.Random(f"{opcode} {seed}")
            model, good = manager(seed)
            for _ in range(120):
                # Anything that leads somewhere, then the command in question.
                for _ in range(rng.randrange(4)):
                    other = rng.choice([*Opcode][:13] + [Opcode.OPEN, Opcode.APPEND, Opcode.COMMIT] * 4)
                    model.execute(other.value, *drawn(rng, model, other))
                seq, tenant, arg0, arg1 = drawn(rng, model, opcode)
                good[-1] = rng.random() < 0.8
                for name, value in state_of(model).items():
                    ctx.set(inputs[name], value)
                for signal, value in (
                    (ask.seq, seq),
                    (ask.tenant, tenant),
                    (ask.arg0, arg0),
                    (ask.arg1, arg1),
                ):
                    ctx.set(signal, value)
                ctx.set(ask.records, 2)
                ctx.set(ask.failed, not good[-1])
                status, aux = model.execute(opcode.value if opcode else 0, seq, tenant, arg0, arg1)
                good[-1] = True
                what = f"{opcode} {seq, tenant, arg0, arg1}"
                assert (ctx.get(outcome.status), ctx.get(outcome.aux)) == (status.value, aux), what
                assert {name: ctx.get(signal) for name, signal in outputs.items()} == state_of(model), what
                statuses.add(status)

    simulator = Simulator(m)
    simulator.add_testbench(process)
    simulator.run()
    assert opcode is None or len(statuses) > 1
