# SPDX-License-Identifier: Apache-2.0
"""What the data path's tests share: small accelerators, random KV pages, and a translator."""

import dataclasses
import random
from typing import Any

import numpy as np

from serrano.config import AcceleratorConfig, preset
from serrano.kvcache import Status
from serrano.kvcache.payloads import MoveKind
from serrano_sim.golden.kvcache import KVCache, run_offsets
from support.axi import AXIMemory

BASE = 0x3000
LATENCY = 3


def accelerator(n: int, port_bytes: int, lanes: int | None = None, **changes) -> AcceleratorConfig:
    """A small one with this array and port."""
    lanes = lanes or n // 2
    return dataclasses.replace(
        preset("tiny"),
        n=n,
        port_bytes=port_bytes,
        lanes=lanes,
        read_burst_bytes=min(256, 16 * port_bytes),
        tape_fifo_bytes=4096,
        context_max=256,
        blocks_max=32,
        **changes,
    )


def random_pages(layers: int, kv_heads: int, head_dim: int, n: int, seed: int) -> KVCache:
    """Pages full of random bytes, none of them zero: also what nobody has written."""
    cache = KVCache(layers, kv_heads, head_dim, n, blocks=32)
    cache.image[:] = np.random.default_rng(seed).integers(1, 256, cache.image.shape, dtype=np.uint8)
    return cache


def masked_record(cache: KVCache, block: int, record: int, low: int, high: int) -> bytes:
    """A record with all tokens outside of low..high-1 blanked."""
    start = record * cache.record_bytes
    found = cache.image[block, start : start + cache.record_bytes].copy()
    wanted = np.zeros(16, dtype=bool)
    wanted[low:high] = True
    run = np.zeros(16 * cache.head_dim, dtype=bool)
    for token in np.flatnonzero(wanted):
        run[run_offsets(cache.head_dim, cache.n)[token]] = True
    scales = np.repeat(wanted, 2)
    return np.where(np.concatenate([scales, scales, run, run]), found, 0).astype(np.uint8).tobytes()


class Pages:
    """Golden pages as they lie in a memory, with a host's buffer behind them, and what moves make of both.

    ``expected`` is what the memory is to hold. Errors that the memory is told to report are part of it: what
    cannot be read is written as zeros, what cannot be written stays.
    """

    def __init__(self, cache: KVCache, records: int, port_bytes: int, latency: int, stall: float, seed: int):
        self.cache, self.records, self.width = cache, records, port_bytes
        self.buffer = BASE + cache.image.size + 4096 - 64
        self.memory = AXIMemory(self.buffer + 8 * cache.record_bytes + 4096, latency, stall, seed)
        self.memory.data[:] = random.Random(f"pages {seed}").randbytes(len(self.memory.data))
        self.memory.data[BASE : BASE + cache.image.size] = cache.image.tobytes()
        self.expected = bytearray(self.memory.data)

    @property
    def geometry(self) -> dict[str, int]:
        return {
            "base": BASE,
            "block_bytes": self.cache.block_bytes,
            "head_dim": self.cache.head_dim,
            "records": self.records,
        }

    def load(self) -> None:
        """Make the golden pages what the memory is to hold."""
        cache = self.cache
        image = np.frombuffer(self.expected, np.uint8)[BASE : BASE + cache.image.size]
        cache.image[:] = image.reshape(cache.image.shape)

    def store(self) -> None:
        """Expect the golden pages in memory."""
        self.expected[BASE : BASE + self.cache.image.size] = self.cache.image.tobytes()

    def move(self, move: dict[str, Any]) -> int:
        """Make a move; whether it meets an error."""
        self.load()
        cache, size = self.cache, self.cache.record_bytes
        block, low, high = move["source"], move["low"], move["high"]
        source = BASE + block * cache.block_bytes
        target = BASE + move["destination"] * cache.block_bytes
        data, length = bytearray(), cache.block_bytes
        match move["kind"]:
            case MoveKind.COPY:
                for record in range(self.records):
                    data += cache.record(block, record, low, high).tobytes()
                cache.copy(block, move["destination"], high, low)
                assert cache.image[move["destination"]].tobytes() == data.ljust(length, b"\0")
            case MoveKind.GATHER:
                data += cache.record(block, move["record"], low, high).tobytes()
                assert data == masked_record(cache, block, move["record"], low, high)
                source += move["record"] * size
                target, length = self.buffer + move["index"] * size, size
        unread = [a - source for a in self.memory.read_errors if source <= a < source + len(data)]
        unwritten = [a for a in self.memory.write_errors if target <= a < target + length]
        for place in unread:
            data[place : place + self.width] = bytes(self.width)
        data = data.ljust(length, b"\0")
        for address in unwritten:
            kept = self.expected[address : address + self.width]
            data[address - target : address - target + self.width] = kept
        self.expected[target : target + length] = data
        return int(bool(unread or unwritten))


async def translator(
    ctx, port, tables: dict[int, list[int]], stall: float = 0.0, seed: int = 0, lengths: Any = None
) -> None:
    """Answer look-ups for ever from tables in which 0 stands for what is not mapped.

    All tokens of a table are committed, or as many as ``lengths`` says.
    """
    rng = random.Random(f"translator {seed}")
    pipeline: list = [None] * LATENCY
    while True:
        ready = rng.random() >= stall
        ctx.set(port.request.ready, ready)
        request = ctx.get(port.request.payload)
        go = ready and ctx.get(port.request.valid)
        pipeline.append((request.seq, request.index) if go else None)
        await ctx.tick()
        answer = pipeline.pop(1)
        ctx.set(port.response.valid, answer is not None)
        if answer:
            seq, index = answer
            block = tables[seq][index] if index < len(tables[seq]) else None
            status = Status.OUT_OF_RANGE if block is None else Status.OK if block else Status.NOT_MAPPED
            length = (lengths or {}).get(seq, 1 << 16)
            ctx.set(port.response.block, block or 0)
            ctx.set(port.response.tokens, max(0, min(16, length - 16 * index)) if block else 0)
            ctx.set(port.response.status, status)
