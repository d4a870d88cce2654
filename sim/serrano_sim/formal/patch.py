# SPDX-License-Identifier: Apache-2.0
"""Broken variants of the hardware: a piece of a module's source is replaced while it is imported."""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType

__all__ = ["Edit", "apply", "install"]


@dataclasses.dataclass(frozen=True)
class Edit:
    """``old`` is replaced by ``new`` in the source of ``module``; it must be there exactly once."""

    module: str
    old: str
    new: str


def apply(source: str, edit: Edit) -> str:
    """The source after an edit.

    Raises
    ------
    ValueError
        If the piece to be replaced is not there, or more than once.
    """
    count = source.count(edit.old)
    if count != 1:
        raise ValueError(f"{edit.module} has {count} places {edit.old!r} where there must be one")
    return source.replace(edit.old, edit.new)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[Edit]):
        super().__init__(name, path)
        self.edits = edits

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        for edit in self.edits:
            source = apply(source, edit)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]):
        self.edits = edits

    def find_spec(self, fullname, path, target=None):  # noqa: ANN001
        edits = [edit for edit in self.edits if edit.module == fullname]
        if not edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin, edits)
        )


def install(edits: Sequence[Edit]) -> None:
    """Applies the edits to modules that are imported from now on.

    Raises
    ------
    ValueError
        If a module has been imported already.
    """
    for edit in edits:
        if edit.module in sys.modules:
            raise ValueError(f"{edit.module} has been imported already")
    sys.meta_path.insert(0, _Finder(edits))
