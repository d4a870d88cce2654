# SPDX-License-Identifier: Apache-2.0
"""What a run took, and what the algorithm would have needed: docs/simulation.md."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serrano.config import AcceleratorConfig

from .trace import Step

__all__ = ["ARRAY", "PORT", "Figures", "check_counters", "figures", "useful_bytes", "useful_macs"]

ARRAY = ("busy", "wait_tape", "wait_kv", "epilogue", "serial", "idle")
PORT = ("weights", "kv", "other", "no_space", "latency", "no_request")
BYTES = ("weights", "kv_read", "kv_write", "other")
PORT_BUSY = ("weights", "kv", "other")

Counters = Mapping[str, int]


def matrices(model: Any, sampled: bool) -> list[tuple[int, int]]:
    """(outputs, inputs) of every matrix that a step needs, unpadded.

    ``model`` has the fields of a tape's descriptor; ``layers`` is their number.
    """
    wide, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = [
        (2 * kv + wide, model.dim),
        (model.dim, wide),
        (2 * model.ffn, model.dim),
        (model.dim, model.ffn),
    ]
    return layer * model.layers + ([(model.vocab, model.dim)] if sampled else [])


def useful_bytes(model: Any, spans: Sequence[tuple[int, int]], sampled: bool) -> int:
    """Bytes that a step must read: of each of its sequences (position of the first row, rows).

    Weight codes and a scale of two bytes per output; of each token below a position k and v with their two
    scales, in every layer and KV head; for each row its embedding, with its scale, and its RoPE pairs.
    """
    weights = sum(outputs * inputs + 2 * outputs for outputs, inputs in matrices(model, sampled))
    tokens, rows = (sum(column) for column in zip(*spans, strict=True))
    kv = model.layers * model.kv_heads * tokens * (2 * model.head_dim + 4)
    return weights + kv + rows * (model.dim + 2 + 2 * model.head_dim)


def useful_macs(model: Any, spans: Sequence[tuple[int, int]], sampled: int) -> int:
    """Multiply-accumulates that a step needs, ``sampled`` of its rows being sampled; spans as above.

    Attention takes two per head, dimension and token up to the row's own.
    """
    layers = sum(outputs * inputs for outputs, inputs in matrices(model, False))
    tokens = sum(position + row + 1 for position, rows in spans for row in range(rows))
    attention = 2 * model.layers * model.heads * model.head_dim * tokens
    return layers * sum(rows for _, rows in spans) + attention + sampled * model.vocab * model.dim


def spans_of(step: Step) -> list[tuple[int, int]]:
    """Position of the first row, and rows, of each sequence of a step."""
    return [(span.position, span.rows) for span in step.spans]


@dataclass(frozen=True)
class Figures:
    """Sums over the steps that gave a token, from the commit before the first to the commit of the last.

    ``array_cycles`` and ``port_cycles`` each add up to ``cycles``; ``bytes`` is what crossed the port by
    kind; ``useful_bytes`` and ``useful_macs`` what the algorithm needs.
    """

    tokens: int
    cycles: int
    array_cycles: Mapping[str, int]
    port_cycles: Mapping[str, int]
    bytes: Mapping[str, int]
    useful_bytes: int
    useful_macs: int
    rows_issued: int
    n: int
    port_bytes: int

    @property
    def cycles_per_token(self) -> float:
        """Cycles for each token."""
        return self.cycles / self.tokens

    @property
    def mbu(self) -> float:
        """Share of what the read port could have moved that was needed."""
        return self.useful_bytes / (self.cycles * self.port_bytes)

    @property
    def port_busy(self) -> float:
        """Share of the cycles in which a beat crossed the read port."""
        return sum(self.port_cycles[name] for name in PORT_BUSY) / self.cycles

    @property
    def mac_utilization(self) -> float:
        """Share of the multiply-accumulates that the array could have done that were needed."""
        return self.useful_macs / (self.cycles * self.n * self.n)


def figures(
    steps: Sequence[Step], model: Any, config: AcceleratorConfig, start: Counters | None = None
) -> Figures:
    """The figures of one request.

    Parameters
    ----------
    steps : sequence of :class:`~serrano_sim.top.trace.Step`
        All committed steps of the request, in order, with their counters.
    model : object
        With the fields of a tape's descriptor.
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    start : mapping of :class:`str` to :class:`int`
        The counters at the request's beginning; zeros without it.

    Raises
    ------
    ValueError
        If no step sampled, or a step is without counters.
    """
    sampled = [index for index, step in enumerate(steps) if step.sampled]
    if not sampled:
        raise ValueError("No step gave a token")
    first, last = sampled[0], sampled[-1]
    after = steps[last].counters
    before = steps[first - 1].counters if first else (start or dict.fromkeys(after or {}, 0))
    if before is None or after is None:
        raise ValueError("Counters of a step are missing")
    spent = {name: after[name] - before[name] for name in after}
    own = [steps[index] for index in sampled]
    return Figures(
        tokens=sum(step.sampled for step in own),
        cycles=spent["cycles"],
        array_cycles={name: spent[f"array_{name}"] for name in ARRAY},
        port_cycles={name: spent[f"port_{name}"] for name in PORT},
        bytes={name: spent[f"bytes_{name}"] for name in BYTES},
        useful_bytes=sum(useful_bytes(model, spans_of(step), True) for step in own),
        useful_macs=sum(useful_macs(model, spans_of(step), step.sampled) for step in own),
        rows_issued=spent["rows_issued"],
        n=config.n,
        port_bytes=config.port_bytes,
    )


def check_counters(steps: Sequence[Step]) -> list[str]:
    """What is wrong with the counters of committed steps; nothing if all is right.

    At each commit both partitions add up to the cycles. From commit to commit the cycles are those that went
    by in the simulation; if both steps have no request in common they may be fewer, as nothing may have run.
    """
    found = []
    for step in steps:
        if step.counters is None:
            found.append(f"step {step.index}: no counters in the trace")
            continue
        for kind, names in (("array", ARRAY), ("port", PORT)):
            total = sum(step.counters[f"{kind}_{name}"] for name in names)
            if total != step.counters["cycles"]:
                cycles = step.counters["cycles"]
                found.append(f"step {step.index}: {kind} cycles add up to {total:,}, not to {cycles:,}")
    counted = [step for step in steps if step.counters is not None]
    for one, two in itertools.pairwise(counted):
        cycles, passed = two.counters["cycles"] - one.counters["cycles"], two.commit - one.commit
        if cycles > passed or (cycles != passed and set(one.numbers) & set(two.numbers)):
            found.append(
                f"step {two.index}: {cycles:,} cycles counted since the last commit, {passed:,} went by"
            )
    return found
