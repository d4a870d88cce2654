# SPDX-License-Identifier: Apache-2.0
"""Reading recordings: what is understood, and what is refused with which words."""

import json

import pytest

from serrano_sim.conformance.recording import BLOCKS_LIMIT, Malformed, Operation, Recording, read

INIT = {"op": "INIT", "n": 4, "pool": 0}


@pytest.fixture
def write(tmp_path):
    """Writes tests with these operations, and reads them."""

    def write(*tests) -> Recording:
        file = tmp_path / "recording.jsonl"
        lines = [json.dumps({"test": f"test {place}", "ops": ops}) for place, ops in enumerate(tests)]
        file.write_text("\n".join(lines))
        return read(file)

    return write


def one(write, **fields) -> Operation:
    """The operation with these fields, in a pool of four blocks."""
    (script,) = write([INIT, fields]).scripts
    return script.operations[1]


def test_every_operation(write) -> None:
    state = {"free": [3], "ref": [-1, 2, 1, 0], "cached": [False, True, 0, 1]}
    recording = write(
        [
            INIT,
            {"op": "ALLOC", "n": 2, "ret": [1, 2], **state, "pool": 0},
            {"op": "SHARE", "blk": [[1], [0, 2], []], "pool": 0},
            {"op": "SEAL", "blk": [2, 1], "pool": 0},
            {"op": "FREE", "blk": [2, 1, 0], "pool": 0},
            {"op": "RESET", "ok": False, "pool": 0},
        ]
    )
    assert recording.tests == 1 and recording.operations == 6
    (script,) = recording.scripts
    assert (script.test, script.line, script.pool, script.size, script.renamed) == ("test 0", 1, 0, 4, False)
    known = {"free": (3,), "references": (-1, 2, 1, 0), "cached": (False, True, False, True)}
    assert script.operations == (
        Operation(0, "INIT", 4),
        Operation(1, "ALLOC", 2, returned=(1, 2), **known),
        Operation(2, "SHARE", blocks=((1,), (0, 2), ())),
        Operation(3, "SEAL", blocks=((2, 1),)),
        Operation(4, "FREE", blocks=((2, 1, 0),)),
        Operation(5, "RESET", ok=False),
    )


def test_pools_are_taken_apart(write) -> None:
    recording = write(
        [
            {"op": "INIT", "n": 4, "pool": 7},
            {"op": "INIT", "n": 9},
            {"op": "RESET", "pool": 7},
            {"op": "FREE", "blk": []},
            {"op": "INIT", "n": 65536, "pool": 7},
        ],
        [],
        [INIT],
    )
    assert recording.tests == 3
    found = [
        (script.line, script.pool, script.size, [operation.number for operation in script.operations])
        for script in recording.scripts
    ]
    assert found == [(1, 7, BLOCKS_LIMIT, [0, 2, 4]), (1, 0, 9, [1, 3]), (3, 0, 4, [0])]


@pytest.mark.parametrize(
    ("fields", "renamed"),
    [({}, False), ({"free": [1]}, False), ({"nfree": 1}, True), ({"free": [1], "nfree": 1}, False)],
)
def test_numbers_of_free_blocks_mean_other_names(write, fields, renamed) -> None:
    (script,) = write([INIT, {"op": "FREE", "blk": [], **fields}]).scripts
    assert script.renamed is renamed
    assert script.operations[1].free_count == fields.get("nfree")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ret": None},
        {"ret": []},
        {"ret": False},
        {"ret": "ValueError: no free blocks"},
        {"error": "no free blocks"},
        {"ret": None, "error": "no free blocks"},
        {"ok": False},
        {"ok": False, "ret": []},
    ],
)
def test_refusals(write, fields) -> None:
    operation = one(write, op="ALLOC", n=5, **fields)
    assert (operation.count, operation.refused, operation.returned) == (5, True, None)


@pytest.mark.parametrize(
    ("fields", "returned"),
    [
        ({"n": 1, "ret": [3]}, (3,)),
        ({"n": 1, "ret": [3], "ok": True, "error": None}, (3,)),
        ({"n": 1, "ok": True}, None),
        ({"n": 3, "ret": [3]}, (3,)),
        ({"n": 0, "ret": []}, ()),
        ({"n": 0}, ()),
    ],
)
def test_allocations(write, fields, returned) -> None:
    operation = one(write, op="ALLOC", **fields)
    assert not operation.refused
    assert operation.returned == returned


def test_lists_in_lists(write) -> None:
    assert one(write, op="SHARE", blk=[1, 2]).blocks == ((1, 2),)
    assert one(write, op="SHARE", blk=[]).blocks == ((),)
    assert one(write, op="FREE", blk=[[1], [2, 3]]).blocks == ((1, 2, 3),)


def test_what_nobody_knows_is_left_alone(write) -> None:
    plain = one(write, op="FREE", blk=[1])
    assert one(write, op="FREE", blk=[1], time=1.5, note={"a": None}, ref=None, free=None) == plain


def test_blank_lines_and_carriage_returns(tmp_path) -> None:
    file = tmp_path / "recording.jsonl"
    line = json.dumps({"test": "ä", "ops": [INIT]}, ensure_ascii=False)
    file.write_bytes(f"\ufeff{line}\r\n\r\n  \n{line}".encode())
    assert [script.line for script in read(file).scripts] == [1, 4]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"op": "GROW"}, 'op must be one of INIT, ALLOC, SHARE, SEAL, FREE, RESET, not "GROW"'),
        ({}, "op must be one of INIT, ALLOC, SHARE, SEAL, FREE, RESET, not null, or missing"),
        ({"op": ["INIT"]}, 'not ["INIT"]'),
        ({"op": "INIT", "n": 0}, "(INIT): n must be a number from 1 to 65536, not 0"),
        ({"op": "INIT", "n": 65537}, "(INIT): n must be a number from 1 to 65536, not 65537"),
        ({"op": "INIT"}, "(INIT): n must be a number from 1 to 65536, not null, or missing"),
        ({"op": "ALLOC", "ret": [1]}, "(ALLOC): n must be"),
        ({"op": "ALLOC", "n": "2"}, 'n must be a number from 0 to 4294967295, not "2"'),
        ({"op": "ALLOC", "n": True}, "not true"),
        ({"op": "ALLOC", "n": 2.0}, "not 2.0"),
        ({"op": "ALLOC", "n": 2, "ret": [1, "2"]}, 'ret must be a list of block numbers, not [1, "2"]'),
        ({"op": "ALLOC", "n": 2, "ret": [1, -2]}, "ret must be a list of block numbers"),
        (
            {"op": "ALLOC", "n": 2, "ret": {}},
            "ret must be a list of block numbers, or null if it was refused",
        ),
        ({"op": "ALLOC", "n": 2, "ret": 0}, "or null if it was refused, not 0"),
        ({"op": "ALLOC", "n": 2, "ok": True, "ret": []}, "ret must be what was given, as ok is true, not []"),
        ({"op": "ALLOC", "n": 2, "ok": True, "error": "none"}, "ret must be what was given"),
        ({"op": "ALLOC", "n": 2, "ok": 1}, "ok must be true or false, not 1"),
        ({"op": "SHARE"}, "(SHARE): blk must be a list of block numbers, not null, or missing"),
        ({"op": "SHARE", "blk": [[1], 2]}, "blk must be a list of block numbers, not [[1], 2]"),
        ({"op": "SEAL", "blk": 3}, "(SEAL): blk must be a list of block numbers, not 3"),
        ({"op": "FREE", "blk": [None]}, "(FREE): blk must be a list of block numbers, not [null]"),
        ({"op": "RESET", "ok": "no"}, '(RESET): ok must be true or false, not "no"'),
        ({"op": "RESET", "pool": -1}, "pool must be a number from 0 to"),
        ({"op": "RESET", "pool": 3}, "(RESET): there was no INIT of pool 3"),
        ({"op": "RESET", "free": 3}, "free must be a list of block numbers, not 3"),
        ({"op": "RESET", "free": [1.5]}, "free must be a list of block numbers, not [1.5]"),
        ({"op": "RESET", "nfree": [3]}, "nfree must be a number from 0 to"),
        ({"op": "RESET", "ref": [0, -1]}, "ref must be a list with the count of each block, not [0, -1]"),
        ({"op": "RESET", "ref": {"1": 1}}, "ref must be a list with the count of each block"),
        (
            {"op": "RESET", "cached": [0, 2]},
            "cached must be a list with true or false for each block, not [0",
        ),
        ({"op": "RESET", "cached": True}, "cached must be a list with true or false for each block"),
        (["RESET"], 'ops[1] must be an object, not ["RESET"]'),
    ],
)
def test_malformed_operations(write, fields, told) -> None:
    with pytest.raises(Malformed) as caught:
        write([INIT], [INIT, fields])
    assert "recording.jsonl, line 2: ops[1]" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[]", "a test must be an object with test and ops, not []"),
        (b'{"ops": []}', "test must be the test's name, not null, or missing"),
        (b'{"test": 3, "ops": []}', "test must be the test's name, not 3"),
        (b'{"test": "a"}', "ops must be a list of operations, not null, or missing"),
        (b'{"test": "a", "ops": [{"op": "IN', "not JSON: Unterminated string starting at at column 30"),
        (b"\x89PNG\x00", "not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "not JSON that can be read: nested too deeply"),
        (b'{"test": "a", "ops": ' + b"1" * 5000 + b"}", "not JSON that can be read: Exceeds the limit"),
        (b'{"test": "a", "ops": "' + b"x" * 100 + b'"}', f'not "{"x" * 56}...'),
    ],
)
def test_malformed_lines(tmp_path, line, told) -> None:
    file = tmp_path / "recording.jsonl"
    good = json.dumps({"test": "good", "ops": [INIT]}).encode()
    file.write_bytes(good + b"\n\n" + line + b"\n" + good)
    with pytest.raises(Malformed) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}, line 3: ")
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n \n", '{"test": "a", "ops": []}\n'])
def test_files_without_operations(tmp_path, text) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_text(text)
    with pytest.raises(Malformed, match="there is no operation in it"):
        read(file)


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(Malformed, match=r"missing\.jsonl: No such file or directory"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(Malformed, match="Is a directory"):
        read(tmp_path)
