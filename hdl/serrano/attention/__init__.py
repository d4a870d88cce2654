# SPDX-License-Identifier: Apache-2.0
"""Streaming attention with online softmax over groups of 16 tokens: section 7 of ``docs/numerics.md``."""

from .attention import Attention
from .normalizer import Normalizer
from .softmax import OnlineSoftmax

__all__ = ["Attention", "Normalizer", "OnlineSoftmax"]
