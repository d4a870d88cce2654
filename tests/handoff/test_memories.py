# SPDX-License-Identifier: Apache-2.0
"""The list of memories: every instance once, by its path, with its parameters."""

from serrano.verilog import generate
from serrano_sim.handoff.memories import CONTRACT, MULTIPLIERS, instances_of, memory_list
from support.primitives import Bank

TEXT = """\
module top(
  clk
);
  input clk;
  serrano_mem_1r1w #(
    .ADDR_WIDTH(32'd2),
    .COLLIDES(32'd0),
    .DEPTH(32'd3),
    .LANES(32'd1),
    .TRANSPARENT(32'd1),
    .WIDTH(32'd8)
  ) \\table  (
    .clk(clk)
  );
  top_half left (
    .clk(clk)
  );
  top_half \\right$1  (
    .clk(clk)
  );
endmodule
module top_half(clk);
  serrano_mem_1r1w #(
    .ADDR_WIDTH(32'd4),
    .COLLIDES(32'd1),
    .DEPTH(32'd16),
    .LANES(32'd2),
    .TRANSPARENT(32'd0),
    .WIDTH(32'd10)
  ) words (
    .clk(clk)
  );
endmodule
"""


def test_paths_and_sizes() -> None:
    listed = memory_list(TEXT, "top")
    assert listed["contract"] == CONTRACT
    assert [memory["path"] for memory in listed["memories"]] == [
        "top.\\table ",
        "top.left.words",
        "top.\\right$1 .words",
    ]
    assert listed["memories"][0] == {
        "path": "top.\\table ", "width": 8, "depth": 3, "lanes": 1, "transparent": True,
        "collides": False, "bits": 24
    }  # fmt: skip
    assert (listed["count"], listed["total_bits"]) == (3, 24 + 2 * 160)


def test_multipliers() -> None:
    parameters = "    .A_WIDTH(32'd8),\n    .B_WIDTH(32'd9),\n    .LATENCY(32'd3)\n"
    half = f"module top_half(clk);\n  serrano_mul_held #(\n{parameters}  ) element (\n  );\n"
    plain, held = memory_list(TEXT.replace("module top_half(clk);\n", half), "top")["multipliers"]
    assert (plain["module"], plain["count"], plain["instances"]) == ("serrano_mul", 0, [])
    assert held["contract"] == MULTIPLIERS["serrano_mul_held"]
    assert held["count"] == len(held["instances"]) == 2
    assert held["instances"][1] == {
        "path": "top.\\right$1 .element", "a_width": 8, "b_width": 9, "latency": 3
    }  # fmt: skip


def test_as_many_as_were_emitted() -> None:
    design = generate(Bank(), "bank")
    found = list(instances_of(design.text, "bank", "serrano_mem_1r1w"))
    assert len(found) == design.text.count("serrano_mem_1r1w #(") > 1
    assert all(
        set(parameters) == {"ADDR_WIDTH", "DEPTH", "LANES", "TRANSPARENT", "COLLIDES", "WIDTH"}
        for _, parameters in found
    )
