# SPDX-License-Identifier: Apache-2.0
"""docs/presets.md has the values of the configuration, and `make help` the names."""

from pathlib import Path

from serrano.config import PRESETS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "presets.md"
ROWS = {
    "array N x N": lambda c: f"{c.n} x {c.n}",
    "memory port W, bytes per cycle": lambda c: c.port_bytes,
    "load path Wl, bytes per cycle": lambda c: c.load_bytes,
    "epilogue lanes L": lambda c: c.lanes,
    "rows per step": lambda c: c.rows_max,
    "model dimension D": lambda c: c.dim_max,
    "FFN dimension F": lambda c: c.ffn_max,
    "query heads": lambda c: c.heads_max,
    "KV width (`kv_heads * head_pad`)": lambda c: c.kv_width_max,
    "head dimension, padded": lambda c: c.head_dim_max,
    "vocabulary": lambda c: c.vocab_max,
    "context, tokens": lambda c: c.context_max,
    "KV blocks of 16 tokens, NULL included": lambda c: c.blocks_max,
    "sequences": lambda c: c.sequences_max,
    "rows of an attention item R_att": lambda c: c.attention_rows_max,
    "address bits": lambda c: c.address_bits,
    "alignment of tapes": lambda c: c.tape_align,
}


def test_values() -> None:
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    names = [name.strip("`") for name in table[""]]
    assert names == list(PRESETS)
    for row, value in ROWS.items():
        assert table[row] == [str(value(PRESETS[name])) for name in names], row


def test_names_in_help() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("#> PRESET=")]
    lists = [line.split(maxsplit=2)[2].split(": ")[-1] for line in lines if "ulx3s, " in line]
    assert len(lists) == 3
    assert lists == [", ".join(PRESETS)] * len(lists)
