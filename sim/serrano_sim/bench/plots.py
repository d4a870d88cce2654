# SPDX-License-Identifier: Apache-2.0
"""Plots of a report, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from serrano.config import preset

from ..top.figures import ARRAY, PORT
from .rows import peak_bytes

__all__ = ["PLOTS", "write_plots"]

Rows = Sequence[Mapping[str, Any]]

# Told apart also by those who see fewer colours.
USEFUL = {"busy": "#0072B2", "weights": "#0072B2", "kv": "#56B4E9", "other": "#CC79A7"}
LOST = {
    "wait_tape": "#E69F00",
    "wait_kv": "#F0E442",
    "epilogue": "#D55E00",
    "serial": "#CC79A7",
    "idle": "#BBBBBB",
    "no_space": "#009E73",
    "latency": "#D55E00",
    "no_request": "#BBBBBB",
}
MARKERS = "osD^vP*X"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "serrano",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def _distinct(rows: Rows, name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def roofline(rows: Rows) -> Figure:
    """MACs per cycle against MACs per byte, and what port and array allow, for each preset."""
    presets, shapes = _distinct(rows, "preset"), _distinct(rows, "shape")
    phases = _distinct(rows, "phase")
    figure = Figure(figsize=(6.4 * len(presets), 4.6))
    axes = figure.subplots(1, len(presets), squeeze=False)
    for axis, name in zip(axes[0], presets, strict=True):
        config = preset(name)
        top, width = config.n**2, config.port_bytes
        own = [row for row in rows if row["preset"] == name and row["memory"] != "dram"]
        points = [(_intensity(row), row["mac_utilization"] * top, row) for row in own]
        low = min((x for x, _, _ in points), default=0.5) / 2
        high = max([x for x, _, _ in points] + [4 * top / width])
        axis.plot([low, top / width, 2 * high], [low * width, top, top], color="black", linewidth=1)
        axis.annotate(f"{top} MACs per cycle", (2 * high, top), ha="right", va="bottom", fontsize=8)
        place = (0.45 * top / width, 0.6 * top)
        axis.annotate(f"{width} bytes per cycle", place, ha="right", va="bottom", fontsize=8)
        for x, y, row in points:
            axis.plot(
                x,
                y,
                MARKERS[phases.index(row["phase"]) % len(MARKERS)],
                color=SERIES[shapes.index(row["shape"]) % len(SERIES)],
                markersize=5,
                alpha=0.8,
            )
        axis.set(xscale="log", yscale="log", title=name)
        axis.set(xlabel="multiply-accumulates per byte that the step needs", ylabel="of them in a cycle")
        handles = [
            *(
                axis.plot([], [], "o", color=SERIES[i % len(SERIES)], label=s)[0]
                for i, s in enumerate(shapes)
            ),
            *(axis.plot([], [], MARKERS[i], color="grey", label=p)[0] for i, p in enumerate(phases)),
        ]
        axis.legend(handles=handles, loc="lower right")
    return figure


def _intensity(row: Mapping[str, Any]) -> float:
    """Multiply-accumulates per byte of a step."""
    config = preset(row["preset"])
    macs = row["mac_utilization"] * config.n**2
    return macs / (row["mbu"] * peak_bytes(config, row["memory"]))


def partitions(rows: Rows) -> Figure:
    """Both partitions of the cycles of every row, as shares."""
    height = 1.6 + 0.19 * len(rows)
    figure = Figure(figsize=(11, height))
    axes = figure.subplots(1, 2, sharey=True)
    names = [
        " ".join(
            (
                row["shape"],
                row["preset"],
                row["phase"],
                f"{row['batch']}",
                f"at {row['context']}",
                row["memory"],
            )
        )
        for row in rows
    ]
    for axis, kind, parts in zip(axes, ("array", "port"), (ARRAY, PORT), strict=True):
        left = [0.0] * len(rows)
        for part in parts:
            shares = [100 * row[f"{kind}_cycles"][part] / row["cycles"] for row in rows]
            axis.barh(names, shares, 0.8, left, label=part, color=(USEFUL | LOST)[part])
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axis.set(title=kind, xlabel="% of the cycles", xlim=(0, 100))
        axis.grid(False)
        axis.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.6 / height))
    axes[0].invert_yaxis()
    return figure


def tokens(rows: Rows) -> Figure:
    """Cycles per token of decoding sequences against context, and against batch."""
    own = [row for row in rows if row["phase"] == "decode" and row["memory"] != "dram"]
    kinds = list(dict.fromkeys((row["shape"], row["preset"]) for row in own))
    figure = Figure(figsize=(3.1 * max(1, len(kinds)), 6), layout="constrained")
    axes = figure.subplots(2, max(1, len(kinds)), squeeze=False)
    for column, kind in enumerate(kinds):
        mine = [row for row in own if (row["shape"], row["preset"]) == kind]
        _lines(axes[0][column], mine, "context", "batch")
        _lines(axes[1][column], mine, "batch", "context")
        axes[0][column].set(title=" on ".join(kind))
    for line in axes:
        line[0].set(ylabel="cycles per token")
    return figure


def _lines(axis: Axes, rows: Rows, along: str, series: str) -> None:
    for number, value in enumerate(sorted(set(_distinct(rows, series)))):
        points = sorted((row[along], row["cycles_per_token"]) for row in rows if row[series] == value)
        color = SERIES[number % len(SERIES)]
        axis.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=f"{series} {value}")
    axis.set(xlabel=along, yscale="log")
    axis.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.yaxis.set_minor_formatter(EngFormatter(sep=" ") if _narrow(rows) else NullFormatter())
    if along == "batch":
        axis.set(xscale="log")
        values = sorted(set(_distinct(rows, along)))
        axis.set_xticks(values, [str(value) for value in values])
        axis.set_xticks([], minor=True)
    axis.legend(fontsize=8)


def _narrow(rows: Rows) -> bool:
    """Whether the values lie so close together that a logarithmic axis has hardly a major tick."""
    values = [row["cycles_per_token"] for row in rows]
    return max(values) < 20 * min(values)


PLOTS = {"roofline": roofline, "partitions": partitions, "tokens": tokens}


def write_plots(report: Mapping[str, Any], folder: Path, prefix: str = "performance-") -> list[Path]:
    """Writes all plots of a report's rows; the same report gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context(STYLE):
        for name, draw in PLOTS.items():
            figure = draw(report["rows"])
            files.append(folder / f"{prefix}{name}.svg")
            figure.savefig(files[-1], bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return files
