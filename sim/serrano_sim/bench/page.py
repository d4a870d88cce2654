# SPDX-License-Identifier: Apache-2.0
"""The part of docs/performance.md that is made from a report."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..top.figures import PORT_BUSY

__all__ = ["BEGIN", "END", "in_the_way", "measured_part", "replace_part", "way_text", "write_page"]

BEGIN = "<!-- made by `make bench` from build/reports/bench.json: begin -->"
END = "<!-- end -->"
LEAST_SHARE = 0.001
"""Smaller shares of a step are not told."""

HEADER = [
    *("step", "rows", "context", "memory", "cycles", "per token"),
    *("MBU", "port busy", "MACs", "of bound", "estimate", "target", "bit exact"),
]
HEADER_RIGHT = ("at least", "measured")
RIGHT = HEADER[1:3] + HEADER[4:11]

Row = Mapping[str, Any]


def _lost(cycles: Mapping[str, int], partition: str) -> dict[str, int]:
    """What is not useful in a partition."""
    useful = ("busy",) if partition == "array" else PORT_BUSY
    return {name: value for name, value in cycles.items() if name not in useful and value}


def in_the_way(row: Row) -> tuple[str, dict[str, float], dict[str, float]]:
    """What keeps a row from its limit.

    Returns
    -------
    partition : :class:`str`
        ``port`` or ``array``: the one that is nearer to its limit.
    categories, packets : dict of :class:`str` to :class:`float`
        Shares of the step in which it did nothing useful, by category, and by packet; the largest first.
    """
    wanted = {"mbu": "port", "mac_utilization": "array"}.get(row["target"])
    partition = wanted or ("port" if row["mbu"] >= row["mac_utilization"] else "array")
    categories = _lost(row[f"{partition}_cycles"], partition)
    packets = {
        packet["packet"]: sum(_lost(packet[f"{partition}_cycles"], partition).values())
        for packet in row["packets"]
    }
    shares = []
    for counted in (categories, packets):
        told = sorted(counted.items(), key=lambda item: -item[1])
        shares.append(
            {name: value / row["cycles"] for name, value in told if value >= LEAST_SHARE * row["cycles"]}
        )
    return partition, *shares


def way_text(row: Row, most: int = 3) -> str:
    """The same for people."""
    partition, categories, packets = in_the_way(row)
    if not categories:
        return f"{partition}: hardly anything"

    def told(shares: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:most])

    return f"{partition}: {told(categories)}; in {told(packets)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _table(header: Sequence[str], lines: Iterator[Sequence[str]], right: Sequence[str] = ()) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---:' if name in right else '---' for name in header)}|"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def _row_lines(rows: Sequence[Row]) -> Iterator[Sequence[str]]:
    for row in rows:
        target = ""
        if row["target"]:
            target = f"{_percent(row['target_value'])} {'met' if row['met'] else '**missed**'}"
        yield (
            row["phase"],
            str(row["batch"]),
            f"{row['context']:,}",
            row["memory"],
            f"{row['cycles']:,}{'*' if row['extrapolated'] else ''}",
            f"{row['cycles_per_token']:,.0f}",
            *(_percent(row[name]) for name in ("mbu", "port_busy", "mac_utilization", "bound_share")),
            f"{100 * (row['estimated_cycles'] / row['cycles'] - 1):+.1f}",
            target,
            "yes" if row["golden_checked"] else "",
        )


def measured_part(report: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """What a report tells: plots, all rows, and what is in the way where a figure is missed."""
    rows: Sequence[Row] = report["rows"]
    lines: list[str] = []
    for name in plots:
        title = Path(name).stem.removeprefix("performance-")
        lines += [f"![{title}]({name})", ""]
    if report["figures"]:
        lines += _table(
            ("figure", "at least", "measured", ""), _figure_lines(report["figures"]), HEADER_RIGHT
        )
        lines.append("")
    for shape, name in dict.fromkeys((row["shape"], row["preset"]) for row in rows):
        own = [row for row in rows if (row["shape"], row["preset"]) == (shape, name)]
        dimensions = ", ".join(f"{key} {value:,}" for key, value in report["shapes"][shape].items())
        lines += [f"### `{shape}` on `{name}`", "", f"{dimensions}.", ""]
        lines += [*_table(HEADER, _row_lines(own), RIGHT), ""]
    if any(row["extrapolated"] for row in rows):
        lines += ["\\* two layers and the LM head were simulated.", ""]
    lines += _sums(report)
    missed = [row for row in rows if row["met"] is False]
    if missed:
        lines += ["### Where a figure is not reached", ""]
        lines += _table(
            ("model", "step", "rows", "context", "memory", "figure", "is", "at least", "what is in the way"),
            (_missed_line(row) for row in missed),
            ("rows", "context", "is", "at least"),
        )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _figure_lines(figures: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for figure in figures:
        # A share, or how many times.
        shown = _percent if figure["target_value"] <= 1 else "{:.2f}".format
        yield (
            figure["figure"],
            shown(figure["target_value"]),
            shown(figure["least"]),
            "met" if figure["met"] else "**missed**",
        )


def _missed_line(row: Row) -> Sequence[str]:
    value = max(row[part] for part in row["target"].split(" or "))
    return (
        f"`{row['shape']}`",
        row["phase"],
        str(row["batch"]),
        f"{row['context']:,}",
        row["memory"],
        row["target"].replace("_", " "),
        f"{100 * value:.2f}",
        _percent(row["target_value"]),
        way_text(row),
    )


def _sums(report: Mapping[str, Any]) -> Iterator[str]:
    for found in report["extrapolation"]:
        yield (
            f"The step `{found['case']}` took {found['whole']:,} cycles when it was simulated whole;"
            f" from its parts it is {found['extrapolated']:,} ({100 * found['error']:+.2f} %)."
        )
        yield ""
    for found in report["throughput"]:
        if found["target_value"]:
            yield (
                f"16 sequences of `{found['shape']}` with a context of {found['context']:,} on"
                f" `{found['preset']}` give {found['times']:.2f} times the tokens of one; at least"
                f" {found['target_value']:.0f}: {'met' if found['met'] else '**missed**'}."
            )
            yield ""


def replace_part(text: str, part: str) -> str:
    """A page with its part that is made from a report replaced.

    Raises
    ------
    ValueError
        If the page does not say where that part is.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{part}\n{END}{tail}"


def write_page(report: Mapping[str, Any], page: Path, plots: Sequence[Path]) -> None:
    """Puts a report into a page; the plots are beside it."""
    part = measured_part(report, [file.relative_to(page.parent).as_posix() for file in plots])
    page.write_text(replace_part(page.read_text(encoding="utf-8"), part), encoding="utf-8")
