# SPDX-License-Identifier: Apache-2.0
"""Logits, or log-probabilities, of chosen steps in a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from serrano_host.errors import RequestError

from .session import Served

__all__ = ["FRACTION_BITS", "LogitsSource", "Steps", "log_probabilities", "write_logits"]

FRACTION_BITS = 16
"""Of the accelerator's logits, which are integers."""


class LogitsSource(Protocol):
    """A transport that sees logits."""

    def logits(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Number of the request, position of the row and its logits, for all rows sampled so far."""
        ...


class Steps:
    """A choice of generated tokens, counted from 0: ``all``, or numbers and ranges, ``0,4-7``.

    Raises
    ------
    RequestError
        If the text is neither.
    """

    def __init__(self, text: str = "all"):
        self._ranges: list[tuple[int, int]] | None = None
        if text.strip() == "all":
            return
        self._ranges = []
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise RequestError(f"steps are 'all', or numbers and ranges such as 0,4-7, not {text!r}")
            self._ranges.append((int(first), int(last) if dash else int(first)))

    def __contains__(self, step: int) -> bool:
        return self._ranges is None or any(first <= step <= last for first, last in self._ranges)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the softmax of logits [vocab], which are integers."""
    values = np.asarray(logits, dtype=np.float64) / 2**FRACTION_BITS
    values -= values.max()
    return values - np.log(np.exp(values).sum())


def write_logits(
    path: Path,
    source: LogitsSource,
    served: Sequence[Served],
    vocab: int,
    steps: Steps,
    *,
    logprobs: bool = False,
) -> int:
    """Write a file; returns how many rows it has.

    Parameters
    ----------
    path : path
        With the suffix ``.npz``: arrays ``request``, ``step``, ``position``, ``token`` and ``logits`` or
        ``logprobs`` [rows, vocab]. Any other: JSON Lines with the same names.
    source : LogitsSource
        Where logits come from.
    served : sequence of Served
        The prompts; a row's request is the prompt's place here.
    vocab : int
        Size of the vocabulary; what is behind is padding.
    steps : Steps
        Which generated tokens.
    logprobs : bool
        Whether log-probabilities are written instead of logits, which are integers with 16 fraction bits.
    """
    name = "logprobs" if logprobs else "logits"
    rows = _rows(source, served, vocab, steps, name)
    try:
        if path.suffix == ".npz":
            return _write_npz(path, list(rows), vocab, name)
        with path.open("w", encoding="utf-8") as file:
            return sum(_write_line(file, row, name) for row in rows)
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error


def _rows(
    source: LogitsSource, served: Sequence[Served], vocab: int, steps: Steps, name: str
) -> Iterator[dict[str, Any]]:
    by_number = {one.handle.number: one for one in served if one.handle is not None}
    for number, position, logits in source.logits():
        one = by_number.get(number)
        if one is None:
            continue
        step = position - len(one.wanted.prompt_ids) + 1
        if step not in steps or step >= len(one.tokens):
            continue
        values = logits[:vocab]
        yield {
            "request": one.index,
            "step": step,
            "position": position,
            "token": one.tokens[step],
            name: log_probabilities(values) if name == "logprobs" else values,
        }


def _write_line(file: TextIO, row: dict[str, Any], name: str) -> int:
    values = row[name].round(6) if name == "logprobs" else row[name]
    file.write(json.dumps(row | {name: values.tolist()}) + "\n")
    return 1


def _write_npz(path: Path, rows: list[dict[str, Any]], vocab: int, name: str) -> int:
    arrays = {key: np.array([row[key] for row in rows]) for key in ("request", "step", "position", "token")}
    kind = np.float32 if name == "logprobs" else np.int32
    arrays[name] = np.array([row[name] for row in rows], dtype=kind).reshape(len(rows), vocab)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return len(rows)
