# SPDX-License-Identifier: Apache-2.0
"""What lies between the pins of a board and its top: clock, reset, registers in the pads."""

from importlib import import_module
from typing import Any

from amaranth import *
from amaranth.hdl import Instance
from amaranth.lib import io, wiring
from amaranth.lib.cdc import FFSynchronizer

from serrano.config import PRESETS

from .description import Board
from .ecp5 import ECP5Blocks
from .pll import Clocking, clock_generator
from .sdram import SdramPins
from .top import BoardTop

__all__ = ["IO_LATENCY", "SDRAM_LEAD_NS", "Shell", "platform_of"]

IO_LATENCY = 2
"""Registers in the pads: one on the way to the SDRAM, one on the way back."""

WIRED = ("clk_en", "cs")
"""Pins of the SDRAM that a board may wire to their level, so that its platform has none."""

OUTPUTS = (*WIRED, "ras", "cas", "we", "ba", "a", "dqm")
"""Pins of the SDRAM that the controller drives, its data apart; the clock is the PLL's."""

SDRAM_LEAD_NS = 2.0
"""By so much the SDRAM's clock goes before ours, so that its data are there when we take them."""


class Shell(wiring.Component):
    """A board's top on the board's pins.

    One clock from the PLL, and the same clock, earlier by :data:`SDRAM_LEAD_NS`, for the SDRAM. Ours begins
    when the PLL has locked; there is no reset, as the bitstream says what each flip-flop begins with. All
    pins of the SDRAM but its clock have their registers in the pads.

    Parameters
    ----------
    board : :class:`~serrano.boards.description.Board`
        The board.
    clock_hz : :class:`int` or ``None``
        Another clock than the board's.

    Members
    -------
    ``-``
        Pins are asked of the platform.
    """

    def __init__(self, board: Board, *, clock_hz: int | None = None):
        self.board = board
        self.clock_hz = board.clock_hz if clock_hz is None else clock_hz
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        m.submodules.top = top = BoardTop(
            PRESETS[board.preset],
            board.sdram,
            clock_hz=self.clock_hz,
            baud=board.baud,
            cas_latency=board.cas_latency,
            io_latency=IO_LATENCY,
        )
        memory_clock = self._build_clock(m, platform)
        self._build_memory(m, platform, top, memory_clock)
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.submodules.line = FFSynchronizer(rx.i, top.uart_rx, init=1)
        m.d.comb += tx.o.eq(top.uart_tx)
        for index in range(len(top.leds)):
            try:
                led = platform.request("led", index, dir="-")
            except Exception as error:
                if type(error).__name__ != "ResourceError":
                    raise
                break
            m.submodules[f"led_{index}"] = buffer = io.Buffer("o", led)
            m.d.comb += buffer.o.eq(top.leds[index])
        return m

    def _build_clock(self, m: Module, platform: Any) -> Signal:
        """The domain ``sync``; returns the clock of the SDRAM."""
        pin = platform.request(platform.default_clk, 0, dir="-")
        clocking = Clocking.of(platform.default_clk_frequency, self.clock_hz)
        m.submodules.clock_pin = clock_pin = io.Buffer("i", pin)
        m.domains.pll = free = ClockDomain("pll", reset_less=True)
        m.domains.sync = gated = ClockDomain("sync", reset_less=True)
        memory_clock, locked, enable = Signal(), Signal(), Signal()
        m.submodules.pll = clock_generator(
            clocking, clock_pin.i, free.clk, memory_clock, locked, lag_ns=-SDRAM_LEAD_NS
        )
        # The clock is constrained by that of the pin: place and route knows what the PLL makes of it.
        m.submodules.locked = FFSynchronizer(locked, enable, o_domain="pll", stages=3)
        m.submodules.gate = Instance("DCCA", i_CLKI=free.clk, i_CE=enable, o_CLKO=gated.clk)
        return memory_clock

    def _build_memory(self, m: Module, platform: Any, top: BoardTop, memory_clock: Signal) -> None:
        pins, ours = platform.request("sdram", 0, dir="-"), top.sdram
        m.submodules.sdram_clock = clock = io.Buffer("o", pins.clk)
        m.d.comb += clock.o.eq(memory_clock)
        for name in OUTPUTS:
            if hasattr(pins, name):
                m.submodules[f"sdram_{name}"] = buffer = io.FFBuffer("o", getattr(pins, name))
                m.d.comb += buffer.o.eq(getattr(ours, name))
        m.submodules.sdram_dq = dq = io.FFBuffer("io", pins.dq)
        m.d.comb += [dq.o.eq(ours.dq_o), dq.oe.eq(ours.dq_oe), ours.dq_i.eq(dq.i)]


def platform_of(board: Board) -> Any:
    """The board's platform, with the ECP5's multipliers and block RAMs behind our wrappers.

    Raises
    ------
    ValueError
        If the platform cannot be imported, is not an ECP5's, or lacks pins that the board needs.
    """
    module, _, name = board.platform.partition(":")
    try:
        described = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the platform {board.platform!r} of board {board.name} is missing: {error}"
        ) from error
    device = str(getattr(described, "device", None))
    if not device.startswith("LFE5"):
        raise ValueError(
            f"the platform {board.platform!r} of board {board.name} is for {device}; "
            "clocks and multipliers here are those of an ECP5 (LFE5...)"
        )
    platform = type(name, (ECP5Blocks, described), {"cells_per_block": board.cells_per_block})()
    _check_pins(board, platform)
    return platform


def _check_pins(board: Board, platform: Any) -> None:
    """Of the address, a platform may have more bits than the part; of the rest, as many."""
    ports = SdramPins(board.sdram).members
    widths = {name: ports[name].shape for name in OUTPUTS}
    wanted = {"sdram": {"clk": 1, "dq": board.sdram.data_bits, **widths}, "uart": {"rx": 1, "tx": 1}}
    for resource, pins in wanted.items():
        found = platform.resources.get((resource, 0))
        there = {part.name: len(part.ios[0].names) for part in found.ios} if found else {}
        for name, width in pins.items():
            count = there.get(name, 0)
            if (count == width) or (name == "a" and count > width) or (name in WIRED and not count):
                continue
            raise ValueError(
                f"board {board.name} takes {width} of {resource}.{name}, "
                f"and its platform {board.platform!r} has {count}"
            )
