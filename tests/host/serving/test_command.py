# SPDX-License-Identifier: Apache-2.0
"""`serrano run` from its arguments to its report, on a stand-in for the accelerator."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from serrano_host.cli import app
from serrano_host.driver.registers import Register
from serrano_host.serving.command import TRANSPORTS, gather_prompts, open_model, ring_sizes
from serrano_host.serving.command import Order as RunOrder
from serrano_host.serving.prompts import Wanted
from serrano_sim.transport.simulation import open_transport
from support.checkpoint_files import Shape, random_weights, write_hugging_face
from support.fake_board import FakeBoard
from support.fake_device import FakeDevice, continuation

SHAPE = Shape(dim=32, ffn=20, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("checkpoint") / "model", SHAPE, random_weights(SHAPE))


@pytest.fixture(scope="module")
def tape(tmp_path_factory, model):
    file = tmp_path_factory.mktemp("tape") / "model.tape"
    run("compile", model, "-o", file, "--preset", "tiny")
    return file


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def serve(*arguments):
    return run("run", *arguments, "--preset", "tiny", "--transport", "support.fake_device:open_fake")


def arrays(file):
    with np.load(file) as opened:
        return dict(opened)


def test_prompts_and_report(tmp_path, model):
    file = tmp_path / "report.json"
    options = ("--prompt", "he said", "--prompt-ids", "5 6 7", "--max-new", 4, "--ignore-eos", "--json", file)
    result = serve(model, *options)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    first, second = report["requests"]
    assert first["prompt"] == "he said" and len(first["tokens"]) == 4
    assert f"[0] he said{first['text'][:2]}" in result.stdout
    assert second["tokens"] == continuation([5, 6, 7], 4, 300)
    assert report["throughput"]["tokens"] == 8 and report["transport"].endswith("open_fake")
    assert "2 served" in result.stdout and "cycles per token" in result.stdout
    assert "opening the stand-in" in result.stdout


def test_a_tape_with_and_without_tokenizer(model, tape):
    result = serve(tape, "--prompt-ids", "5,6", "--max-new", 3, "--ignore-eos")
    assert result.exit_code == 0, result.output
    ids = "".join(f"{token} " for token in continuation([5, 6], 3, 300)).strip()
    assert f"[0] 5 6 {ids}" in result.stdout
    result = serve(tape, "--prompt", "he said", "--max-new", 3)
    assert result.exit_code == 1
    assert "there is no tokenizer for a prompt of text; give one with --tokenizer" in result.stderr
    result = serve(tape, "--prompt", "he said", "--max-new", 3, "--tokenizer", model)
    assert result.exit_code == 0 and "[0] he said" in result.stdout


def test_json_lines_of_32_prompts(tmp_path, tape):
    file, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    lines = [{"prompt_ids": [i, i + 1], "max_new": 1 + i % 5, "arrival": 150 * i} for i in range(32)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = serve(tape, "--file", file, "--json", report, "--ignore-eos")
    assert result.exit_code == 0, result.output
    requests = json.loads(report.read_text())["requests"]
    assert [r["tokens"] for r in requests] == [continuation([i, i + 1], 1 + i % 5, 300) for i in range(32)]
    assert [r["arrival"] for r in requests] == [150 * i for i in range(32)]


def test_a_request_that_fails_gives_status_1(tape):
    result = serve(tape, "--prompt-ids", " ".join(["1"] * 39), "--prompt-ids", "1", "--max-new", 2)
    assert result.exit_code == 1
    assert "1 served, 1 failed" in result.stdout
    assert "REQUEST_LENGTH: prompt and new tokens exceed the context" in result.stdout


def test_logits(tmp_path, tape):
    file = tmp_path / "logits.npz"
    common = (tape, "--prompt-ids", "1 2", "--prompt-ids", "3", "--max-new", 4, "--ignore-eos")
    result = serve(*common, "--logits", file, "--steps", "0,2-3", "-O", "logits=1")
    assert result.exit_code == 0, result.output
    assert "6 rows in" in result.stdout
    found = arrays(file)
    assert found["step"].tolist() == [0, 0, 2, 2, 3, 3] and found["request"].tolist() == [0, 1] * 3
    assert found["logits"].shape == (6, 300)
    assert (found["logits"].argmax(axis=1) == found["token"])[found["position"] > 0].all()
    result = serve(*common, "--logits", file)
    assert result.exit_code == 1
    assert "this transport has no logits" in result.stderr
    result = serve(*common, "--logits", tmp_path / "none" / "x.npz", "-O", "logits=1")
    assert result.exit_code == 1
    assert "2 served" in result.stdout and "No such file" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is nothing to do: give --prompt, --prompt-ids or --file"),
        (["--prompt-ids", "x"], "token ids are integers"),
        (["--prompt-ids", "1", "--max-new", "0"], "--max-new must be at least 1, not 0"),
        (["--prompt-ids", "1", "--steps", "x"], "steps are 'all'"),
        (["--prompt-ids", "1", "-O", "latency"], "--option takes NAME=VALUE, not 'latency'"),
        (
            ["--prompt-ids", "1", "--transport", "uart"],
            "transport must be sim, serial or module:function, not 'uart'",
        ),
        (["--prompt-ids", "1", "--transport", "no.such:thing"], "transport 'no.such:thing' is not installed"),
        (["--prompt-ids", "1", "--transport", "json:nothing"], "transport 'json:nothing' is not installed"),
        (["--prompt-ids", "1", "--preset", "ulx3s"], "the tape's n is 4, the accelerator's is 8"),
        (["--prompt-ids", "1", "-O", "identity=0"], "no accelerator: register ID"),
    ],
)
def test_errors_are_one_line(tape, options, message):
    given = {"--preset": "tiny", "--transport": "support.fake_device:open_fake"}
    for name, value in given.items():
        options = options if name in options else [*options, name, value]
    result = run("run", tape, *options)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_checkpoint_is_compiled_for_the_board(monkeypatch, tmp_path, model):
    file = tmp_path / "report.json"
    device = FakeDevice(watches=False, knows_cycles=False, memory_bytes=1 << 22)
    monkeypatch.setattr("serrano_host.board.transport.open_line", lambda port, baud: FakeBoard(device))
    options = ("--port", "/dev/ttyX", "--prompt-ids", "5 6 7", "--max-new", 4, "--ignore-eos", "--json", file)
    result = run("run", model, *options)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    assert report["preset"] == "tiny"
    assert report["requests"][0]["tokens"] == continuation([5, 6, 7], 4, 300)
    device.values[Register.GEOMETRY] = 0x01020304
    result = run("run", model, *options)
    assert result.exit_code == 1 and "which is no known preset: say with --preset" in result.stderr


def test_unknown_presets(model):
    result = run("run", model, "--prompt", "a", "--preset", "huge")
    assert result.exit_code == 1
    assert "preset must be one of tiny, small, lean, ulx3s, base, wide" in result.stderr


def test_the_order_of_prompts(tmp_path, model):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt_ids": [3]}\n')
    order = RunOrder(model=model, prompts=["he"], prompt_ids=["2"], file=file, preset="tiny")
    found = gather_prompts(order, open_model(order))
    assert [wanted.prompt_ids[-1] for wanted in found][1:] == [2, 3]
    assert all(wanted.eos == 2 and wanted.max_new == 32 for wanted in found)


def test_ring_sizes():
    def size(*lengths):
        return ring_sizes([Wanted((1,), None, length) for length in lengths])["complete_size"]

    assert size(1) == 1024
    assert size(1023) == 1024 and size(1024) == 2048
    assert size(*[100] * 64) == 8192 == size(*[100] * 500)
    assert size(*[4000] * 64) == 65536


def test_the_simulation_is_found_by_its_name():
    module, _, function = TRANSPORTS["sim"].partition(":")
    assert (module, function) == (open_transport.__module__, open_transport.__name__)
