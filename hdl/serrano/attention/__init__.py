# SPDX-License-Identifier: Apache-2.0
"""Streaming attention with online softmax over groups of 16 tokens: section 7 of ``docs/numerics.md``."""
