# SPDX-License-Identifier: Apache-2.0
"""`make sim`: wrong input, and whole runs on a stand-in that plays back the golden model's results."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from rich.console import Console

from serrano.faults import FaultCode
from serrano_host.checkpoints import open_checkpoint
from serrano_sim import run
from serrano_sim.golden.tape import load_model
from serrano_sim.top.simulate import prepare
from support.checkpoint_files import (
    Shape,
    llama2c_pieces,
    random_weights,
    write_hugging_face,
    write_llama2c,
    write_llama2c_tokenizer,
)
from support.playback import TRACE, fake_design, script

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape(dim=32, ffn=44, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=40)
KEYS = (
    "preset model prompt_tokens generated_tokens text bit_exact logits_compared kv_bytes_compared cycles"
    " cycles_per_token mbu port_busy mac_utilization bytes array_cycles port_cycles kv_blocks_peak errors"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("checkpoint") / "small", SHAPE, random_weights(SHAPE))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Puts the stand-in in the accelerator's place; gives a function that runs, with changed actions."""
    changes, failures = [], {}

    def prepare_with_script(job, tape, path):
        made = script(job, load_model(tape), 2000, failures)
        for change in changes:
            change(made)
        prepared = prepare(job, tape, path)
        made.write_to(prepared)
        return prepared

    def go(*options, change=None, failing=None):
        changes[:] = [change] if change else []
        failures.clear()
        failures.update(failing or {})
        return run.main(
            ["--json", str(tmp_path / "sim.json"), *options], lambda *_: fake_design(tmp_path / "fake")
        )

    monkeypatch.setattr(run, "prepare", prepare_with_script)
    # Tapes and runs go elsewhere; the build of the stand-in is shared by all tests.
    monkeypatch.setattr(run, "build_root", lambda: tmp_path / "build")
    go.report = lambda: json.loads((tmp_path / "sim.json").read_text())
    return go


# What is refused before anything runs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt="], "the prompt is empty; give some text to go on from"),
        (["--prompt-ids", "1 300"], "token 300 of the prompt is outside the vocabulary of 300"),
        (["--prompt-ids", "1,-1"], "token -1 of the prompt is outside the vocabulary of 300"),
        (["--prompt-ids", "one"], "--prompt-ids takes token ids, not 'one'"),
        (["--prompt", "x" * 60], "the prompt has 61 tokens and does not fit the context of the model, 40"),
        (
            ["--prompt", "abc", "--tokens", "37"],
            "the prompt has 4 tokens; with 37 more they do not fit the context of the model, 40",
        ),
        (["--prompt2="], "PROMPT2 is empty; give some text to go on from"),
        (["--prompt2-ids", "1 300"], "token 300 of PROMPT2 is outside the vocabulary of 300"),
        (["--prompt2-ids", "two"], "--prompt2-ids takes token ids, not 'two'"),
        (
            ["--prompt", "abc", "--tokens", "4", "--prompt2", "x" * 60],
            "PROMPT2 has 61 tokens and does not fit the context of the model, 40",
        ),
        (
            ["--prompt", "abc", "--prompt2", "abcd", "--tokens", "36"],
            "PROMPT2 has 5 tokens; with 36 more they do not fit the context of the model, 40",
        ),
        (["--tokens", "0"], "TOKENS must be at least 1, not 0"),
        (["--latency", "0"], "LATENCY must be from 1 to 100000 cycles, not 0"),
        (["--latency", "100001"], "LATENCY must be from 1 to 100000 cycles, not 100001"),
        (["--preset", "huge"], "preset must be one of tiny, small, lean, ulx3s, base, wide, not 'huge'"),
        (["--tokenizer", "missing.json"], "missing.json: no such tokenizer file"),
    ],
)
def test_wrong_input(folder, options, message, capsys):
    assert run.main(["--model", str(folder), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"sim: error: {message}\n"
    assert captured.out == ""


def test_a_missing_model(capsys):
    assert run.main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err == "sim: error: nowhere: no such file or folder\n"


def test_a_truncated_checkpoint(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert run.main(["--model", str(broken)]) == 2
    assert "model.safetensors: truncated or not a safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(dim=260, heads=4, kv_heads=4, head_dim=8), "dim is 260, dim_max is 256"),
        (Shape(ffn=1028), "ffn is 1028, ffn_max is 1024"),
        (
            Shape(heads=64, kv_heads=4, head_dim=4),
            "heads is 64, heads_max is 16; heads / kv_heads is 16, attention_rows_max is 8",
        ),
    ],
)
def test_a_model_too_large(shape, message, tmp_path, capsys):
    big = write_hugging_face(tmp_path / "big", shape, random_weights(shape))
    assert run.main(["--model", str(big), "--preset", "tiny", "--prompt", "a"]) == 2
    assert capsys.readouterr().err == f"sim: error: big does not fit preset 'tiny': {message}\n"


def test_the_accelerators_own_context(tmp_path, capsys):
    shape = Shape(context=2000)
    long = write_hugging_face(tmp_path / "long", shape, random_weights(shape))
    options = ["--model", str(long), "--preset", "tiny", "--prompt", "a", "--tokens", "1023"]
    assert run.main(options) == 2
    assert "do not fit the context of the preset 'tiny', 1024" in capsys.readouterr().err


def test_too_few_blocks_for_two_prompts(tmp_path, capsys):
    shape = Shape(context=2000)
    long = write_hugging_face(tmp_path / "long", shape, random_weights(shape))
    ids = [" ".join(str(start + i % 100) for i in range(900)) for start in (10, 11)]
    options = ["--model", str(long), "--preset", "tiny", "--tokens", "124"]
    assert run.main([*options, "--prompt-ids", ids[0], "--prompt2-ids", ids[1]]) == 2
    text = "129 KV blocks are needed for the prompt and PROMPT2, blocks_max of tiny is 128"
    assert capsys.readouterr().err == f"sim: error: {text}\n"


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        run.main(["--tokens", "many"])
    assert ended.value.code == 2
    assert "invalid int value: 'many'" in capsys.readouterr().err


# Whole runs


def test_a_run(folder, fake, capsys):
    assert fake("--model", str(folder), "--prompt", "hello", "--tokens", "6", "--seed", "3") == 0
    report = fake.report()
    assert set(KEYS) <= set(report)
    checkpoint = open_checkpoint(folder)
    ids = checkpoint.tokenizer().encode("hello")
    assert report["prompt_tokens"] == len(ids)
    assert report["generated_tokens"] == len(report["tokens"]) == 6
    both = checkpoint.tokenizer().decode([*ids, *report["tokens"]])
    assert both == "hello" + report["text"]
    assert (report["preset"], report["model"], report["bit_exact"]) == ("base", "small", True)
    assert report["logits_compared"] == 6 * 300
    assert report["kv_bytes_compared"] == (len(ids) + 5) * 2 * 2 * (2 * 8 + 4)
    # The prompt goes through in one step, which gives the first token.
    rows = len(ids) + 5
    assert report["cycles"] == rows * 2000
    assert sum(report["array_cycles"].values()) == sum(report["port_cycles"].values()) == rows * 2000
    assert report["cycles_per_token"] == rows * 2000 / 6
    assert report["port_busy"] == pytest.approx(900 / 2000)
    assert report["bytes"]["weights"] == rows * 14400
    assert report["kv_blocks_peak"] == 7
    assert report["errors"] == []
    assert (report["latency"], report["seed"]) == (60, 3)
    assert report["run"]["steps"] == 6
    out = capsys.readouterr().out
    assert "random stalls from seed 3" in out
    assert "bit exact: 1,800 logits" in out
    assert "   6/6  " in out
    assert "What the read port did" in out


# Two prompts


def ids_of(folder, text):
    return open_checkpoint(folder).tokenizer().encode(text)


TEXT = "a story of two ox"


@pytest.mark.parametrize(
    ("first", "second", "tokens", "method", "reused"),
    [
        (TEXT, TEXT + " carts", 6, "fork and trim", 18),
        (TEXT + "en in spring", TEXT + " carts", 6, "share and trim", 18),
        (TEXT, TEXT, 3, "fork and trim", 17),
        (TEXT, "a st", 3, "share and trim", 4),
        (TEXT[:15], TEXT, 3, "share", 16),
    ],
)
def test_two_prompts(folder, fake, capsys, first, second, tokens, method, reused):
    options = ["--prompt", first, "--prompt2", second, "--tokens", str(tokens)]
    assert fake("--model", str(folder), *options) == 0
    report = fake.report()
    assert report["bit_exact"] and report["errors"] == []
    one, two = ids_of(folder, first), ids_of(folder, second)
    assert (report["prompt"], report["prompt_tokens"]) == (first, len(one))
    shared, alone, prefix = report["second"], report["alone"], report["prefix"]
    assert (shared["prompt"], shared["prompt_tokens"]) == (second, len(two))
    assert shared["tokens"] == alone["tokens"] and len(alone["tokens"]) == tokens
    assert shared["text"] == alone["text"]
    decode = open_checkpoint(folder).tokenizer().decode
    assert decode([*two, *shared["tokens"]]) == second + shared["text"]
    assert (prefix["method"], prefix["reused_tokens"]) == (method, reused)
    assert prefix["blocks_shared"] == reused // 16
    assert prefix["blocks_copied"] == (reused % 16 > 0)
    # Sixteen tokens of a prompt in a step at most.
    rows = (len(one), len(two) - reused, len(two))
    steps = [-(-count // 16) + tokens - 1 for count in rows]
    assert prefix["steps"] == {"shared": steps[1], "alone": steps[2], "saved": steps[2] - steps[1]}
    assert [told["run"]["steps"] for told in (report, shared, alone)] == steps
    # In the second run too, figures cover the steps that gave a token; the first has the end of the prompt.
    cycles = [((count - 1) % 16 + tokens) * 2000 for count in rows]
    assert [told["cycles"] for told in (report, shared, alone)] == cycles
    assert report["logits_compared"] == 3 * tokens * 300
    assert prefix["logits_equal"] == tokens * 300
    assert prefix["cycles"]["saved"] > 0 and prefix["cycles_to_first_token"]["saved"] > 0
    out = capsys.readouterr().out
    common = reused + (second in first)
    assert f"common prefix: {common} tokens" in out
    assert f"first prompt: {first!r}" in out
    assert f"second prompt, {reused} tokens shared: {second!r}" in out
    assert f"second prompt alone: {second!r}" in out
    assert "cycles to the first token" in out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--prompt", "abc", "--prompt2", "xyz"], "none, only the bos token is the same"),
        (["--prompt-ids", "5 6", "--prompt2-ids", "6 5"], "none, not even the first token is the same"),
        (
            ["--prompt-ids", "5 6", "--prompt2-ids", "5"],
            "one token, which is all that PROMPT2 has",
        ),
    ],
)
def test_no_common_prefix(folder, fake, capsys, options, text):
    assert fake("--model", str(folder), *options, "--tokens", "2") == 0
    report = fake.report()
    prefix = report["prefix"]
    assert report["bit_exact"]
    assert (prefix["method"], prefix["reused_tokens"], prefix["blocks_shared"]) == ("nothing", 0, 0)
    assert prefix["steps"]["saved"] == prefix["blocks_allocated"]["saved"] == 0
    assert f"common prefix: {text}; the second prompt runs with nothing shared" in capsys.readouterr().out


def test_a_wrong_answer_is_told(folder, fake, capsys):
    def change(made):
        made.answers[1] = (21, 0)

    options = ["--prompt", TEXT, "--prompt2", TEXT + " carts", "--tokens", "3"]
    assert fake("--model", str(folder), *options, change=change) == 1
    report = fake.report()
    assert not report["bit_exact"]
    text = "phase 1: KV command 0, SEAL of sequence 1 (0, 0): expected OK 2, found NOT_MAPPED 0"
    assert report["errors"] == [text]
    assert text in capsys.readouterr().out


def test_a_fault_of_the_second_prompt(folder, fake):
    """What the second prompt did and what it was spared is told as far as it came."""

    options = ["--prompt", TEXT, "--prompt2", TEXT + " carts", "--tokens", "3"]
    assert fake("--model", str(folder), *options, failing={1: FaultCode.PACKET_CRC.value}) == 1
    report = fake.report()
    assert not report["bit_exact"]
    assert report["errors"][0].startswith("the accelerator reports the fault PACKET_CRC (0x24)")
    assert report["second"]["cycles"] is None
    assert report["alone"]["generated_tokens"] == 3
    prefix = report["prefix"]
    assert prefix["steps"] == {"shared": 0, "alone": 4, "saved": 4}
    assert prefix["cycles_to_first_token"]["shared"] is prefix["cycles_to_first_token"]["saved"] is None


def test_only_a_build_is_told(folder):
    """That a build takes a while is said when it does, not when it was there already."""
    args = run.arguments(["--model", str(folder), "--prompt-ids", "1 2", "--tokens", "1"])
    task = run.prepare_task(args)
    tape = run.compile_tape(run.quantize(task.checkpoint), run.Geometry(16, 64))
    console = Console(file=io.StringIO(), width=110)
    watcher = run.Watcher(run.Display(console), task, None, tape)
    watcher.event({"event": "stage", "stage": "build"})
    watcher.idle()
    watcher.event({"event": "stage", "stage": "run", "cached": True})
    watcher.idle()
    assert console.file.getvalue() == "loading the tape\n"
    watcher.event({"event": "stage", "stage": "build"})
    watcher.building -= 2 * run.BUILD_PATIENCE
    watcher.idle()
    watcher.idle()
    assert console.file.getvalue().count("building the simulation") == 1


def test_the_timeline(folder, fake, tmp_path, capsys):
    assert fake("--model", str(folder), "--prompt", TEXT, "--tokens", "3") == 0
    assert not (tmp_path / "timeline.json").exists()
    assert fake("--model", str(folder), "--prompt", TEXT, "--tokens", "3", "--trace") == 0
    timeline = json.loads((tmp_path / "timeline.json").read_text())
    assert timeline["otherData"]["preset"] == "base"
    tokens = [event["args"]["token"] for event in timeline["traceEvents"] if "token" in event.get("args", {})]
    assert tokens == fake.report()["tokens"]
    assert f"timeline: {tmp_path / 'timeline.json'}" in capsys.readouterr().out.replace("\n", "")


def test_a_llama2c_file(fake, tmp_path):
    model = write_llama2c(tmp_path / "story.bin", SHAPE, random_weights(SHAPE))
    tokenizer = write_llama2c_tokenizer(tmp_path / "words.bin", llama2c_pieces(SHAPE.vocab))
    options = ["--model", str(model), "--tokenizer", str(tokenizer), "--prompt", "hello", "--tokens", "3"]
    assert fake(*options) == 0
    assert fake.report()["bit_exact"]


def test_a_flipped_bit(folder, fake, capsys):
    def change(made):
        places = [i for i, (what, data) in enumerate(made.actions) if what == TRACE and data & 255 == 4]
        what, data = made.actions[places[3]]
        made.actions[places[3]] = what, data ^ 1 << 64

    options = ["--model", str(folder), "--prompt-ids", "1 40", "--tokens", "2"]
    assert fake(*options, change=change) == 1
    report = fake.report()
    assert not report["bit_exact"]
    assert report["errors"][0].startswith(
        "step 0 (request 0, position 1), packet 16 (MATMUL), row 1, element 24: "
    )
    out = capsys.readouterr().out
    assert "not bit exact" in out
    assert "packet 16 (MATMUL), row 1, element 24: expected" in out


def test_a_fault_is_named(folder, fake, capsys):
    def change(made):
        # The registers say what the record says.
        made.actions[:] = []
        made.number = 0
        made.complete(id=0, token=None, status=FaultCode.PACKET_CRC.value, ended=True)
        for name, value in (("FAULT_CODE", 0x24), ("FAULT_PACKET", 5)):
            made.set_register(name, value)

    assert fake("--model", str(folder), "--prompt-ids", "1", "--tokens", "1", change=change) == 1
    first = fake.report()["errors"][0]
    assert first.startswith("the accelerator reports the fault PACKET_CRC (0x24), packet 5, detail 0x0")
    assert "PACKET_CRC" in capsys.readouterr().out


def test_a_simulation_that_breaks_down(folder, fake, capsys, tmp_path):
    def change(made):
        made.actions[:] = [(1, 0), (6, 0)]
        made.job = None
        made.write_to = lambda path: None

    # Without its files the stand-in has no registers.
    assert fake("--model", str(folder), "--prompt-ids", "1", "--tokens", "1", change=change) == 1
    assert "sim: the simulation failed: run of serrano_sim.cocotb.bench_top" in capsys.readouterr().err
    report = fake.report()
    assert not report["bit_exact"]
    assert report["cycles"] is None
    assert "registers: ID is" in report["errors"][0]


def test_tapes_are_kept(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "build_root", lambda: tmp_path)
    checkpoint, made = open_checkpoint(folder), []
    for name in ("base", "base", "tiny"):
        tape = run.compiled_tape(checkpoint, run.preset(name), lambda name=name: made.append(name))
        assert load_model(tape).vocab == 300
    assert made == ["base", "tiny"]
    (folder / "extra.json").write_text("{}")
    run.compiled_tape(checkpoint, run.preset("base"), lambda: made.append("changed"))
    (folder / "extra.json").unlink()
    assert made == ["base", "tiny", "changed"]


DRIVER = """
    import sys
    from pathlib import Path
    from serrano_sim import run
    from serrano_sim.golden.tape import load_model
    from serrano_sim.top.simulate import prepare
    from support.playback import HANG, fake_design, script

    def stuck(job, tape, path):
        made = script(job, load_model(tape), 2000)
        made.actions[600:] = [(HANG, 0)]
        prepared = prepare(job, tape, path)
        made.write_to(prepared)
        return prepared

    run.prepare = stuck
    run.build_root = lambda: Path(sys.argv[1])
    sys.exit(run.main(sys.argv[2:], lambda *_: fake_design(Path(sys.argv[1], "fake"))))
"""


def processes_in(folder: Path) -> list[str]:
    """Processes that have something to do with a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                if str(folder) in command or str(folder) in os.readlink(entry / "cwd"):
                    found.append(command.replace("\0", " "))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_ends_cleanly(folder, tmp_path, number):
    """Ctrl-C says so, with status 130; and whatever ends the process, nothing is left running."""
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER))
    options = ["--model", str(folder), "--prompt-ids", "1 5", "--tokens", "5"]
    process = subprocess.Popen(
        [sys.executable, str(driver), str(tmp_path), *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What runs in the background of a shell may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    runs = tmp_path / "sim" / "runs"
    while not any('"progress"' in file.read_text() for file in runs.glob("*/events.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    assert len(processes_in(runs)) >= 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    while processes_in(runs) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(runs) == []
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert err.endswith("sim: interrupted; the simulation was stopped\n")
        assert list(runs.iterdir()) == []
