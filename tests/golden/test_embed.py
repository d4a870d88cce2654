# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden.embed import embed


def test_rows_equal_the_page():
    rng = np.random.default_rng(7)
    codes = rng.integers(-127, 128, (9, 6)).astype(np.int8)
    codes[4] = 0
    scales = rng.integers(20 << 10, 45 << 10, 9).astype(np.uint16)
    scales[4] = 0
    tokens = [8, 0, 4, 4, 3]
    expected = [[page.dequantize(int(c), page.unpack(int(scales[t]))) for c in codes[t]] for t in tokens]
    assert embed(tokens, codes, scales).tolist() == expected


@pytest.mark.parametrize("tokens", [[0, 9], [-1]])
def test_unknown_token(tokens):
    with pytest.raises(ValueError, match=r"^Token ids must be in 0 .. 8, not \["):
        embed(tokens, np.zeros((9, 6), dtype=np.int8), np.zeros(9, dtype=np.uint16))
