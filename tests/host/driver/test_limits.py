# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits an accelerator, in words."""

from types import SimpleNamespace

import pytest

from serrano_host.driver.limits import LIMITS, misfits

MODEL = dict(n=4, align=32, dim=64, ffn=172, heads=8, kv_heads=4, head_pad=8, vocab=512)
LARGE = dict.fromkeys(LIMITS, 1000) | {"n": 4, "align": 32}


def test_it_fits():
    assert misfits(SimpleNamespace(**MODEL), LARGE) == []


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"n": 16}, "the tape's n is 4, the accelerator's is 16"),
        ({"align": 64}, "the tape's align is 32, the accelerator's is 64"),
        ({"ffn_max": 171}, "ffn is 172, ffn_max is 171"),
        ({"heads_max": 7}, "heads is 8, heads_max is 7"),
        ({"head_dim_max": 4}, "head_dim, padded, is 8, head_dim_max is 4"),
        ({"kv_width_max": 31}, "kv_heads * head_dim, padded, is 32, kv_width_max is 31"),
        ({"attention_rows_max": 1}, "heads / kv_heads is 2, attention_rows_max is 1"),
        ({"vocab_max": 511}, "vocab is 512, vocab_max is 511"),
    ],
)
def test_it_does_not_fit(limits, text):
    assert misfits(SimpleNamespace(**MODEL), LARGE | limits) == [text]


def test_every_problem_is_named():
    found = misfits(SimpleNamespace(**MODEL), LARGE | {"dim_max": 63, "vocab_max": 1})
    assert len(found) == 3 and found[0].startswith("dim is 64") and found[1].startswith("heads * head_dim")
