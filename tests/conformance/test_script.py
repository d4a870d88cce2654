# SPDX-License-Identifier: Apache-2.0
"""Replays on the golden model: what fits, and what is told of what does not."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from conformance.software import recording, text
from serrano_sim.conformance.executor import GoldenExecutor, finish
from serrano_sim.conformance.recording import Recording, read
from serrano_sim.conformance.script import LISTED, Difference, Outcome, highest_count, replay_scripts
from serrano_sim.golden.block_manager import Opcode, Stat, Status

Tests = list[dict[str, Any]]


@pytest.fixture
def written(tmp_path) -> Callable[[Tests], Recording]:
    def write(tests: Tests) -> Recording:
        file = tmp_path / "recording.jsonl"
        file.write_text(text(tests))
        return read(file)

    return write


@pytest.fixture
def replayed(written) -> Callable[..., Outcome]:
    """Replays tests on the golden model, or on another executor."""

    def replay(tests: Tests, executor: type[GoldenExecutor] = GoldenExecutor, **options: Any) -> Outcome:
        scripts = written(tests).scripts
        golden = executor(max(script.size for script in scripts), 1024, 256)
        return finish(replay_scripts(scripts, golden, **options))

    return replay


def values_in(tests: Tests) -> int:
    """How many values a recording tells that can be compared."""
    count = 0
    for test in tests:
        for op in test["ops"]:
            count += len(op.get("free", ())) + ("nfree" in op)
            count += sum(len(op[name]) - 1 for name in ("ref", "cached") if name in op)
            if op["op"] == "RESET":
                count += 1
            elif op["op"] == "ALLOC":
                count += (len(op.get("ret") or ()) if "free" in op else 1) or (op["n"] > 0)
    return count


# What fits.


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_recordings_fit(replayed, counted, alone) -> None:
    """Exhaustion, forks, windows, placeholders, several pools, lists in any order; in both kinds of pools."""
    steered = refusals = 0
    for seed in range(6):
        tests = list(recording(seed, tests=3, counted=counted))
        done: list[int] = []
        outcome = replayed(tests, alone=alone, progress=done.append)
        assert [str(difference) for difference in outcome.listed] == []
        assert (outcome.mismatches, outcome.leaked, outcome.deliberate) == (0, 0, [])
        total = sum(len(test["ops"]) for test in tests)
        assert sum(outcome.operations.values()) == total
        assert done == list(range(1, total + 1))
        assert outcome.values == values_in(tests)
        assert outcome.commands > total
        steered += outcome.steered
        refusals += outcome.refusals
    assert refusals > 50
    assert (steered > 10) == counted


def test_a_rehearsal_finds_the_sizes(written) -> None:
    """What a replay without comparing says is needed is enough, and no sequence more than that."""
    for seed in range(4):
        scripts = written(list(recording(seed, tests=2, most_blocks=12))).scripts
        blocks = max(script.size for script in scripts)
        needed = finish(replay_scripts(scripts, GoldenExecutor(blocks, 1 << 16, 1 << 20), compare=False))
        exact = finish(replay_scripts(scripts, GoldenExecutor(blocks, needed.sequences, needed.entries)))
        assert exact.mismatches == 0
        assert needed.values < exact.values
        assert (exact.sequences, exact.entries) == (needed.sequences, needed.entries)
        small = GoldenExecutor(blocks, needed.sequences - 1, needed.entries)
        assert finish(replay_scripts(scripts, small)).mismatches > 0


def test_what_is_missing_is_not_compared(replayed) -> None:
    tests = list(recording(3))
    for number, op in enumerate(op for test in tests for op in test["ops"]):
        for name in ("ref", "cached", "free")[: number % 4]:
            op.pop(name, None)
        if op["op"] == "RESET" and number % 2:
            del op["ok"]
    outcome = replayed(tests)
    assert outcome.mismatches == 0
    assert 0 < outcome.values < 0.6 * values_in(list(recording(3)))
    bare = [{"test": "bare", "ops": [{"op": "INIT", "n": 3}, {"op": "ALLOC", "n": 2, "ok": True}]}]
    assert replayed(bare).mismatches == 0
    bare[0]["ops"].append({"op": "ALLOC", "n": 1, "ok": True})
    (difference,) = replayed(bare).listed
    assert (difference.number, difference.expected, difference.got) == (2, "blocks", "refused")


def test_highest_count(written) -> None:
    ops = [
        {"op": "INIT", "n": 9},
        {"op": "ALLOC", "n": 2, "ret": [1, 2]},
        {"op": "SHARE", "blk": [[1, 0], [1]]},
        {"op": "FREE", "blk": [1, 1, 0]},
        {"op": "SHARE", "blk": [[1, 0, 0, 0, 0]]},
        {"op": "INIT", "n": 5},
        {"op": "SHARE", "blk": [[1, 1]]},
    ]
    (script,) = written([{"test": "counts", "ops": ops}]).scripts
    assert highest_count(script) == 3


def test_as_json(replayed) -> None:
    tests = list(recording(2))
    tests[0]["ops"][-1]["free"] = [1, 2, 3]
    outcome = replayed(tests)
    assert outcome.listed
    assert Outcome.from_dict(json.loads(json.dumps(outcome.as_dict()))) == outcome


# What does not fit.


def swap(values: list[int], rng: random.Random) -> tuple[int, int, int]:
    """Swaps two neighbours; the first place, what stands there now, and what stood there."""
    place = rng.randrange(len(values) - 1)
    values[place], values[place + 1] = values[place + 1], values[place]
    return place, values[place], values[place + 1]


def spoil(op: dict[str, Any], rng: random.Random) -> tuple[str, Any, Any, int] | None:
    """Changes one thing that an operation tells: the field, what it says now, what is true, how many more
    values of the field are wrong. ``None`` if there is nothing to change."""
    what = rng.choice(["ret", "free", "nfree", "ref", "cached", "ok", "refused", "given", "short"])
    if what == "ret" and op.get("ret") and "free" in op:
        place = rng.randrange(len(op["ret"]))
        was, op["ret"][place] = op["ret"][place], 77
        return f"ret[{place}]", 77, was, 0
    if what == "free" and len(op.get("free", ())) > 1:
        place, now, was = swap(op["free"], rng)
        return f"free[{place}]", now, was, 1
    if what == "short" and op.get("free"):
        was = op["free"].pop()
        return f"free[{len(op['free'])}]", None, was, 0
    if what == "nfree" and "nfree" in op:
        op["nfree"] += 1
        return "nfree", op["nfree"], op["nfree"] - 1, 0
    if what == "ref" and "ref" in op:
        place = rng.randrange(1, len(op["ref"]))
        op["ref"][place] += 1
        return f"ref[{place}]", op["ref"][place], op["ref"][place] - 1, 0
    if what == "cached" and "cached" in op:
        place = rng.randrange(1, len(op["cached"]))
        op["cached"][place] = not op["cached"][place]
        return f"cached[{place}]", op["cached"][place], not op["cached"][place], 0
    if what == "ok" and op["op"] == "RESET":
        op["ok"] = not op["ok"]
        return "ok", op["ok"], not op["ok"], 0
    if what == "refused" and op.get("ret") and "free" in op:
        was, op["ret"] = op["ret"], None
        return "ret", "refused", was, 0
    if what == "given" and op["op"] == "ALLOC" and op["n"] and not op.get("ret"):
        op["ok"], op["ret"] = True, [1, 2]
        return "ret", [1, 2], "refused", 0
    return None


@pytest.mark.parametrize("counted", [False, True])
def test_exactly_what_is_spoilt_is_told(replayed, counted) -> None:
    kinds = set()
    for seed in range(20):
        rng = random.Random(f"spoil {seed} {counted}")
        tests = list(recording(seed, tests=3, steps=20, most_blocks=20, counted=counted))
        wanted = []
        for line, test in enumerate(tests, 1):
            for number in sorted(rng.sample(range(len(test["ops"])), min(12, len(test["ops"])))):
                op = test["ops"][number]
                found = spoil(op, rng)
                if found:
                    place = (test["test"], line, op["pool"], number, op["op"])
                    wanted.append(Difference(*place, *found))
                    kinds.add(found[0].partition("[")[0])
        outcome = replayed(tests)
        # Pools are replayed one after the other.
        assert sorted(outcome.listed, key=order) == sorted(wanted, key=order)
        assert outcome.mismatches == len(wanted)
        assert outcome.leaked == 0
    assert kinds >= {"ref", "cached", "ret", "nfree" if counted else "free"}


@pytest.mark.parametrize("held", [False, True])
def test_resets_are_compared(replayed, held) -> None:
    ops = [{"op": "INIT", "n": 3}, {"op": "ALLOC", "n": int(held)}, {"op": "RESET", "ok": held}]
    ops[1]["ret"] = [1][: int(held)]
    (difference,) = replayed([{"test": "reset", "ops": ops}]).listed
    assert (difference.field, difference.expected, difference.got) == ("ok", held, not held)


def order(difference: Difference) -> tuple[int, int, str]:
    return difference.line, difference.number, difference.field


def test_in_words() -> None:
    place = ("a test", 4, 0, 7, "FREE")
    assert str(Difference(*place, "free[2]", 5, 4, 1)) == (
        "line 4, a test, ops[7] FREE: free[2]: expected 5, got 4 (and 1 more)"
    )
    assert str(Difference("b", 1, 3, 0, "RESET", "ok", True, None)) == (
        "line 1, b, ops[0] RESET, pool 3: ok: expected true, got nothing"
    )


def test_many_differences_are_counted(replayed) -> None:
    ops = [{"op": "INIT", "n": 3}] + [{"op": "FREE", "blk": [], "free": [2, 1]}] * (LISTED + 50)
    outcome = replayed([{"test": "many", "ops": ops}])
    assert (outcome.mismatches, len(outcome.listed)) == (LISTED + 50, LISTED)


@pytest.mark.parametrize(
    ("op", "told"),
    [
        ({"op": "FREE", "blk": [2]}, "block 2 is held by nobody"),
        ({"op": "FREE", "blk": [9]}, "block 9 is held by nobody"),
        ({"op": "SEAL", "blk": [3]}, "block 3 is held by nobody"),
        ({"op": "SHARE", "blk": [[5]]}, "the pool has no block 5"),
    ],
)
def test_operations_that_cannot_be(replayed, op, told) -> None:
    ops = [{"op": "INIT", "n": 5}, {"op": "ALLOC", "n": 1, "ret": [1]}, op, {"op": "FREE", "blk": [1]}]
    outcome = replayed([{"test": "impossible", "ops": ops}])
    (difference,) = outcome.listed
    assert (difference.number, difference.field) == (2, "the operation")
    assert (difference.expected, difference.got) == ("done", told)
    assert outcome.leaked == 0


@pytest.mark.parametrize(
    ("op", "told"),
    [
        ({"op": "FREE", "blk": [8]}, ["block 8 was never allocated"]),
        ({"op": "SHARE", "blk": [[8]]}, ["block 8 was never allocated"]),
        ({"op": "ALLOC", "n": 1, "ret": [7]}, ["block 7 was allocated while it was held"]),
        ({"op": "ALLOC", "n": 2, "ret": [3, 3]}, ["a block was allocated twice"]),
        ({"op": "ALLOC", "n": 2, "ret": [3]}, [2]),
        ({"op": "ALLOC", "n": 4, "ret": [3, 4, 5, 6]}, ["refused"]),
    ],
)
def test_names_that_cannot_be(replayed, op, told) -> None:
    ops = [{"op": "INIT", "n": 5}, {"op": "ALLOC", "n": 1, "ret": [7], "nfree": 3}, op]
    outcome = replayed([{"test": "impossible", "ops": ops}])
    assert [difference.got for difference in outcome.listed] == told
    assert all(difference.number == 2 for difference in outcome.listed)


# Other names.


def test_names_are_compared_up_to_renaming(replayed) -> None:
    """The blocks of a counted recording may have any names; the others only their own."""
    for counted in (True, False):
        tests = list(recording(5, counted=counted))
        for test in tests:
            rename(test, random.Random("rename"))
        outcome = replayed(tests)
        assert (outcome.mismatches == 0) == counted


def rename(test: dict[str, Any], rng: random.Random) -> None:
    """Gives the blocks of a test other names, without a change of meaning."""
    sizes = {op["pool"]: op["n"] for op in test["ops"] if op["op"] == "INIT"}
    names = {pool: [0, *rng.sample(range(1, n), n - 1)] for pool, n in sizes.items()}
    for op in test["ops"]:
        new = names[op["pool"]]
        for name in ("ret", "free"):
            if op.get(name):
                op[name] = [new[block] for block in op[name]]
        if "blk" in op:
            op["blk"] = [
                [new[block] for block in item] if isinstance(item, list) else new[item] for item in op["blk"]
            ]
        for name in ("ref", "cached"):
            if name in op:
                old = copy.copy(op[name])
                for block, other in enumerate(new):
                    op[name][other] = old[block]


def test_another_order_of_eviction(replayed) -> None:
    """The recorded manager evicts what came back last; what it keeps must be there later."""
    state = {"ref": [0, 1, 1, 1], "cached": [False, True, True, True], "nfree": 0}
    ops = [
        {"op": "INIT", "n": 4},
        {"op": "ALLOC", "n": 3, "ret": [1, 2, 3]},
        {"op": "SEAL", "blk": [1, 2, 3]},
        {"op": "FREE", "blk": [3, 2, 1], **state, "ref": [0, 0, 0, 0], "nfree": 3},
        {"op": "ALLOC", "n": 1, "ret": [1], "nfree": 2, "ref": [0, 1, 0, 0], "cached": [0, 0, 1, 1]},
        {"op": "SHARE", "blk": [[2, 3]], **state, "cached": [0, 0, 1, 1]},
        {"op": "FREE", "blk": [1, 2, 3], "nfree": 3},
        {"op": "ALLOC", "n": 2, "ret": [3, 2], "nfree": 1, "cached": [0, 0, 0, 0]},
    ]
    outcome = replayed([{"test": "eviction", "ops": ops}])
    assert [str(difference) for difference in outcome.listed] == []
    # For both ALLOCs: 2 and 3 had to be kept; 3 had to go.
    assert outcome.steered == 2
    # The last block that is left without contents is one that the recording has evicted.
    ops.append({"op": "SHARE", "blk": [[1]], "nfree": 0})
    outcome = replayed([{"test": "eviction", "ops": ops}])
    assert (outcome.mismatches, len(outcome.deliberate)) == (0, 1)


# Deliberate divergences.


def test_an_unsealed_block_that_nobody_holds_is_not_shared(replayed) -> None:
    ops = [
        {"op": "INIT", "n": 4},
        {"op": "ALLOC", "n": 2, "ret": [1, 2]},
        {"op": "FREE", "blk": [2, 1], "free": [3, 2, 1]},
        {"op": "SHARE", "blk": [[2]], "free": [3, 1], "ref": [0, 0, 1, 0], "cached": [0, 0, 0, 0]},
        {"op": "SEAL", "blk": [2]},
        {"op": "FREE", "blk": [2], "free": [3, 1, 2], "ref": [0, 0, 0, 0], "cached": [0, 0, 1, 0]},
    ]
    outcome = replayed([{"test": "unsealed", "ops": ops}])
    assert (outcome.mismatches, outcome.leaked) == (0, 0)
    (difference,) = outcome.deliberate
    assert (difference.number, difference.field) == (3, "refused share")
    assert (difference.expected, difference.got) == ("OK", "NOT_SEALED")


@pytest.mark.parametrize("sealed", [False, True])
def test_counts_end(replayed, sealed) -> None:
    """Beyond 255 references SHARE is refused; the count comes down again as recorded."""
    ops = [{"op": "INIT", "n": 3}, {"op": "ALLOC", "n": 2, "ret": [1, 2]}]
    ops += [{"op": "SEAL", "blk": [1]}] if sealed else []
    cached = [False, sealed, False]
    for count in range(2, 301):
        ops.append({"op": "SHARE", "blk": [[1]], "ref": [0, count, 1], "cached": cached, "free": []})
    for count in range(299, -1, -1):
        free = [] if count else [1]
        ops.append({"op": "FREE", "blk": [1], "ref": [0, count, 1], "cached": cached, "free": free})
    outcome = replayed([{"test": "counts", "ops": ops}])
    assert (outcome.mismatches, outcome.leaked) == (0, 0)
    assert {difference.got for difference in outcome.deliberate} == {"REF_OVERFLOW"}
    assert len(outcome.deliberate) == 300 - 255


# Controllers with faults.


class Broken(GoldenExecutor):
    """A controller that does one thing wrong; subclasses say what."""

    def change(self, opcode: Opcode, seq: int, arg0: int, arg1: int) -> None:
        """What it does beforehand."""

    def answer(self, opcode: Opcode, arg0: int, status: int, aux: int) -> tuple[int, int]:
        """What it says afterwards."""
        return status, aux

    async def execute(self, opcode, seq=0, arg0=0, arg1=0):
        self.change(opcode, seq, arg0, arg1)
        return self.answer(opcode, arg0, *await super().execute(opcode, seq, arg0, arg1))


class ReleasesInOrder(Broken):
    def change(self, opcode, seq, arg0, arg1):
        if opcode == Opcode.FREE and seq in self.manager.sequences:
            self.manager.sequences[seq].table.reverse()


class ForgetsSeals(Broken):
    def change(self, opcode, seq, arg0, arg1):
        if opcode == Opcode.TRIM:
            for block in self.manager.states:
                block.sealed = False


class TakesTheLast(Broken):
    def change(self, opcode, seq, arg0, arg1):
        if opcode == Opcode.ALLOC:
            self.manager.free.reverse()


class Leaks(Broken):
    def change(self, opcode, seq, arg0, arg1):
        if opcode == Opcode.SLIDE and self.manager.free:
            self.manager.states[self.manager.free.pop()].references += 1


class AlwaysResets(Broken):
    def answer(self, opcode, arg0, status, aux):
        return (0, 0) if opcode == Opcode.RESET_POOL else (status, aux)


class NeverRefuses(Broken):
    def change(self, opcode, seq, arg0, arg1):
        # One block more than there are.
        if opcode == Opcode.ALLOC and arg0 // 16 == len(self.manager.free) + 1:
            self.manager.free.insert(0, 0)


class CountsOneMore(Broken):
    def answer(self, opcode, arg0, status, aux):
        held = opcode == Opcode.STAT and arg0 == Stat.BLOCK_STATE and aux & 0xFF > 2
        return status, aux + held


class RefusesForks(Broken):
    def answer(self, opcode, arg0, status, aux):
        return (Status.SEQ_BUSY, 0) if opcode == Opcode.FORK else (status, aux)


@pytest.mark.parametrize("broken", Broken.__subclasses__())
def test_faults_are_noticed(replayed, broken) -> None:
    outcome = replayed(list(recording(1)), broken)
    assert outcome.mismatches > 0
    assert len(outcome.listed) == min(outcome.mismatches, LISTED)
