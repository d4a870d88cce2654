# SPDX-License-Identifier: Apache-2.0
"""Formation of steps: rows, spans and turns, against the rule in Python."""

import random
import struct

import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient
from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Status
from serrano.schedule.formation import Formation
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

VOCAB = 1000


def form(config, slots: dict[int, dict], steps: int, stall: float, refuse: dict[int, Status] | None = None):
    """Form and commit steps; ``slots`` by sequence."""
    dut = Formation(config)
    beats = max(1, 64 // config.port_bytes)
    arbiter = ReadArbiter(config, [ReadClient("prompt", beats, 2 * beats)])
    m = Module()
    m.submodules.dut, m.submodules.arbiter = dut, arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(4096, 4, stall)
    struct.pack_into("<1024I", memory.data, 0, *range(1024))
    formed, rows, spans, failed = [], {}, [], []

    async def bench(ctx) -> None:
        ctx.set(dut.vocab, VOCAB)
        for _ in range(steps):
            alive = {s: slot for s, slot in slots.items() if not slot.get("failed")}
            prompts = [s for s, slot in alive.items() if slot["position"] + 1 < slot["prompt_tokens"]]
            ctx.set(dut.prompting, sum(1 << s for s in prompts))
            ctx.set(dut.decoding, sum(1 << s for s in alive if s not in prompts))
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().until(dut.done)
            step = ctx.get(dut.step)
            assert ctx.get(dut.spans) == len(spans)
            formed.append(
                (step.rows, step.sampled, step.last, list(spans), [rows[i] for i in range(step.rows)])
            )
            for sequence, _, count, _ in spans:
                slots[sequence]["position"] += count
            for sequence, _ in failed:
                slots[sequence]["failed"] = True
            spans.clear()
            ctx.set(dut.commit, 1)
            await ctx.tick()
            ctx.set(dut.commit, 0)

    async def slot_memory(ctx) -> None:
        ctx.set(dut.span.ready, 1)
        shown = (dut.slot_sequence, dut.row_en, dut.row, dut.span.valid, dut.span.payload, dut.failed)
        async for _, _, sequence, row_en, row, valid, span, event in ctx.tick().sample(*shown):
            if row_en:
                rows[row.row] = (row.sequence, row.position, row.token)
            if valid:
                spans.append((span.sequence, span.row, span.rows, span.position))
            if event.valid:
                failed.append((event.sequence, FaultCode(event.code)))
            fields = {name: value for name, value in slots.get(sequence, {}).items() if name != "failed"}
            ctx.set(dut.slot, fields)

    async def controller(ctx) -> None:
        while True:
            (command,) = await collect(ctx, dut.kv.commands, 1, stall, 1, lambda p: p)
            status = (refuse or {}).get(command.seq, Status.OK)
            aux = slots[command.seq]["position"] if status is Status.OK else 0
            # It may be looked at in the cycle before.
            response = {"status": status, "aux": aux}
            ctx.set(dut.kv.responses.payload, response)
            await ctx.tick()
            await send(ctx, dut.kv.responses, [response], stall, 2)

    async def serve(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    simulate(m, bench, background=[slot_memory, controller, serve], cycles=60_000)
    return formed, failed


def slot(prompt: int, prompt_tokens: int, position: int = 0, token: int = 0, number: int = 0) -> dict:
    return {
        "tenant": 3,
        "number": number,
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "position": position,
        "token": token,
    }


@pytest.mark.parametrize("name", ["tiny", "base", "ulx3s"])
@pytest.mark.parametrize("stall", STALLS)
def test_steps(name: str, stall: float) -> None:
    config = preset(name)
    rng = random.Random(5)
    slots = {}
    for sequence in range(config.sequences_max):
        count = rng.randrange(1, 3 * config.rows_max)
        decodes = sequence % 3 == 1
        # Numbers go round.
        number = (7 * sequence - 20) % 2**32 if sequence % 2 else (sequence - 40) % 2**32
        # Of some only the last token of the prompt is left.
        start = count - sequence % 2 if decodes else 0
        slots[sequence] = slot(4 * rng.randrange(500), count, start, rng.randrange(VOCAB), number)
    own = {s: dict(values) for s, values in slots.items()}
    order = [s for s, values in own.items() if values["position"] + 1 < values["prompt_tokens"]]
    order.sort(key=lambda s: (own[s]["number"] + 2**31) % 2**32)
    turn = 0
    formed, failed = form(config, slots, 12, stall)
    assert not failed
    for rows, sampled, last, spans, given in formed:
        prompts = [s for s in order if own[s]["position"] + 1 < own[s]["prompt_tokens"]]
        decoding = [s for s in own if own[s]["position"] + 1 >= own[s]["prompt_tokens"]]
        decoding = [s for s in decoding if s >= turn] + [s for s in decoding if s < turn]
        most = config.rows_max - bool(prompts)
        if len(decoding) > most:
            turn = decoding[most]
        expected = [(s, 1) for s in decoding[:most]]
        wanted = len(expected)
        if prompts:
            first = own[prompts[0]]
            rest = first["prompt_tokens"] - first["position"]
            chunk = min(config.rows_max - len(expected), rest)
            expected.append((prompts[0], chunk))
            wanted += chunk == rest
        assert [(s, count) for s, _, count, _ in spans] == expected
        assert rows == sum(count for _, count in expected) and sampled == wanted
        at, tokens = 0, []
        for (s, row, count, position), _ in zip(spans, expected, strict=True):
            assert (row, position) == (at, own[s]["position"])
            for place in range(position, position + count):
                prompt = place < own[s]["prompt_tokens"]
                tokens.append((s, place, own[s]["prompt"] // 4 + place if prompt else own[s]["token"]))
            at, own[s]["position"] = at + count, position + count
        assert given == tokens
        if sampled:
            ends = prompts and own[prompts[0]]["position"] == own[prompts[0]]["prompt_tokens"]
            assert last == (rows - 1 if ends else min(len(decoding), most) - 1)


@pytest.mark.parametrize("name", ["base", "ulx3s"])
def test_a_request_that_fails_is_left_out(name: str) -> None:
    """One is closed, one is elsewhere; a prompt has a token that the vocabulary has not."""
    slots = {0: slot(0, 2, 2), 1: slot(0, 2, 5), 2: slot(4 * 990, 12)}
    refuse = {1: Status.BAD_SEQ}
    formed, failed = form(preset(name), slots, 2, 0.0, refuse)
    assert failed == [(1, FaultCode.REQUEST_CHANGED), (2, FaultCode.REQUEST_TOKEN)]
    assert [spans for _, _, _, spans, _ in formed] == [[(0, 0, 1, 2)], [(0, 0, 1, 3)]]
