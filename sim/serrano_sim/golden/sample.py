# SPDX-License-Identifier: Apache-2.0
"""Greedy sampling: docs/numerics.md, section 3."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_signed


def greedy(logits: ArrayLike) -> Int:
    """The lowest index among the largest logits [..., vocab], for each row."""
    return np.argmax(check_signed(logits, 32, "Logit"), axis=-1).astype(np.int64)
