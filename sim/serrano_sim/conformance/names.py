# SPDX-License-Identifier: Apache-2.0
"""Which of the controller's blocks a recorded one is."""

from collections.abc import Sequence

__all__ = ["NewNames", "SameNames"]


class SameNames:
    """Blocks have the recorded numbers."""

    def block(self, name: int) -> int | None:
        """The controller's block; ``None`` if it is not known yet."""
        return name

    def name(self, block: int) -> int | None:
        """The recorded number of a block; likewise."""
        return block


class NewNames(SameNames):
    """Blocks are the recorded ones up to their names: a bijection that grows with what is allocated."""

    def __init__(self):
        self._blocks: dict[int, int] = {}
        self._names: dict[int, int] = {}

    def block(self, name: int) -> int | None:
        return self._blocks.get(name)

    def name(self, block: int) -> int | None:
        return self._names.get(block)

    def bind(self, names: Sequence[int], blocks: Sequence[int]) -> None:
        """From now on these blocks have these names. A name and a block that lose their partners get
        together, so that this stays a bijection."""
        for name, block in zip(names, blocks, strict=True):
            left_block, left_name = self._blocks.get(name), self._names.get(block)
            if left_block == block:
                continue
            if left_block is not None:
                del self._names[left_block]
            if left_name is not None:
                del self._blocks[left_name]
            self._blocks[name], self._names[block] = block, name
            if left_block is not None and left_name is not None:
                self._blocks[left_name], self._names[left_block] = left_block, left_name
