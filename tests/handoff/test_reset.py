# SPDX-License-Identifier: Apache-2.0
"""The reset bench finds a register that controls something and is not reset."""

import shutil
from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream import StreamFIFO
from serrano.verilog import emit, generate
from serrano_sim.handoff import checks
from serrano_sim.handoff.checks import CheckError
from serrano_sim.handoff.reset import reset_bench


class Forgetful(wiring.Component):
    """A stream register whose valid bit nobody resets."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, payload, count = (
            Signal(reset_less=True), Signal(8, reset_less=True), Signal(4)
        )  # fmt: skip
        m.d.comb += [self.i.ready.eq(1), self.o.valid.eq(valid & ~count[0]), self.o.payload.eq(payload)]
        with m.If(self.i.valid):
            m.d.sync += [valid.eq(1), payload.eq(self.i.payload), count.eq(count + 1)]
        return m


def files(component: wiring.Component, folder: Path) -> list[str]:
    class Outer(wiring.Component):
        i: In(stream.Signature(8))
        o: Out(stream.Signature(8))

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.inner = component
            wiring.connect(m, wiring.flipped(self.i), component.i)
            wiring.connect(m, component.o, wiring.flipped(self.o))
            return m

    return [file.name for file in emit(Outer(), "outer", folder)]


def test_what_the_bench_looks_at(tmp_path: Path) -> None:
    bench = reset_bench(generate(Forgetful(), "outer").text)
    assert '"outer_forgetful.i__ready"' in bench and '"outer_forgetful.o__valid"' in bench
    assert 'payload"' not in bench


@pytest.mark.parametrize("good", [True, False])
def test_undefined_valid_is_found(good: bool, tmp_path: Path) -> None:
    listed = files(StreamFIFO(8, 4) if good else Forgetful(), tmp_path)
    if shutil.which("iverilog") is None:
        assert checks._reset(tmp_path, listed) == "not run"
    elif good:
        assert checks._reset(tmp_path, listed) == "pass"
    else:
        with pytest.raises(
            CheckError, match=r"^after reset something is undefined:\n[\s\S]*forgetful\.o__valid is"
        ):
            checks._reset(tmp_path, listed)
