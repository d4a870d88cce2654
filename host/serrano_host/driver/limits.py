# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits an accelerator: the device's own checks, with the names of what does not fit."""

from collections.abc import Mapping
from typing import Any

__all__ = ["LIMITS", "array_sizes", "misfits"]

LIMITS = (
    "dim_max ffn_max heads_max kv_width_max head_dim_max vocab_max context_max blocks_max attention_rows_max"
).split()
"""Fields of the accelerator's configuration, and in upper case registers, that bound a model."""


def array_sizes(geometry: int) -> tuple[int, ...]:
    """``n``, port bytes, load bytes and lanes of a value of the register GEOMETRY."""
    return tuple(geometry.to_bytes(4, "little"))


def misfits(model: Any, limits: Mapping[str, int]) -> list[str]:
    """What keeps a model from running, one sentence each; none if it runs.

    Parameters
    ----------
    model : object
        With the fields of a tape's descriptor.
    limits : mapping
        Those of LIMITS, and ``n`` and ``align``.
    """
    found = [
        f"the tape's {name} is {getattr(model, name)}, the accelerator's is {limits[name]}"
        for name in ("n", "align")
        if getattr(model, name) != limits[name]
    ]
    bounded = (
        ("dim", model.dim, "dim_max"),
        ("ffn", model.ffn, "ffn_max"),
        ("heads", model.heads, "heads_max"),
        ("head_dim, padded,", model.head_pad, "head_dim_max"),
        ("kv_heads * head_dim, padded,", model.kv_heads * model.head_pad, "kv_width_max"),
        ("heads * head_dim, padded,", model.heads * model.head_pad, "dim_max"),
        ("heads / kv_heads", model.heads // model.kv_heads, "attention_rows_max"),
        ("vocab", model.vocab, "vocab_max"),
    )
    for what, value, limit in bounded:
        if value > limits[limit]:
            found.append(f"{what} is {value}, {limit} is {limits[limit]}")
    return found
