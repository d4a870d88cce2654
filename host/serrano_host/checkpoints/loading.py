# SPDX-License-Identifier: Apache-2.0
"""Find out what a path holds, and read it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from serrano_host.checkpoints import huggingface, llama2c
from serrano_host.checkpoints.base import Checkpoint, Tokenizer
from serrano_host.errors import CheckpointError


def open_checkpoint(path: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Read the checkpoint at `path`: a Hugging Face folder, or a llama2.c file.

    Parameters
    ----------
    path : path
        What it holds is judged by its content, not by its name.
    tokenizer : path, optional
        A `tokenizer.json`, a folder with one, or llama2.c's `tokenizer.bin`. Without it, the tokenizer beside
        the checkpoint is read when it is first needed.

    Raises
    ------
    CheckpointError
        Naming the file and the field that is missing, wrong, truncated or not supported.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    try:
        checkpoint = huggingface.read(path) if path.is_dir() else llama2c.read(path)
        given = Path(tokenizer) if tokenizer is not None else None
        found = given if given is not None else _beside(path, checkpoint.vocab)
        if found is not None:
            checkpoint.tokenizer_path = found
            checkpoint._tokenizer_reader = _tokenizer_reader(found, checkpoint.vocab, checkpoint.bos)
        if given is not None:
            checkpoint.tokenizer()
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from error
    return checkpoint


def open_tokenizer(path: str | Path, vocab: int, bos: int | None) -> Tokenizer:
    """Read a tokenizer by itself, for a tape: `tokenizer.json`, a folder with one, or `tokenizer.bin`.

    Raises
    ------
    CheckpointError
        Naming what is missing or wrong.
    """
    try:
        return _tokenizer_reader(Path(path), vocab, bos)()
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from error


def _beside(path: Path, vocab: int) -> Path | None:
    if path.is_dir():
        names = [path / "tokenizer.json"]
    else:
        names = [path.parent / name for name in ("tokenizer.bin", f"tok{vocab}.bin", "tokenizer.json")]
    return next((name for name in names if name.is_file()), None)


def _tokenizer_reader(path: Path, vocab: int, bos: int | None) -> Callable[[], Tokenizer]:
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such tokenizer file")
    with open(path, "rb") as file:
        json_like = file.read(64).lstrip()[:1] == b"{"
    if json_like or path.suffix == ".json":
        return partial(huggingface.HuggingFaceTokenizer, path, vocab, bos)
    return partial(llama2c.Llama2cTokenizer, path, vocab)
