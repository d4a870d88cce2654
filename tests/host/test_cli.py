# SPDX-License-Identifier: Apache-2.0
"""The command `serrano` from its arguments to its exit status."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from serrano_host.cli import app, human
from serrano_host.tape import open_tape
from support.checkpoint_files import Shape, random_weights, write_hugging_face, write_llama2c

SHAPE = Shape(dim=32, ffn=20, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=20)


@pytest.fixture
def model(tmp_path):
    return write_hugging_face(tmp_path / "model", SHAPE, random_weights(SHAPE))


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_compile(tmp_path, model):
    output = tmp_path / "out.tape"
    result = run("compile", model, "-o", output)
    assert result.exit_code == 0, result.output
    size = output.stat().st_size
    assert f"{size:,} bytes), 19 packets" in result.stdout
    assert "model, 19,744 parameters" in result.stdout
    descriptor = open_tape(output).descriptor
    assert (descriptor.n, descriptor.align) == (16, 32)


@pytest.mark.parametrize(
    ("options", "geometry"),
    [
        (["--preset", "tiny"], (4, 32)),
        (["--preset", "ulx3s"], (8, 32)),
        (["--preset", "wide"], (32, 64)),
        (["--n", "8", "--align", "128"], (8, 128)),
        (["--preset", "tiny", "--align", "64"], (4, 64)),
    ],
)
def test_geometry(tmp_path, model, options, geometry):
    output = tmp_path / "out.tape"
    assert run("compile", model, "-o", output, *options).exit_code == 0
    descriptor = open_tape(output).descriptor
    assert (descriptor.n, descriptor.align) == geometry


def test_calibration_text_changes_the_means(tmp_path, model):
    text = tmp_path / "text.txt"
    text.write_text("he said hello and nothing else")
    images = []
    for options in ([], ["--calibration", text], ["--calibration", text, "--tokenizer", model]):
        assert run("compile", model, "-o", tmp_path / "out.tape", *options).exit_code == 0
        images.append((tmp_path / "out.tape").read_bytes())
    assert images[0] != images[1] == images[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "must be one of tiny, small, lean, ulx3s, base, wide, not 'huge'"),
        (["--n", "12"], "n must be a power of two in 4 to 64, not 12"),
        (["--align", "7"], "align must be a power of two in 32 to 32768, not 7"),
    ],
)
def test_usage_errors(tmp_path, model, options, message):
    result = run("compile", model, "-o", tmp_path / "out.tape", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_usage_of_nothing():
    assert run("compile").exit_code == 2
    assert run("no-such-command").exit_code == 2


def assert_one_line_error(result, *parts):
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("serrano: error: ") and result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def test_errors_are_one_line(tmp_path, model):
    truncated = write_llama2c(tmp_path / "m.bin", SHAPE, random_weights(SHAPE))
    truncated.write_bytes(truncated.read_bytes()[:-50])
    output = tmp_path / "out.tape"
    for command in (["compile", truncated, "-o", output], ["info", truncated]):
        assert_one_line_error(run(*command), "m.bin: truncated: ends in freq_cis_imag")
    assert not output.exists()
    assert_one_line_error(run("info", tmp_path / "nothing"), "nothing: no such file or folder")
    assert_one_line_error(run("compile", model, "-o", tmp_path / "a" / "b"), "No such file or directory")
    text = tmp_path / "text"
    arguments = ["compile", model, "-o", output, "--calibration", text]
    assert_one_line_error(run(*arguments), "text: No such file or directory")
    text.write_bytes(b"\xff\xfe")
    assert_one_line_error(run(*arguments), "text: not UTF-8 text")
    text.write_bytes(b"")
    assert_one_line_error(run(*arguments), "the calibration text is empty")
    assert_one_line_error(run("tape", text), "truncated in the descriptor")
    assert_one_line_error(run("tape", truncated), "not a tape: magic must be b'SRNO'")


def test_tape_tables(tmp_path, model):
    output = tmp_path / "out.tape"
    run("compile", model, "-o", output)
    result = run("tape", output)
    assert result.exit_code == 0, result.output
    for word in ("descriptor of", "head_pad", "EMBED", "MATMUL logits", "all CRCs right"):
        assert word in result.stdout
    image = bytearray(output.read_bytes())
    image[open_tape(output).packets[2].offset + 100] ^= 1
    output.write_bytes(image)
    assert_one_line_error(run("tape", output), "packet 2 at offset", "(QKV): crc must be")


def test_tape_json(tmp_path, model):
    output = tmp_path / "out.tape"
    run("compile", model, "-o", output)
    found = json.loads(run("tape", output, "--json").stdout)
    tape = open_tape(output)
    assert found["descriptor"]["image_bytes"] == output.stat().st_size
    assert [p["opcode"] for p in found["packets"]] == [p.opcode.name for p in tape.packets]
    assert [p["layer"] for p in found["packets"]] == [None, *[0] * 7, *[1] * 7, *[None] * 4]
    assert [p["payload_bytes"] for p in found["packets"]] == [p.payload_bytes for p in tape.packets]


def test_info(tmp_path, model):
    result = run("info", model)
    assert result.exit_code == 0
    assert "19,744" in result.stdout and "head_dim" in result.stdout
    found = json.loads(run("info", model, "--json").stdout)
    assert found["parameters"] == 19744 and found["layers"] == 2 and found["tied"] is True
    assert found["tokenizer"].endswith("tokenizer.json")
    file = write_llama2c(tmp_path / "m.bin", SHAPE, random_weights(SHAPE))
    assert json.loads(run("info", file, "--json").stdout)["tokenizer"] is None
    assert_one_line_error(run("info", file, "--tokenizer", tmp_path / "none"), "no such tokenizer file")


def test_help_names_the_commands():
    result = subprocess.run(
        [sys.executable, "-m", "serrano_host.cli", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("compile", "tape", "info", "estimate"):
        assert word in result.stdout


def test_sizes_for_people():
    assert [human(n) for n in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.00 GiB"]
