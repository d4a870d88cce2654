# SPDX-License-Identifier: Apache-2.0
"""Rows of the report, from what was measured: figures, extrapolation, bounds and targets."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serrano.config import AcceleratorConfig, preset
from serrano_host.estimate import Memory, Shape, Span, estimate
from serrano_host.presets import MACHINES
from serrano_host.tape import head_pad

from ..memory.dram import PARTS
from ..top.figures import PORT_BUSY, useful_bytes, useful_macs
from .cases import MEMORIES, Case, Plan
from .cycles import BETWEEN, Section, total
from .piece import Measured

__all__ = [
    "KEYS",
    "bound_cycles",
    "build_row",
    "compose",
    "figure_of",
    "figures_of",
    "packet_name",
    "peak_bytes",
    "target_of",
    "throughput",
]

KEYS = (
    "shape preset phase batch context memory cycles cycles_per_token mbu port_busy mac_utilization"
    " array_cycles port_cycles extrapolated golden_checked bound_cycles bound_share target target_value"
    " met estimated_cycles packets"
).split()
"""What a row has."""

LAYER = ("NORM", "QKV", "ATTEND", "MATMUL o", "NORM", "GATE_UP", "MATMUL down")
HEAD = ("NORM", "MATMUL logits", "SAMPLE", "END")
LARGE = ("15m", "135m", "1.1b")
MANY, THROUGHPUT = 16, 11.0
PREFILL = {"15m": 0.82, "135m": 0.91, "1.1b": 0.96}


def packet_name(packet: int, layers: int) -> str:
    """The name of a packet of a tape; those of all layers have the same ones."""
    if packet == BETWEEN:
        return "between steps"
    if packet == 0:
        return "EMBED"
    if packet <= 7 * layers:
        return LAYER[(packet - 1) % 7]
    return HEAD[packet - 7 * layers - 1] + (" final" if packet == 7 * layers + 1 else "")


def compose(plan: Plan, shape: Shape, measured: Mapping[Any, Measured]) -> list[tuple[str, Section, int]]:
    """The sections of a step of the whole model: name, section, and how often it is there.

    With ``L`` layers: all of the body up to what is behind its last layer; that layer again for each one
    that it lacks; then what comes behind the last layer, of the head's model if there is one.
    """
    body = measured[plan.body]
    if not plan.extrapolated:
        return [(packet_name(section.packet, shape.layers), section, 1) for section in body.sections]
    layers = plan.body.shape.layers
    first_of_last, behind = 1 + 7 * (layers - 1), 1 + 7 * layers
    more = shape.layers - layers
    found = []
    for section in body.sections:
        if section.packet != BETWEEN and section.packet < behind:
            times = 1 + more * (section.packet >= first_of_last)
            found.append((packet_name(section.packet, layers), section, times))
    end, end_layers = (body, layers) if plan.head is None else (measured[plan.head], plan.head.shape.layers)
    for section in end.sections:
        if section.packet == BETWEEN or section.packet > 7 * end_layers:
            found.append((packet_name(section.packet, end_layers), section, 1))
    return found


def matrices(shape: Shape, n: int, sampled: bool) -> Iterator[tuple[str, int]]:
    """Tiles of each matrix of a step, by the name of its packet."""
    pad = head_pad(shape.head_dim, n)

    def tiles(n_out: int, k: int) -> int:
        return -(-n_out // n) * -(-k // n)

    yield "QKV", shape.layers * tiles((2 * shape.kv_heads + shape.heads) * pad, shape.dim)
    yield "MATMUL o", shape.layers * tiles(shape.dim, shape.heads * pad)
    yield "GATE_UP", shape.layers * tiles(2 * shape.ffn, shape.dim)
    yield "MATMUL down", shape.layers * tiles(shape.dim, shape.ffn)
    if sampled:
        yield "MATMUL logits", tiles(shape.vocab, shape.dim)


def bound_cycles(
    shape: Shape, config: AcceleratorConfig, spans: Sequence[tuple[int, int]], sampled: int
) -> dict[str, int]:
    """What the tiles of each packet take at least, max(M, N * N / W) each, and the records of KV memory.

    Of these only the tokens that are there count.
    """
    n, rows = config.n, sum(count for _, count in spans)
    least = n * n // config.port_bytes
    found = {}
    for name, tiles in matrices(shape, n, sampled > 0):
        found[name] = tiles * max(least, sampled if name == "MATMUL logits" else rows)
    stored = sum(position for position, _ in spans)
    kv = shape.layers * shape.kv_heads * stored * (2 * shape.head_dim + 4)
    found["ATTEND"] = -(-kv // config.port_bytes)
    return found


def peak_bytes(config: AcceleratorConfig, memory: str) -> int:
    """Bytes per cycle that memory and port can move at most."""
    part = MEMORIES[memory].dram
    return min(config.port_bytes, PARTS[part].bytes_per_cycle) if part else config.port_bytes


def figure_of(case: Case) -> tuple[str, str, float] | None:
    """What a row is held to: for people, the row's key, and what that has to be at least."""
    if case.preset != "base":
        return None
    if case.memory == "dram":
        if (case.shape, case.phase, case.batch) == ("135m", "decode", 1):
            return "135m decode, 1 row, DRAM: MBU of the part's peak", "mbu", 0.90
        return None
    match case.phase:
        case "decode" if case.shape in LARGE and case.batch <= 4:
            return f"{', '.join(LARGE)} decode, 1 and 4 rows: MBU", "mbu", 0.99
        case "decode" if case.shape in LARGE:
            text = f"{', '.join(LARGE)} decode, 16 rows: MBU or MAC utilization"
            return text, "mbu or mac_utilization", 0.95
        case "decode" if case.shape == "260k" and case.batch == 1:
            return "260k decode, 1 row: MBU", "mbu", 0.95
        case "prefill" if case.context == 256 and case.shape in PREFILL:
            text = f"{case.shape} prefill, 16 rows at context 256: MAC utilization"
            return text, "mac_utilization", PREFILL[case.shape]
        case "mixed":
            return "mixed steps: bound over cycles, at most 5 % more", "bound_share", 1 / 1.05
    return None


def target_of(case: Case) -> tuple[str, float] | None:
    """The figure that a row is held to, and what it has to be at least."""
    found = figure_of(case)
    return found and found[1:]


def figures_of(rows: Sequence[Mapping[str, Any]], times: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each figure with the row that is worst at it, from rows and what :func:`throughput` gave."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        case = Case(*(row[field.name] for field in dataclasses.fields(Case)))
        figure = figure_of(case)
        if figure is None:
            continue
        text, name, target = figure
        value = max(row[part] for part in name.split(" or "))
        known = found.setdefault(text, {"figure": text, "rows": 0, "least": math.inf})
        known["rows"] += 1
        if value < known["least"]:
            known |= {"least": value, "target_value": target, "met": value >= target, "at": str(case)}
    for one in times:
        if one["target_value"]:
            text = f"{one['shape']} at context {one['context']}: tokens of 16 sequences over those of one"
            kept = {"least": one["times"], "target_value": one["target_value"], "met": one["met"]}
            found[text] = {"figure": text, "rows": 2, **kept, "at": ""}
    return list(found.values())


def build_row(case: Case, shape: Shape, plan: Plan, measured: Mapping[Any, Measured]) -> dict[str, Any]:
    """The row of a case.

    Raises
    ------
    PartitionError
        If the partitions do not add up.
    """
    config = preset(case.preset)
    parts = compose(plan, shape, measured)
    whole = total((section, times) for _, section, times in parts)
    spans = measured[plan.body].spans
    size, macs = useful_bytes(shape, spans, case.sampled > 0), useful_macs(shape, spans, case.sampled)
    rows = tuple(Span(position, count) for position, count in spans)
    estimated = estimate(MACHINES[case.preset], shape, rows, case.sampled, Memory.of(case.memory))
    bound = bound_cycles(shape, config, spans, case.sampled)
    row = {
        **{name: getattr(case, name) for name in ("shape", "preset", "phase", "batch", "context", "memory")},
        "cycles": whole.cycles,
        "cycles_per_token": whole.cycles / (case.sampled or case.batch),
        "mbu": size / (whole.cycles * peak_bytes(config, case.memory)),
        "port_busy": sum(whole.port[name] for name in PORT_BUSY) / whole.cycles,
        "mac_utilization": macs / (whole.cycles * config.n**2),
        "array_cycles": dict(whole.array),
        "port_cycles": dict(whole.port),
        "extrapolated": plan.extrapolated,
        "golden_checked": all(measured[piece].golden is not None for piece in plan.pieces),
        "bound_cycles": sum(bound.values()),
        "bound_share": sum(bound.values()) / whole.cycles,
        "target": None,
        "target_value": None,
        "met": None,
        "estimated_cycles": round(estimated.cycles),
        "packets": packets_of(parts, bound),
    }
    if target := target_of(case):
        name, least = target
        value = max(row[part] for part in name.split(" or "))
        row |= {"target": name, "target_value": least, "met": value >= least}
    return row


def packets_of(parts: Sequence[tuple[str, Section, int]], bound: Mapping[str, int]) -> list[dict[str, Any]]:
    """The cycles of all packets of a kind together, and what they take at least."""
    kinds: dict[str, list[tuple[Section, int]]] = {}
    for name, section, times in parts:
        kinds.setdefault(name, []).append((section, times))
    found = []
    for name, sections in kinds.items():
        whole = total(sections)
        found.append(
            {
                "packet": name,
                "times": sum(times for _, times in sections),
                "cycles": whole.cycles,
                "bound_cycles": bound.get(name, 0),
                "array_cycles": {key: value for key, value in whole.array.items() if value},
                "port_cycles": {key: value for key, value in whole.port.items() if value},
            }
        )
    return found


def throughput(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many times the tokens of one sequence a batch of 16 gives in the same time."""
    axes = ("shape", "preset", "context", "memory")
    decode = {
        (*(row[name] for name in axes), row["batch"]): row["cycles_per_token"]
        for row in rows
        if row["phase"] == "decode"
    }
    found = []
    for key in decode:
        *where, batch = key
        if batch == MANY and (*where, 1) in decode:
            times = decode[*where, 1] / decode[key]
            case = dict(zip(axes, where, strict=True))
            target = THROUGHPUT if (case["shape"], case["context"]) == ("135m", 256) else None
            target = target if (case["preset"], case["memory"]) == ("base", "fixed60") else None
            met = None if target is None else times >= target
            found.append({**case, "times": times, "target_value": target, "met": met})
    return found
