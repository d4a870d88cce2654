# SPDX-License-Identifier: Apache-2.0
"""Numbers of commands, statuses and statistics, which hosts rely on."""

import re
from pathlib import Path

import pytest

from serrano.kvcache import Opcode, Stat, Status

PAGE = Path(__file__).parents[2] / "docs" / "blocks" / "kvcache.md"


@pytest.mark.parametrize("numbers", [Opcode, Status, Stat])
def test_the_page_has_every_number(numbers) -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)[`(]", PAGE.read_text(), re.MULTILINE)
    for entry in numbers:
        assert (str(entry.value), entry.name) in rows, entry
