# SPDX-License-Identifier: Apache-2.0
"""The configuration: presets, what follows from a preset, and what is refused."""

import dataclasses
import re

import pytest

from serrano.config import PRESETS, AcceleratorConfig, preset


def test_load_path_rule() -> None:
    assert (preset("base").load_bytes, preset("base").tile_units) == (32, 8)
    assert (preset("tiny").load_bytes, preset("tiny").tile_units) == (8, 2)
    assert (preset("ulx3s").load_bytes, preset("ulx3s").tile_units) == (8, 8)
    wide = dataclasses.replace(preset("base"), n=32, port_bytes=64, lanes=16)
    assert (wide.load_bytes, wide.load_vectors, wide.tape_align) == (64, 2, 64)


def test_derived() -> None:
    base = preset("base")
    assert base.group_tiles == 1 and preset("tiny").group_tiles == 4
    assert base.table_entries == 256
    assert base.input_max == 8192


def test_unknown_preset() -> None:
    message = "preset must be one of tiny, small, lean, ulx3s, base, wide, not 'huge'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        preset("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 12}, "n must be a power of two from 4 to 64, not 12"),
        ({"lanes": 16}, "lanes must be a power of two from 1 to 8, not 16"),
        ({"port_bytes": 128}, "port_bytes must be a power of two from 2 to 64, not 128"),
        ({"dim_max": 100}, "dim_max must be a positive multiple of n (16), not 100"),
        ({"context_max": 8}, "context_max must be a positive multiple of 16, not 8"),
        ({"blocks_max": 1}, "blocks_max must be at least 2 (block 0 is NULL), not 1"),
        ({"tape_fifo_bytes": 2048}, "tape_fifo_bytes must hold two bursts (4096), not 2048"),
        ({"memory_latency": 0}, "memory_latency must be at least 1, not 0"),
        ({"held_weights": True}, "multiplier_latency must be at least 2 with held_weights, not 1"),
        ({"lookahead": 0}, "lookahead must be at least 1, not 0"),
        ({"read_burst_bytes": 8192}, "read_burst_bytes must be at most 256 beats and 4096 bytes, not 8192"),
    ],
)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(PRESETS["base"], **change)


def test_head_dim_larger_than_kv_width() -> None:
    message = "head_dim_max (2048) must not exceed kv_width_max (1024), nor that twice dim_max (2048)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(PRESETS["base"], head_dim_max=2048)


def test_presets_are_named_after_their_key() -> None:
    assert all(isinstance(c, AcceleratorConfig) and c.name == key for key, c in PRESETS.items())
