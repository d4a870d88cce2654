# SPDX-License-Identifier: Apache-2.0
"""Logits in files."""

import json

import numpy as np
import pytest

from serrano_host.driver import Handle
from serrano_host.errors import RequestError
from serrano_host.serving.logits import Steps, log_probabilities, write_logits
from serrano_host.serving.prompts import Wanted
from serrano_host.serving.session import Served

VOCAB = 6


class Source:
    """Rows of two requests in turn, one of another session, with padding behind the vocabulary."""

    def logits(self):
        for step in range(4):
            for number, prompt in ((7, 3), (9, 1), (1, 1)):
                row = np.arange(VOCAB + 2, dtype=np.int32) * 1000 * (step + 1) + number
                row[VOCAB:] = 1 << 30
                yield number, prompt - 1 + step, row


SERVED = [
    Served(0, Wanted((1, 2, 3), None, 4), 0, Handle(7, 3, 4, tokens=[2, 3, 4, 5])),
    Served(1, Wanted((1,), None, 4), 0, Handle(9, 1, 4, tokens=[0, 1])),
    Served(2, Wanted((1,), None, 4), 0, problem="x"),
]


def arrays(file):
    with np.load(file) as opened:
        return dict(opened)


@pytest.mark.parametrize(
    ("text", "there", "not_there"),
    [
        ("all", [0, 1, 99], []),
        ("0", [0], [1]),
        ("1,4-6", [1, 4, 5, 6], [0, 2, 3, 7]),
        (" 2 , 3", [2, 3], [1]),
    ],
)
def test_steps(text, there, not_there):
    steps = Steps(text)
    assert all(step in steps for step in there) and not any(step in steps for step in not_there)


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1;2"])
def test_wrong_steps(text):
    with pytest.raises(RequestError, match="steps are 'all', or numbers and ranges such as 0,4-7, not"):
        Steps(text)


def test_log_probabilities():
    logits = np.array([0, 65536, -65536 * 100], dtype=np.int32)
    found = log_probabilities(logits)
    assert np.allclose(np.exp(found).sum(), 1)
    assert np.isclose(found[1] - found[0], 1) and np.isclose(found[1] - found[2], 101)


def test_json_lines(tmp_path):
    file = tmp_path / "x.jsonl"
    assert write_logits(file, Source(), SERVED, VOCAB, Steps("1-2")) == 3
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["request"], line["step"], line["position"], line["token"]) for line in lines] == [
        (0, 1, 3, 3),
        (1, 1, 1, 1),
        (0, 2, 4, 4),
    ]
    assert lines[0]["logits"] == [7, 2007, 4007, 6007, 8007, 10007]


def test_arrays(tmp_path):
    file = tmp_path / "x.npz"
    assert write_logits(file, Source(), SERVED, VOCAB, Steps(), logprobs=True) == 6
    found = arrays(file)
    assert found["request"].tolist() == [0, 1, 0, 1, 0, 0]
    assert found["step"].tolist() == [0, 0, 1, 1, 2, 3]
    assert found["logprobs"].shape == (6, VOCAB) and found["logprobs"].dtype == np.float32
    assert np.allclose(np.exp(found["logprobs"].astype(float)).sum(axis=1), 1, atol=1e-5)
    assert write_logits(file, Source(), SERVED, VOCAB, Steps("50")) == 0
    assert arrays(file)["logits"].shape == (0, VOCAB)


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        write_logits(tmp_path / "none" / "x.npz", Source(), SERVED, VOCAB, Steps())
