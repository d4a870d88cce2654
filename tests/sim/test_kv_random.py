# SPDX-License-Identifier: Apache-2.0
"""The random run: its report and its exit status. Runs on the RTL are in tests/kvcache."""

import json
import random

import pytest

from serrano_sim.golden.block_manager import Opcode, Status
from serrano_sim.kv_commands import manager, random_command, view_of
from serrano_sim.kv_random import LEAST, VARIANTS, decode, main, missing_coverage, run_random


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_decoding_of_a_state(variant) -> None:
    rng, config = random.Random(7), variant.config
    golden = manager(config, config.blocks_max, variant.generation_bits, variant.reference_bits)
    for _ in range(100):
        golden.execute(*random_command(rng, golden, range(config.sequences_max)))
    view = view_of(golden)
    words = [view.size, view.used, view.peak, view.head, view.tail]
    for block in view.blocks:
        words += [block.references, block.tenant, block.sealed, block.written, block.generation]
        words += [block.following, block.previous]
    for state in view.sequences:
        # What is not open or not live may hold anything.
        words += [state.open]
        words += [state.tenant, state.length, state.reserved, state.entries, state.first]
        table = [99] * state.first + list(state.table)
        words += table + [99] * (config.table_entries - len(table))
        if not state.open:
            words[-config.table_entries - 5 : -config.table_entries] = [99] * 5
    assert decode(sum(word << 32 * place for place, word in enumerate(words)), config) == view


def test_numbers_of_a_run() -> None:
    with pytest.raises(ValueError, match=r"^There must be at least one seed, and a command for each"):
        run_random(100, [], "nowhere")
    with pytest.raises(ValueError, match=r"not 3 seeds$"):
        run_random(2, [1, 2, 3], "nowhere")


def result(**changes) -> dict:
    return {
        "random_commands": 200_000,
        "random_mismatches": 0,
        "command_coverage": {opcode.name: LEAST for opcode in Opcode},
        "error_coverage": {status.name: LEAST for status in Status},
        "events": {"new pools": 3},
        "leaked_blocks": 0,
        "mismatches": [],
        "episodes": 9,
        "cycles": 12345,
        "seconds": 1.0,
        **changes,
    }


@pytest.mark.parametrize(
    ("commands", "changes", "status"),
    [
        (200_000, {}, 0),
        (200_000, {"error_coverage": {"BUS_ERROR": LEAST - 1}}, 1),
        (200_000, {"command_coverage": {"FORK": 0}}, 1),
        (199_999, {"command_coverage": {"FORK": 0}}, 0),
        (1000, {"random_mismatches": 1, "mismatches": ["seed 3, [episode] 4"]}, 1),
        (1000, {"leaked_blocks": 1}, 1),
    ],
)
def test_main(tmp_path, capsys, commands: int, changes: dict, status: int) -> None:
    asked = []

    def runner(number, seeds, folder, show):
        asked.append((number, seeds))
        assert folder
        show(number, changes.get("mismatches", []))
        return result(**changes)

    file = tmp_path / "reports" / "kv.json"
    assert main(["--commands", str(commands), "--json", str(file)], runner) == status
    assert json.loads(file.read_text()) == result(**changes)
    ((number, seeds),) = asked
    assert number == commands and seeds == list(range(1, 2 + commands // 4000))
    printed = capsys.readouterr().out
    for text in changes.get("mismatches", []):
        assert text in printed
    assert f"{result(**changes)['random_mismatches']} mismatches" in printed
    # The same seeds again.
    main(["--commands", "10", "--seeds", "5", "6", "--json", str(file)], runner)
    assert asked[-1] == (10, [5, 6])


def test_what_is_missing() -> None:
    assert missing_coverage(result()) == []
    assert missing_coverage(result(error_coverage={"OK": 1000, "TENANT": 499})) == [
        "TENANT came up 499 times only"
    ]
