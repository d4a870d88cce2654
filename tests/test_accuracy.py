# SPDX-License-Identifier: Apache-2.0
"""The accuracy measurement: its numbers against plain rendering, its gates, its report and exit status."""

import dataclasses
import json
import math

import numpy as np
import pytest

from serrano_host.checkpoints import open_checkpoint
from serrano_host.compile import Geometry, compile_tape
from serrano_host.quantize import pack_nearest, quantize, unpack
from serrano_host.reference import Reference
from serrano_sim import accuracy
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.tape import load_model
from support.checkpoint_files import Shape, random_weights, write_hugging_face, write_llama2c

SHAPE = Shape(dim=32, ffn=44, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=40)
TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs. " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("accuracy") / "model", SHAPE, random_weights(SHAPE))


@pytest.fixture(scope="module")
def checkpoint(folder):
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def parts(checkpoint):
    return accuracy.windows(checkpoint.tokenizer().encode(TEXT, bos=False)[:100], 40, checkpoint.bos)


def test_windows_with_bos():
    found = accuracy.windows(range(10, 17), 3, 1)
    assert [(a.tolist(), b.tolist()) for a, b in found] == [
        ([1, 10, 11], [10, 11, 12]),
        ([1, 13, 14], [13, 14, 15]),
        ([1], [16]),
    ]


def test_windows_without_bos():
    found = accuracy.windows(range(10, 16), 3, None)
    assert [(a.tolist(), b.tolist()) for a, b in found] == [
        ([10, 11, 12], [11, 12, 13]),
        ([13, 14], [14, 15]),
    ]


def test_both_ways_to_the_golden_model_are_one(checkpoint):
    quantized = quantize(checkpoint)
    direct = accuracy.golden_model(quantized)
    for geometry in (Geometry(4, 32), Geometry(32, 64)):
        assert direct.same(load_model(compile_tape(quantized, geometry)))


def test_numbers(checkpoint, parts):
    """Against a plain rendering, token by token."""
    model = accuracy.golden_model(quantize(checkpoint))
    done = []
    found = accuracy.compare(checkpoint, model, parts, done.append)
    assert done == [40, 40, 20]
    nll, kl, same = [], [], 0
    for inputs, targets in parts:
        floats = Reference(checkpoint).forward(inputs).logits
        decoder = Decoder(model, n=4)
        for row, token, target in zip(floats, inputs, targets, strict=True):
            integers = decoder.step([token])[0]
            p = [math.exp(v) for v in row]
            q = [math.exp(v / 65536) for v in integers]
            p, q = ([v / sum(some) for v in some] for some in (p, q))
            nll.append((-math.log(p[target]), -math.log(q[target])))
            kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            same += int(np.argmax(row)) == int(np.argmax(integers))
    first, second = np.array(nll).T
    assert found.tokens == 100
    assert found.perplexity_float == pytest.approx(math.exp(first.mean()))
    assert found.perplexity_int == pytest.approx(math.exp(second.mean()))
    assert found.perplexity_change == pytest.approx(found.perplexity_int / found.perplexity_float - 1)
    error = np.std(second - first, ddof=1) / 10
    assert found.perplexity_change_se == pytest.approx(error * (1 + found.perplexity_change))
    assert found.mean_kl == pytest.approx(np.mean(kl))
    assert found.top1 == same / 100


def test_wide_operands_leave_only_the_nonlinear_units(checkpoint, parts):
    narrow = accuracy.compare(checkpoint, accuracy.golden_model(quantize(checkpoint)), parts)
    wide = accuracy.compare(checkpoint, accuracy.golden_model(quantize(checkpoint, bits=16)), parts)
    assert wide.mean_kl < accuracy.Gates.kl_16bit < narrow.mean_kl
    # A wrong score constant shows.
    model = quantize(checkpoint, bits=16)
    wrong = dataclasses.replace(model, s_score=pack_nearest(0.8 * float(unpack(model.s_score))))
    assert accuracy.compare(checkpoint, accuracy.golden_model(wrong), parts).mean_kl > accuracy.Gates.kl_16bit


GOOD = accuracy.Comparison(8000, 20.0, 20.1, 0.005, 0.001, 0.004, 0.95)


@pytest.mark.parametrize(
    ("change", "kl_16bit", "missed"),
    [
        ({}, 1e-4, []),
        ({"tokens": 7999}, 0, ["tokens"]),
        ({"perplexity_change": 0.0051}, 0, ["perplexity_change"]),
        ({"perplexity_change": -0.1}, 0, []),
        ({"mean_kl": 0.0041}, 0, ["mean_kl"]),
        ({"mean_kl": math.nan}, 0, ["mean_kl"]),
        ({"top1": 0.949}, 0, ["top1"]),
        ({}, 1.1e-4, ["kl_16bit"]),
    ],
)
def test_gates(change, kl_16bit, missed):
    gates = accuracy.judge(dataclasses.replace(GOOD, **change), kl_16bit, accuracy.GATES["small"])
    assert [gate.name for gate in gates if not gate.passed] == missed


def test_story_gates_are_narrower():
    gates = accuracy.judge(GOOD, 0, accuracy.GATES["story"])
    assert [gate.name for gate in gates if not gate.passed] == ["perplexity_change", "mean_kl", "top1"]
    assert [gate.limit for gate in gates] == [8000, 0.0025, 0.0025, 0.97, 1e-4]


def run(tmp_path, model, *options, text=TEXT):
    (tmp_path / "text.txt").write_text(text)
    report = tmp_path / "reports" / "accuracy.json"
    arguments = ["--model", model, "--text", tmp_path / "text.txt", "--json", report, *options]
    status = accuracy.main([str(a) for a in arguments])
    return status, json.loads(report.read_text()) if report.exists() else None


def test_report(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setitem(accuracy.GATES, "story", accuracy.Gates(0.1, 0.1, 0.5, tokens=100))
    status, report = run(tmp_path, folder)
    assert status == 0 and report["passed"] is True and report["class"] == "story"
    keys = (
        "tokens perplexity_float perplexity_int perplexity_change perplexity_change_se mean_kl top1 kl_16bit"
    )
    assert all(isinstance(report[key], int | float) for key in keys.split())
    assert report["perplexity_change"] == pytest.approx(
        report["perplexity_int"] / report["perplexity_float"] - 1
    )
    assert set(report["gates"]) == {"tokens", "perplexity_change", "mean_kl", "top1", "kl_16bit"}
    assert report["tokens"] == report["tokens_16bit"] > 100
    out = capsys.readouterr().out
    assert "class 'story'" in out and "all gates passed" in out


def test_missed_gate(tmp_path, folder, capsys):
    status, report = run(tmp_path, folder, "--tokens", "30", "--gates", "small")
    assert status == 1 and report["passed"] is False and report["class"] == "small"
    assert report["tokens"] == 30 and report["gates"]["tokens"]["passed"] is False
    assert "missed: tokens" in capsys.readouterr().out


def test_wrong_input(tmp_path, folder, capsys):
    file = write_llama2c(tmp_path / "m.bin", SHAPE, random_weights(SHAPE))
    file.write_bytes(file.read_bytes()[:-1])
    assert run(tmp_path, file) == (2, None)
    assert "m.bin: truncated: ends in freq_cis_imag" in capsys.readouterr().err
    assert run(tmp_path, folder, text="") == (2, None)
    assert "text.txt: at least two tokens are needed, not 0" in capsys.readouterr().err
    assert accuracy.main(["--model", str(folder), "--text", str(tmp_path / "none")]) == 2
    assert "none: No such file or directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        accuracy.main(["--tokens", "0"])
    assert error.value.code == 2


def test_class_of_gates_follows_the_model(tmp_path):
    assert accuracy.arguments([]).gates == "small"
    assert accuracy.arguments(["--model", str(accuracy.MODEL)]).gates == "small"
    assert accuracy.arguments(["--model", str(tmp_path)]).gates == "story"
    assert accuracy.arguments(["--model", str(tmp_path), "--gates", "small"]).gates == "small"


def test_our_own_checkpoint_on_a_window():
    """One window of what `make accuracy` measures in full; a single window scatters more than the whole."""
    checkpoint = open_checkpoint(accuracy.MODEL)
    tokens = checkpoint.tokenizer().encode(accuracy.TEXT.read_text(), bos=False)[: checkpoint.context]
    parts = accuracy.windows(tokens, checkpoint.context, checkpoint.bos)
    model = load_model(compile_tape(quantize(checkpoint), Geometry()))
    found = accuracy.compare(checkpoint, model, parts)
    limits = accuracy.GATES["small"]
    assert found.tokens == checkpoint.context
    assert found.mean_kl <= limits.mean_kl and found.top1 >= limits.top1 - 0.02
    assert abs(found.perplexity_change) <= limits.perplexity_change + 4 * found.perplexity_change_se
