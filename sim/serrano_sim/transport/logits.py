# SPDX-License-Identifier: Apache-2.0
"""Logits out of a recorded trace (docs/trace.md): the accelerator does not write them to memory."""

from collections.abc import Iterator

import numpy as np

from serrano_host.errors import TransportError

from ..top.trace import Kind, Recording

__all__ = ["sampled_rows"]


def sampled_rows(recording: Recording) -> Iterator[tuple[int, int, np.ndarray]]:
    """Number of the request, position and logits of each sampled row, in order; committed steps only.

    The logits are int32 in Q16, up to the end of the last block of the vocabulary.

    Raises
    ------
    TransportError
        If the trace does not tell whose logits they are.
    """
    beats = recording.beats[
        np.isin(recording.beats["kind"], [Kind.LOGITS, Kind.BEGIN, Kind.COMMIT, Kind.SPAN])
    ]
    kinds = beats["kind"]
    if (kinds == Kind.LOGITS).any() and not (kinds == Kind.SPAN).any():
        raise TransportError("the trace of this accelerator does not tell whose logits they are")
    # Spans are shown before the step begins; the first ones are those that sample.
    coming: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    rows: dict[int, list[np.void]] = {}
    for kind, beat in zip(kinds.tolist(), beats, strict=True):
        values = beat["values"]
        if kind == Kind.SPAN:
            count = int(values[0]) >> 16 & 0xFFFF
            coming.append((int(values[1]) & 0xFFFFFFFF, int(beat["column"]) + count - 1))
        elif kind == Kind.BEGIN:
            spans, coming, rows = coming[: int(values[1])], [], {}
        elif kind == Kind.LOGITS:
            rows.setdefault(int(beat["row"]), []).append(beat)
        else:
            for (number, position), place in zip(spans, sorted(rows), strict=True):
                yield number, position, _join(rows[place])


def _join(beats: list[np.void]) -> np.ndarray:
    ordered = sorted(beats, key=lambda beat: int(beat["column"]))
    return np.concatenate([beat["values"] for beat in ordered])
