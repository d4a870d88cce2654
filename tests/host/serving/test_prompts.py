# SPDX-License-Identifier: Apache-2.0
"""Prompts from options and from JSON Lines."""

import json

import pytest

from serrano_host.errors import RequestError
from serrano_host.serving.prompts import Defaults, Wanted, parse_ids, read_prompts, wanted_ids, wanted_text


class Letters:
    """Token 1 is the beginning, and letters follow from 2 on."""

    vocab = 28

    def encode(self, text, bos=True):
        return [1] * bos + [ord(letter) - 95 for letter in text]

    def decode(self, ids):
        return "".join(chr(i + 95) for i in ids if i > 1)


DEFAULTS = Defaults(9, 3, Letters())


def test_texts_and_ids():
    assert wanted_text("abc", DEFAULTS) == Wanted((1, 2, 3, 4), "abc", 9, 3)
    assert wanted_ids([1, 2, 99], DEFAULTS) == Wanted((1, 2, 99), "a", 9, 3)
    assert wanted_ids([5], Defaults(2)) == Wanted((5,), None, 2)
    assert parse_ids(" 1, 2 0x10") == [1, 2, 16]


def test_what_is_refused():
    with pytest.raises(RequestError, match="a prompt is empty"):
        wanted_text("", DEFAULTS)
    with pytest.raises(RequestError, match="there is no tokenizer"):
        wanted_text("abc", Defaults(1))
    with pytest.raises(RequestError, match="token ids are integers separated by blanks or commas, not '1 x'"):
        parse_ids("1 x")


def test_json_lines(tmp_path):
    file = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "ab"},
        {"prompt_ids": [4, 5], "max_new": 2, "eos": None, "tenant": 7, "arrival": 1000},
        {"prompt": "c", "eos": 5},
        {"prompt_ids": []},
    ]
    file.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert read_prompts(file, DEFAULTS) == [
        Wanted((1, 2, 3), "ab", 9, 3),
        Wanted((4, 5), "cd", 2, None, 7, 1000),
        Wanted((1, 4), "c", 9, 5),
        Wanted((), "", 9, 3),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":3: not JSON: "),
        ("[1]", r":3: an object is expected, not \[1\]"),
        ('{"prompt": "a", "seed": 1}', ":3: unknown field 'seed'; there are prompt, prompt_ids, max_new"),
        ('{"max_new": 1}', ":3: just one of prompt and prompt_ids is needed"),
        ('{"prompt": "a", "prompt_ids": [1]}', ":3: just one of prompt and prompt_ids is needed"),
        ('{"prompt": 5}', ":3: prompt must be a string, not 5"),
        ('{"prompt": ""}', ":3: a prompt is empty"),
        ('{"prompt_ids": [1, -1]}', ":3: prompt_ids must be a list of token ids"),
        ('{"prompt_ids": [true]}', ":3: prompt_ids must be a list of token ids"),
        ('{"prompt": "a", "max_new": 0}', ":3: max_new must be an integer of at least 1, not 0"),
        ('{"prompt": "a", "max_new": true}', ":3: max_new must be an integer of at least 1, not True"),
        ('{"prompt": "a", "arrival": 1.5}', ":3: arrival must be an integer of at least 0, not 1.5"),
        ('{"prompt": "a", "tenant": -1}', ":3: tenant must be an integer of at least 0, not -1"),
        ('{"prompt": "a", "eos": "x"}', ":3: eos must be an integer of at least 0, not 'x'"),
    ],
)
def test_wrong_lines(tmp_path, line, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n\n{line}\n')
    with pytest.raises(RequestError, match=message):
        read_prompts(file, DEFAULTS)


def test_wrong_files(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        read_prompts(tmp_path / "none", DEFAULTS)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(RequestError, match="there is no prompt in it"):
        read_prompts(tmp_path / "empty", DEFAULTS)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8 text"):
        read_prompts(tmp_path / "bytes", DEFAULTS)
