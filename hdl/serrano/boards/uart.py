# SPDX-License-Identifier: Apache-2.0
"""A serial line: 8 data bits, no parity, 1 stop bit."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]


def _check(divisor: int) -> None:
    if divisor < 4:
        raise ValueError(f"A bit must have at least 4 cycles, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a line. Each bit is sampled once, in its middle.

    A start bit that is gone in its middle is none. A byte without a stop bit is dropped, and so is one that
    comes while the one before has not been taken.

    Parameters
    ----------
    divisor : :class:`int`
        Clock cycles in a bit, at least 4.

    Members
    -------
    rx : ``In(1)``
        The line; asynchronous.
    o : ``Out(stream.Signature(8))``
        Bytes.
    overrun : ``Out(1)``
        A byte is dropped in this cycle, that after its last sample, as nobody took the one before.
    broken : ``Out(1)``
        A byte is dropped in this cycle, that after its last sample, as it has no stop bit.

    Raises
    ------
    ValueError
        If a bit is too short.
    """

    def __init__(self, divisor: int):
        _check(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1), "o": Out(stream.Signature(8)), "overrun": Out(1), "broken": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        line = Signal(4, init=0b1111)
        m.d.sync += line.eq(Cat(self.rx, line))
        rx = line[-1]
        timer = Signal(range(self.divisor))
        bits, count, running = Signal(9, reset_less=True), Signal(range(10)), Signal()
        # The timer is at 0; the sample is the first, or the last one.
        due, first, final = Signal(), Signal(), Signal()
        sample = running & due
        # All bits have come, the last one being `stop`.
        ended, stop = Signal(), Signal()
        m.d.sync += [first.eq(count == 0), final.eq(count == 9), ended.eq(sample & final), stop.eq(rx)]
        m.d.comb += [
            self.broken.eq(ended & ~stop),
            self.overrun.eq(ended & stop & self.o.valid & ~self.o.ready),
        ]
        # What is there before the byte has come does not count.
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.payload.eq(bits[:8]), self.o.valid.eq(ended & stop)]
        with m.If(~running):
            # The first sample is in the middle of the start bit.
            m.d.sync += [timer.eq(self.divisor // 2 - 1), due.eq(0), running.eq(~rx), count.eq(0)]
        with m.Elif(~sample):
            m.d.sync += [timer.eq(timer - 1), due.eq(timer == 1)]
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor - 1),
                due.eq(0),
                bits.eq(Cat(bits[1:], rx)),
                count.eq(count + 1),
            ]
            with m.If((first & rx) | final):
                m.d.sync += running.eq(0)
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line.

    Parameters
    ----------
    divisor : :class:`int`
        Clock cycles in a bit, at least 4.

    Members
    -------
    i : ``In(stream.Signature(8))``
        Bytes.
    tx : ``Out(1)``
        The line.

    Raises
    ------
    ValueError
        If a bit is too short.
    """

    def __init__(self, divisor: int):
        _check(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        bits, count = Signal(9, init=0x1FF), Signal(range(11))
        m.d.comb += self.i.ready.eq(count == 0)
        m.d.sync += self.tx.eq(bits[0])
        with m.If(self.i.ready):
            with m.If(self.i.valid):
                m.d.sync += [
                    bits.eq(Cat(Const(0, 1), self.i.payload)),
                    count.eq(10),
                    timer.eq(self.divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor - 1), bits.eq(Cat(bits[1:], Const(1, 1))), count.eq(count - 1)]
        return m
