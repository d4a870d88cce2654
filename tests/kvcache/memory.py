# SPDX-License-Identifier: Apache-2.0
"""What the data path's tests share: small accelerators, random KV pages, and a translator."""

import dataclasses
import random
from typing import Any

import numpy as np

from serrano.config import AcceleratorConfig, preset
from serrano.kvcache import Status
from serrano_sim.golden.kvcache import KVCache, run_offsets

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
