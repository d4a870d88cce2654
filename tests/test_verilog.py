# SPDX-License-Identifier: Apache-2.0
"""Emission of Verilog: text, determinism, and the text's behaviour under Verilator."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from serrano.verilog import _without_triggers, emit, emit_verilog, generate, main
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.runner import run
from support.primitives import Bank, Chain

TESTS = Path(__file__).parent


def test_chain_is_two_modules_and_a_wrapper(tmp_path):
    design = generate(Chain(16), "chain")
    assert design.modules == {"chain": 1, "chain_chain": 1, "chain_element": 16}
    assert design.text.count("\nmodule ") == 3
    assert design.text.count("chain_element element_") == 16
    assert design.text.count("serrano_mul #(") == 1
    assert [(port.name, port.direction, port.width) for port in design.ports] == [
        ("clk", "input", 1),
        ("rst", "input", 1),
        ("x", "input", 8),
        ("total", "output", 20),
    ]
    files = design.write(tmp_path)
    assert [file.name for file in files] == ["serrano_mul.v", "chain.v"]
    assert files[1].read_text() == design.text


def test_no_initial_values(tmp_path):
    """Neither in the design nor in its wrappers: no memory of 45,000 lines, no register that needs one."""
    for file in emit(Bank(), "bank", tmp_path):
        text = re.sub(r"//.*", "", file.read_text())
        assert not re.search(r"\binitial\b", text)
        assert not re.search(r"\breg\b[^;]*=", text)


def test_same_bytes_every_time():
    """In another process and with another order of hashes."""
    here = emit_verilog(Bank(), "bank")
    assert here == emit_verilog(Bank(), "bank")
    program = (
        "import sys; from support.primitives import Bank; from serrano.verilog import emit_verilog\n"
        "sys.stdout.write(emit_verilog(Bank(), 'bank'))"
    )
    for seed in ("0", "1"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        there = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout == here


def test_names_of_the_component_and_reset_polarity():
    class Named(wiring.Component):
        i: In(8)
        o: Out(8)
        port_names = {"i": "data_in"}  # noqa: RUF012

        def elaborate(self, platform):
            m = Module()
            m.d.sync += self.o.eq(self.i)
            return m

    design = generate(Named(), "named", clock="aclk", reset="aresetn", reset_active_low=True)
    assert [port.name for port in design.ports] == ["aclk", "aresetn", "data_in", "o"]
    assert "module named(\n  aclk,\n  aresetn,\n  data_in,\n  o\n);" in design.text
    assert "~ aresetn" in design.text


TRIGGER = "\\$auto$verilog_backend.cc:2355:dump_module$1 "


def process(body):
    return (
        f"module m(a, o);\n  reg {TRIGGER} = 0;\n  input a;\n"
        f"  always @* begin\n    if ({TRIGGER}) begin end\n{body}  end\nendmodule\n"
    )


def test_yosys_trigger_is_dropped():
    """The register that starts a process in simulation goes, as a process starts by what it reads."""
    text = _without_triggers(process("    o = 8'h01;\n    if (a) begin\n      o = 8'h02;\n    end\n"))
    assert "verilog_backend" not in text
    assert " = 0;" not in text
    assert "if (a) begin" in text


def test_yosys_trigger_of_a_process_of_constants_stays():
    text = _without_triggers(process("    o = 8'h01;\n") * 2)
    assert "verilog_backend" not in text
    assert text.count("reg \\$start  = 0;") == 2
    assert text.count("if (\\$start ) begin end") == 2


def test_words_of_verilog_as_names():
    """Inside they are escaped, outside they get an underscore."""

    class Inner(wiring.Component):
        begin: In(8)
        end: Out(8)

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.end.eq(self.begin + 1)
            return m

    text = emit_verilog(Inner(), "words")
    assert "module words(\n  clk,\n  rst,\n  begin_,\n  end_\n);" in text
    assert "module words_inner(\n  \\begin ,\n  \\end \n);" in text


def test_memories_must_be_wrapped():
    class Bare(wiring.Component):
        i: In(8)
        o: Out(8)

        def elaborate(self, platform):
            m = Module()
            m.submodules.words = words = memory.Memory(shape=8, depth=4, init=[])
            port, read = words.write_port(), words.read_port()
            m.d.comb += [port.data.eq(self.i), port.en.eq(1), self.o.eq(read.data)]
            return m

    message = r"^Every memory of 'bare' must be an OnChipMemory, but 1 write ports are not$"
    with pytest.raises(ValueError, match=message):
        generate(Bare(), "bare")


def test_verilog_behaves_like_the_models(tmp_path):
    design = generate(Bank(), "bank")
    bench = axi_testbench(design.name, design.ports)
    files = [*design.write(tmp_path), *bench.write(tmp_path)]
    results = run(
        files,
        bench.top,
        TESTS / "primitives" / "bench_primitives.py",
        name="bank",
        sources=bench.cpp_sources,
        random_reset=True,
    )
    assert len(results.tests) == 2


def test_unknown_preset(tmp_path):
    with pytest.raises(SystemExit, match=r"^verilog: preset must be one of .*, not 'huge'$"):
        main(["huge", "-o", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    """The accelerator as other tools expect it: AXI's names, a reset that is active low."""
    assert main(["tiny", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "serrano_top.v").read_text()
    header = re.search(r"^module serrano_top\(\n(.*?)\n\);", text, re.MULTILINE | re.DOTALL)
    ports = [name.strip(" ,") for name in header[1].split("\n")]
    assert ports[:2] == ["aclk", "aresetn"]
    assert {"m_axi_arvalid", "m_axi_awvalid", "s_axi_arvalid", "s_axi_awvalid", "irq"} <= set(ports)
    assert "~ aresetn" in text
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["serrano_mem_1r1w.v", "serrano_mul.v", "serrano_top.v"]
    *files, summary = capsys.readouterr().out.splitlines()
    assert sorted(Path(file).name for file in files) == written
    assert re.fullmatch(r"\d+ blocks in \d+ modules", summary)


class HalfConstant(wiring.Component):
    """Drives half of a signal with a constant, in a process."""

    a: In(1)
    o: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o[:4].eq(9)
        with m.If(self.a):
            m.d.comb += self.o[4:].eq(5)
        return m


def test_constant_bits_of_a_process_are_carried_out() -> None:
    text = emit_verilog(HalfConstant(), "half")
    assert text.count("reg \\$start  = 0;") == 1
    assert re.search(r"always @\* begin\n *if \(\\\$start \) begin end\n *o\[3:0\] = 4'h9;\n", text)
