# SPDX-License-Identifier: Apache-2.0
"""The clock generator of the ECP5."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.hdl import Instance

__all__ = ["Clocking", "clock_generator"]

VCO_HZ = (400e6, 800e6)
"""Range of the oscillator."""

DETECTOR_HZ = (3.125e6, 400e6)
"""Range of the phase detector."""


@dataclass(frozen=True)
class Clocking:
    """Dividers of an ``EHXPLLL`` that is fed back from its first output.

    ``reference`` and ``feedback`` divide the input and the output at the phase detector, ``output`` the
    oscillator; so the output is ``input * feedback / reference``.
    """

    input_hz: float
    reference: int
    feedback: int
    output: int

    @property
    def output_hz(self) -> float:
        """Frequency of the outputs."""
        return self.input_hz * self.feedback / self.reference

    @property
    def vco_hz(self) -> float:
        """Frequency of the oscillator."""
        return self.output_hz * self.output

    def phase(self, lag_ns: float) -> tuple[int, int]:
        """Whole periods of the oscillator, and eighths, by which an output lags so many nanoseconds.

        A negative lag is a lead, and the lag that makes up for the rest of a period.
        """
        eighths = round(lag_ns * 1e-9 * self.vco_hz * 8) % (8 * self.output)
        return eighths // 8, eighths % 8

    @classmethod
    def of(cls, input_hz: float, output_hz: float) -> "Clocking":
        """The dividers for a frequency, with the oscillator as near to 600 MHz as can be.

        Raises
        ------
        ValueError
            If there are none that give it exactly; the message names the nearest frequency.
        """
        found, nearest = [], None
        for reference in range(1, 9):
            if not DETECTOR_HZ[0] <= input_hz / reference <= DETECTOR_HZ[1]:
                continue
            for feedback in range(1, 81):
                for output in range(1, 129):
                    clocking = cls(input_hz, reference, feedback, output)
                    if not VCO_HZ[0] <= clocking.vco_hz <= VCO_HZ[1]:
                        continue
                    if abs(clocking.output_hz - output_hz) < 1:
                        found.append(clocking)
                    elif nearest is None or abs(clocking.output_hz - output_hz) < abs(nearest - output_hz):
                        nearest = clocking.output_hz
        if not found:
            hint = f"; the nearest is {nearest / 1e6:.3f} MHz" if nearest else ""
            raise ValueError(f"no PLL gives {output_hz / 1e6:.3f} MHz from {input_hz / 1e6:.3f} MHz{hint}")
        return min(found, key=lambda clocking: (clocking.reference, abs(clocking.vco_hz - 600e6)))


def clock_generator(
    clocking: Clocking, clock_in: Value, clock: Value, shifted: Value, locked: Value, *, lag_ns: float
) -> Any:
    """An ``EHXPLLL``: ``clock``, and ``shifted``, which lags ``lag_ns`` nanoseconds."""
    coarse, fine = clocking.phase(lag_ns)
    return Instance(
        "EHXPLLL",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_OUTDIVIDER_MUXA="DIVA",
        p_OUTDIVIDER_MUXB="DIVB",
        p_CLKI_DIV=clocking.reference,
        p_CLKFB_DIV=clocking.feedback,
        p_FEEDBK_PATH="CLKOP",
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=clocking.output,
        p_CLKOP_CPHASE=clocking.output - 1,
        p_CLKOP_FPHASE=0,
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=clocking.output,
        p_CLKOS_CPHASE=clocking.output - 1 + coarse,
        p_CLKOS_FPHASE=fine,
        a_FREQUENCY_PIN_CLKI=f"{clocking.input_hz / 1e6:.6f}",
        a_FREQUENCY_PIN_CLKOP=f"{clocking.output_hz / 1e6:.6f}",
        a_FREQUENCY_PIN_CLKOS=f"{clocking.output_hz / 1e6:.6f}",
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        i_RST=Const(0, 1),
        i_STDBY=Const(0, 1),
        i_CLKI=clock_in,
        i_CLKFB=clock,
        i_PHASESEL0=Const(0, 1),
        i_PHASESEL1=Const(0, 1),
        i_PHASEDIR=Const(1, 1),
        i_PHASESTEP=Const(1, 1),
        i_PHASELOADREG=Const(1, 1),
        i_PLLWAKESYNC=Const(0, 1),
        i_ENCLKOP=Const(0, 1),
        o_CLKOP=clock,
        o_CLKOS=shifted,
        o_LOCK=locked,
    )
