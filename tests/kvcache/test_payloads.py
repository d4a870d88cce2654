# SPDX-License-Identifier: Apache-2.0
"""Widths and arithmetic of the KV payloads."""

import dataclasses

import pytest
from amaranth import *
from amaranth.sim import Simulator

from serrano.config import PRESETS, preset
from serrano.kvcache import KVCommand, KVResponse
from serrano.kvcache.payloads import (
    block_bits,
    entry_bits,
    last_shift,
    record_bytes,
    record_length_bits,
    sequence_bits,
)
from serrano_sim.golden import kvcache as golden


def test_registers_hold_commands_and_responses() -> None:
    assert Shape.cast(KVCommand).width == 8 + 8 + 16 + 8 + 32 + 32
    assert Shape.cast(KVResponse).width == 8 + 8 + 32


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_widths(config) -> None:
    assert 1 << block_bits(config) >= config.blocks_max > 1 << (block_bits(config) - 1)
    assert 1 << sequence_bits(config) >= config.sequences_max
    assert 1 << entry_bits(config) >= config.table_entries
    assert golden.record_bytes(config.head_dim_max) < 1 << record_length_bits(config)


def test_one_of_each_has_a_number_too() -> None:
    config = dataclasses.replace(preset("tiny"), sequences_max=1, context_max=16)
    assert (sequence_bits(config), entry_bits(config)) == (1, 1)


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_shape_of_a_record(config) -> None:
    """For every head_dim that the tape's format allows."""
    head_dim = Signal(range(config.head_dim_max + 1))
    shift, length = Signal(8), Signal(16)
    m = Module()
    m.d.comb += [shift.eq(last_shift(config, head_dim)), length.eq(record_bytes(head_dim))]
    sim = Simulator(m)
    tried = 0

    async def bench(ctx) -> None:
        nonlocal tried
        for value in range(2, config.head_dim_max + 1, 2):
            rest = value % config.n
            if rest & (rest - 1):
                continue
            tried += 1
            ctx.set(head_dim, value)
            assert 1 << ctx.get(shift) == (rest or config.n)
            assert ctx.get(length) == golden.record_bytes(value)

    sim.add_testbench(bench)
    sim.run()
    assert tried >= 8
