# SPDX-License-Identifier: Apache-2.0
"""The bytes of the rings, and places in memory."""

import dataclasses
import itertools
import random
import struct

import pytest

from serrano_host.driver.rings import Arena, Completion, Entry, Flags, MemoryMap, memory_needed
from serrano_host.errors import DriverError, RequestError
from serrano_host.tape import Descriptor
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top import layout

MODEL = random_model(2, dim=6, ffn=5, layers=1, heads=4, kv_heads=2, head_dim=6, vocab=7, context=64)
DESCRIPTOR = Descriptor.unpack(write_tape(MODEL, 4, 32)[:256])


def test_entry():
    entry = Entry(7, 3, 0x1_2345_6780, 5, 9, None, Flags.KEEP, 0)
    raw = entry.pack()
    assert len(raw) == 64
    assert raw[:36] == struct.pack("<IIQIIIII", 7, 3, 0x1_2345_6780, 5, 9, 0xFFFFFFFF, 2, 0)
    assert not any(raw[36:])
    assert Entry.unpack(raw) == entry
    # The bench of the simulation writes the same.
    request = layout.Request((1, 2, 3, 4, 5), 9, tenant=3, keep=True)
    assert raw == request.entry(7, 0x1_2345_6780)


@pytest.mark.parametrize(("name", "value"), [("tenant", -1), ("max_new", 1 << 32), ("prompt", 1 << 64)])
def test_entry_refuses(name, value):
    entry = Entry(0, 0, 0, 1, 1, 5, Flags(0), 0)
    with pytest.raises(RequestError, match=f"{name} must fit"):
        dataclasses.replace(entry, **{name: value}).pack()


@pytest.mark.parametrize("token", [None, 0, 41])
def test_completion(token):
    record = Completion(9, token, 0x49, True, 3, 77)
    assert Completion.unpack(record.pack()) == record
    other = layout.Completion.unpack(record.pack())
    assert (other.id, other.token, other.status, other.ended, other.number) == (9, token, 0x49, True, 77)


@pytest.mark.parametrize("seed", range(5))
def test_arena_never_overlaps(seed):
    rng = random.Random(seed)
    arena, taken = Arena(0x1000, 2048), {}
    for _ in range(500):
        if taken and rng.random() < 0.5:
            address = rng.choice(list(taken))
            arena.free(address)
            del taken[address]
            continue
        tokens = rng.randrange(0, 200)
        address = arena.take(tokens)
        if address is not None:
            taken[address] = max(64, -(-4 * tokens // 64) * 64)
            assert address % 64 == 0
        places = sorted(taken.items())
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(places))
        assert not places or (places[0][0] >= 0x1000 and sum(places[-1]) <= 0x1000 + 2048)
    for address in taken:
        arena.free(address)
    assert arena.take(512) == 0x1000


def test_arena_refuses_what_never_fits():
    with pytest.raises(RequestError, match="a prompt of 17 tokens does not fit 64 bytes"):
        Arena(0, 64).take(17)


def test_map_has_no_overlaps_and_fits():
    plan = MemoryMap.plan(DESCRIPTOR, kv_blocks=9, submit_size=256, complete_size=2)
    places = [
        (plan.submit_address, 256 * 64),
        (plan.complete_address, 2 * 16),
        (plan.prompts_address, plan.prompts_bytes),
        (plan.tape_address, DESCRIPTOR.image_bytes),
        (plan.kv_address, 9 * DESCRIPTOR.block_bytes),
        (plan.buffer_address, DESCRIPTOR.block_bytes),
        (plan.size, 0),
    ]
    assert places[0][0] == 4096
    for (at, size), (following, _) in itertools.pairwise(places):
        assert at + size <= following and following % 64 == 0
    assert plan.tape_address % 4096 == plan.kv_address % 4096 == 0


def test_map_takes_the_blocks_that_fit():
    needed = memory_needed(DESCRIPTOR, 5)
    assert MemoryMap.plan(DESCRIPTOR, kv_blocks=5, memory_bytes=needed).kv_blocks == 5
    plan = MemoryMap.plan(DESCRIPTOR, kv_blocks=4096, memory_bytes=1 << 20)
    assert 5 < plan.kv_blocks < 4096 and plan.size <= 1 << 20
    with pytest.raises(DriverError, match="memory has 65,536 bytes"):
        MemoryMap.plan(DESCRIPTOR, kv_blocks=4096, memory_bytes=1 << 16, prompts_bytes=1 << 16)


@pytest.mark.parametrize("name", ["submit_size", "complete_size"])
@pytest.mark.parametrize("value", [0, 1, 3])
def test_map_refuses_ring_sizes(name, value):
    with pytest.raises(DriverError, match=f"{name} must be a power of two of at least 2, not {value}"):
        MemoryMap.plan(DESCRIPTOR, kv_blocks=4, **{name: value})


@pytest.mark.parametrize("size", [2, 64])
def test_an_empty_ring_has_no_record_that_looks_new(size):
    plan = MemoryMap.plan(DESCRIPTOR, kv_blocks=4, complete_size=size)
    raw = plan.empty_completions()
    assert len(raw) == 16 * size
    for number in [1, 2, size, size + 1, 2**32 - 1, 2**32]:
        place = (plan.record_address(number) - plan.complete_address) // 16
        assert Completion.unpack(raw[16 * place : 16 * place + 16]).number != number % 2**32
