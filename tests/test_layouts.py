# SPDX-License-Identifier: Apache-2.0
"""Shared payloads: signs survive, and every field is wide enough for its configuration."""

import pytest

from serrano.config import PRESETS, AcceleratorConfig
from serrano.layouts import EpilogueBeat, PackedScale, ReadRequest, RowTag, Scale, accumulator_depth


@pytest.mark.parametrize("config", PRESETS.values(), ids=list(PRESETS))
def test_fields_hold_their_largest_values(config: AcceleratorConfig) -> None:
    tag = RowTag(config)
    assert 1 << tag["address"].width >= accumulator_depth(config)
    beat = EpilogueBeat(config)
    assert 1 << beat["column"].width >= max(config.vocab_max, 2 * config.ffn_max)
    assert 1 << beat["row"].width >= config.rows_max
    assert ReadRequest(config)["address"].width == config.address_bits


def test_scale_keeps_the_sign_of_its_exponent() -> None:
    scale = Scale.const({"mantissa": 0xFFFF, "exponent": -40})
    assert (scale.mantissa, scale.exponent) == (0xFFFF, -40)


def test_packed_scale_bits() -> None:
    assert PackedScale.const({"fraction": 5, "exponent": 63}).as_bits() == 63 << 10 | 5
