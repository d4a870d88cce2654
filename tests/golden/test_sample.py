# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from serrano_sim.golden.sample import greedy


def test_lowest_index_of_the_largest():
    logits = [[1, 5, 5, 2], [-7, -7, -7, -7], [-(2**31), -(2**31), 2**31 - 1, 2**31 - 1]]
    assert greedy(logits).tolist() == [1, 0, 2]
    assert greedy(np.array([3, 2, 3])) == 0


def test_width():
    with pytest.raises(OverflowError, match=r"^Logit must fit in 32 bits signed"):
        greedy([0, 2**31])
