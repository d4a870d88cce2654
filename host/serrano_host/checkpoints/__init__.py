# SPDX-License-Identifier: Apache-2.0
"""Readers for trained checkpoints, all into one canonical form: `Checkpoint` and `Tokenizer`."""

from serrano_host.checkpoints.base import Checkpoint, Layer, TextStream, Tokenizer
from serrano_host.checkpoints.loading import open_checkpoint, open_tokenizer
from serrano_host.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Layer",
    "TextStream",
    "Tokenizer",
    "open_checkpoint",
    "open_tokenizer",
]
