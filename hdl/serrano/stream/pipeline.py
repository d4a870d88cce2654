# SPDX-License-Identifier: Apache-2.0
"""Control of a data path of several stages between two streams."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PipelineControl", "delayed"]


class PipelineControl(wiring.Component):
    """Valid bits of a pipeline whose stages all advance together.

    A stage's data registers load in each cycle with ``advance``; they have no reset, as only these valid bits
    say what they hold. The pipeline stands still while its last stage holds a payload that is not taken, so
    it gives one payload per cycle without stalls, and a payload that enters leaves ``latency`` cycles later.

    With ``registered``, ``advance`` is ``o_ready`` itself, whatever the last stage holds. That is for an
    ``o_ready`` that comes from a register, as that of a :class:`~serrano.stream.StreamRegister`, and reaches
    all the stages without logic on its way. It must not wait for ``o_valid``: the pipeline stands still
    without it even if it holds nothing. Gaps between payloads do not close up then; the rate is the same.

    Parameters
    ----------
    latency : :class:`int`
        Number of stages, at least 1.
    registered : :class:`bool`
        Advance exactly when the output is ready.

    Members
    -------
    i_valid : ``In(1)``
        A payload is at the input.
    i_ready : ``Out(1)``
        The pipeline takes it: the same as ``advance``.
    o_valid : ``Out(1)``
        The last stage holds a payload.
    o_ready : ``In(1)``
        It is taken.
    advance : ``Out(1)``
        Every stage loads what the stage before it holds.
    stages : ``Out(latency)``
        Bit ``k`` is set if stage ``k`` holds a payload; the last bit is ``o_valid``.

    Raises
    ------
    ValueError
        If ``latency`` is below 1.
    """

    def __init__(self, latency: int, *, registered: bool = False):
        if latency < 1:
            raise ValueError(f"Latency must be at least 1, not {latency!r}")
        self.latency = latency
        self.registered = registered
        super().__init__(
            {
                "i_valid": In(1),
                "i_ready": Out(1),
                "o_valid": Out(1),
                "o_ready": In(1),
                "advance": Out(1),
                "stages": Out(latency),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += [
            self.o_valid.eq(self.stages[-1]),
            self.advance.eq(self.o_ready if self.registered else ~self.o_valid | self.o_ready),
            self.i_ready.eq(self.advance),
        ]
        with m.If(self.advance):
            m.d.sync += self.stages.eq(Cat(self.i_valid, self.stages))
        return m


def delayed(m: Module, value: Any, cycles: int, *, enable: Any, name: str = "delayed") -> Any:
    """``value`` as it was ``cycles`` enabled cycles ago, through registers without reset.

    Views stay views of the same layout.
    """
    shape = value.shape()
    for cycle in range(cycles):
        register = Signal(shape, name=f"{name}_{cycle + 1}", reset_less=True)
        with m.If(enable):
            m.d.sync += register.eq(value)
        value = register
    return value
