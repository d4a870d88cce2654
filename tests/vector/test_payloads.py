# SPDX-License-Identifier: Apache-2.0
"""Payloads hold what a configuration allows, up to its limits."""

import pytest
from amaranth import *

from serrano.config import PRESETS
from serrano.layouts import EpilogueBeat
from serrano.vector import payloads


def largest(layout, field: str) -> int:
    return (1 << Shape.cast(layout[field].shape).width) - 1


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_limits(config) -> None:
    rows, last_input, last_head = config.rows_max, config.input_max - 1, config.head_dim_max - 1
    columns = max(config.vocab_max, 2 * config.ffn_max, config.dim_max + 2 * config.kv_width_max)
    blocks = -(-columns // config.n)
    wanted = {
        payloads.DequantizeCommand: {"rows": rows, "blocks": blocks},
        payloads.StagedBeat: {"row": rows - 1, "column": last_input},
        payloads.WrittenBeat: {"row": rows - 1, "column": config.dim_max - 1},
        payloads.QuantizeCommand: {"rows": rows, "length": config.input_max},
        payloads.CodesBeat: {"row": rows - 1, "column": last_input},
        payloads.FeedCommand: {"rows": rows, "tiles": config.input_max // config.n, "blocks": blocks},
        payloads.HeadsCommand: {"kv_heads": config.heads_max, "head_pad": config.head_dim_max},
        payloads.RopeWrite: {"row": rows - 1, "word": last_head // max(2, config.lanes)},
        payloads.HeadTag: {"row": rows - 1, "head": config.heads_max - 1},
        payloads.HeadBeat: {"word": last_head // config.lanes},
        payloads.HeadCodes: {"row": rows - 1, "head": config.heads_max - 1, "column": last_head},
        payloads.HeadScale: {"row": rows - 1, "head": config.heads_max - 1},
        payloads.ArgmaxCommand: {"rows": rows, "vocab": config.vocab_max},
        payloads.Token: {"row": rows - 1, "token": config.vocab_max - 1},
    }
    for layout, fields in wanted.items():
        for field, value in fields.items():
            assert largest(layout(config), field) >= value, (layout, field)
    assert largest(EpilogueBeat(config), "column") >= columns - 1


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_read_ports(config) -> None:
    port = payloads.WordReadPort(config, signed(32), config.dim_max).create()
    assert 1 << len(port.word) >= config.dim_max // config.lanes
    assert len(Value.cast(port.data)) == 32 * config.lanes
    port = payloads.TileReadPort(config).create()
    assert 1 << len(port.tile) >= config.input_max // config.n
    assert len(Value.cast(port.data)) == 8 * config.n


def test_rows() -> None:
    config = PRESETS["base"]
    assert payloads.row_bits(config) == 4
    assert list(payloads.row_count(config))[-1] == 16
