# SPDX-License-Identifier: Apache-2.0
"""Records steps on the RTL for ``test_estimate.py``.

    python tests/host/record_steps.py base 15m,decode,b16,dram     rows of the bench
    python tests/host/record_steps.py tiny 260k:2 62:1,7:3 1       model:layers, position:rows, sampled rows

With PYTHONPATH as for all tests. What is recorded is added to ``recorded_steps.json``, or replaced there.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from serrano.config import preset
from serrano_host.estimate import Span
from serrano_sim.bench.cases import SHAPES, Piece, chosen, full_plan, pieces_of
from serrano_sim.bench.piece import measure_piece
from serrano_sim.top.design import top_design

FILE = Path(__file__).with_name("recorded_steps.json")
VOCAB = 512


def pieces(name: str, rows: str, spans: str = "", sampled: str = "0", memory: str = "fixed60") -> list[Piece]:
    """The steps that a command line names."""
    if not spans:
        cases = chosen(full_plan(list(SHAPES), [name]), [rows])
        found = [piece for case in cases for piece in pieces_of(case, SHAPES[case.shape]).pieces]
        return [dataclasses.replace(piece, golden=False) for piece in dict.fromkeys(found)]
    model, _, layers = rows.partition(":")
    shape = dataclasses.replace(SHAPES[model], layers=int(layers), vocab=VOCAB)
    parts = tuple(Span(*map(int, part.split(":"))) for part in spans.split(","))
    title = f"{model}:{layers} {name} {spans} {memory}"
    return [Piece(name, memory, shape, parts, int(sampled), name=title)]


def record(piece: Piece) -> dict[str, object]:
    """A step from its begin to that of the next one: cycles of each packet and behind the last, and beats."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure_piece(piece, top_design(preset(piece.preset)), Path(folder) / "run", lambda *_: None)
    return {
        "name": piece.name,
        "preset": piece.preset,
        "memory": piece.memory,
        "shape": vars(piece.shape),
        "spans": found.spans,
        "sampled": piece.sampled,
        "cycles": [section.cycles for section in found.sections],
        "weights": sum(section.port.get("weights", 0) for section in found.sections),
        "kv": sum(section.port.get("kv", 0) for section in found.sections),
        "array": sum(section.array.get("busy", 0) for section in found.sections),
    }


def main() -> None:
    """Records, and writes the file after each step."""
    for piece in pieces(*sys.argv[1:]):
        row = record(piece)
        old = json.loads(FILE.read_text()) if FILE.exists() else []
        rows = {item["name"]: item for item in old} | {row["name"]: row}
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, rows.values())) + "\n]\n")
        print(row["name"], sum(row["cycles"]))


if __name__ == "__main__":
    main()
