# SPDX-License-Identifier: Apache-2.0
"""What is to be generated: prompts from the command line and from JSON Lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serrano_host.checkpoints.base import Tokenizer
from serrano_host.errors import RequestError

__all__ = ["Defaults", "Wanted", "parse_ids", "read_prompts", "wanted_ids", "wanted_text"]

FIELDS = ("prompt", "prompt_ids", "max_new", "eos", "tenant", "arrival")


@dataclass(frozen=True)
class Defaults:
    """What holds for a prompt that does not say otherwise."""

    max_new: int
    eos: int | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Wanted:
    """A prompt, and what is wanted behind it.

    Parameters
    ----------
    prompt_ids : tuple of int
        Token ids.
    text : str or None
        Their text, where there is a tokenizer.
    max_new : int
        Tokens wanted.
    eos : int or None
        Token that ends the generation as well.
    tenant : int
        Owner.
    arrival : int
        Cycle, from the beginning of serving, before which it is not submitted.
    """

    prompt_ids: tuple[int, ...]
    text: str | None
    max_new: int
    eos: int | None = None
    tenant: int = 0
    arrival: int = 0


def wanted_text(text: str, defaults: Defaults, **fields: Any) -> Wanted:
    """A prompt given as text.

    Raises
    ------
    RequestError
        If there is no tokenizer, or no token in it.
    """
    if defaults.tokenizer is None:
        raise RequestError("there is no tokenizer for a prompt of text; give one with --tokenizer, or ids")
    ids = tuple(defaults.tokenizer.encode(text)) if text else ()
    if not ids:
        raise RequestError("a prompt is empty; give some text to go on from")
    return Wanted(ids, text, **{"max_new": defaults.max_new, "eos": defaults.eos} | fields)


def wanted_ids(ids: Sequence[int], defaults: Defaults, **fields: Any) -> Wanted:
    """A prompt given as token ids, also ones that the accelerator will refuse."""
    text = None
    if defaults.tokenizer is not None:
        text = defaults.tokenizer.decode([i for i in ids if 0 <= i < defaults.tokenizer.vocab])
    return Wanted(tuple(ids), text, **{"max_new": defaults.max_new, "eos": defaults.eos} | fields)


def parse_ids(text: str) -> list[int]:
    """Token ids separated by blanks or commas."""
    try:
        return [int(word, 0) for word in text.replace(",", " ").split()]
    except ValueError:
        raise RequestError(f"token ids are integers separated by blanks or commas, not {text!r}") from None


def read_prompts(path: Path, defaults: Defaults) -> list[Wanted]:
    """Prompts of a JSON Lines file, one object in a line; empty lines are passed over.

    Raises
    ------
    RequestError
        Naming the line and the field that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 text ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_parse(line, defaults))
            except RequestError as error:
                raise RequestError(f"{path}:{number}: {error}") from error
    if not found:
        raise RequestError(f"{path}: there is no prompt in it")
    return found


def _parse(line: str, defaults: Defaults) -> Wanted:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RequestError(f"an object is expected, not {line.strip()[:40]}")
    if unknown := sorted(set(values) - set(FIELDS)):
        raise RequestError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    if ("prompt" in values) == ("prompt_ids" in values):
        raise RequestError("just one of prompt and prompt_ids is needed")
    fields: dict[str, Any] = {}
    for name, least in (("max_new", 1), ("tenant", 0), ("arrival", 0)):
        if name in values:
            fields[name] = _integer(values, name, least)
    if "eos" in values:
        fields["eos"] = None if values["eos"] is None else _integer(values, "eos", 0)
    if "prompt" in values:
        if not isinstance(values["prompt"], str):
            raise RequestError(f"prompt must be a string, not {values['prompt']!r}")
        return wanted_text(values["prompt"], defaults, **fields)
    ids = values["prompt_ids"]
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**32 for i in ids):
        raise RequestError("prompt_ids must be a list of token ids")
    return wanted_ids(ids, defaults, **fields)


def _integer(values: Mapping[str, Any], name: str, least: int) -> int:
    value = values[name]
    if type(value) is not int or not least <= value < 2**32:
        raise RequestError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value
