# SPDX-License-Identifier: Apache-2.0
"""Embedding rows: docs/numerics.md, section 3."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, int64
from .linear import dequantize
from .scale import unpack


def embed(tokens: ArrayLike, codes: ArrayLike, scales: ArrayLike) -> Int:
    """Rows of the residual stream in Q16, [rows, dim].

    Parameters
    ----------
    tokens
        Token ids, [rows].
    codes
        Codes of the table, [vocab, dim].
    scales
        Packed scales of its rows, [vocab].

    Raises
    ------
    ValueError
        If a token id is outside the vocabulary.
    """
    tokens, codes = int64(tokens), np.asarray(codes)
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(codes):
        raise ValueError(f"Token ids must be in 0 .. {len(codes) - 1}, not {tokens.tolist()!r}")
    return dequantize(codes[tokens], unpack(np.asarray(scales)[tokens])[..., None])
