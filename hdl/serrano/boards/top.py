# SPDX-License-Identifier: Apache-2.0
"""What a board carries: the accelerator with its memory and its host."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.accelerator import Accelerator
from serrano.boards.bridge import UartBridge
from serrano.boards.description import SdramPart
from serrano.boards.sdram import SdramController, SdramPins, SdramTiming
from serrano.boards.share import AXIShare
from serrano.config import AcceleratorConfig
from serrano.trace import ActivityWord, TraceKind

__all__ = ["LEDS", "BoardTop"]

LEDS = ("heartbeat", "memory", "irq", "busy", "fault", "received", "sent", "line error")
"""What the LEDs show, from the first one on."""

ACCELERATOR, BRIDGE = range(2)
"""Managers of the memory."""

GAP_SECONDS = 0.25
SHOWN_SECONDS = 0.05
BEAT_SECONDS = 0.5


class BoardTop(wiring.Component):
    """Accelerator, SDRAM controller and UART bridge, without anything of a vendor; one clock domain.

    LEDs: 0 blinks once a second while there is a clock; 1 memory has been initialized; 2 the interrupt line;
    3 a step is being executed; 4 a fault has been recorded since the last PING; 5 and 6 bytes come and go; 7
    something on the line was dropped or refused. All but 1, 2 and 4 stay on for at least 50 ms.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator; its port is as wide as the SDRAM.
    sdram : :class:`~serrano.boards.description.SdramPart`
        The memory.
    clock_hz : :class:`int`
        Frequency of the clock.
    baud : :class:`int`
        Of the line.
    cas_latency : :class:`int`
        Of the memory.
    io_latency : :class:`int`
        Cycles that registers in the pads add, from pins out to data in.
    gap_cycles : :class:`int` or ``None``
        Cycles without a byte after which a frame is given up; without it, a quarter of a second.
    shown_cycles : :class:`int` or ``None``
        Cycles for which LEDs stay on at least; without it, 50 ms.

    Members
    -------
    sdram : ``Out(SdramPins(part))``
        Pins of the memory.
    uart_rx : ``In(1)``
        Line from the host.
    uart_tx : ``Out(1)``
        Line to the host.
    leds : ``Out(8)``
        LEDs.

    Raises
    ------
    ValueError
        If port and memory differ in width, or the line is too fast for the clock.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        sdram: SdramPart,
        *,
        clock_hz: int,
        baud: int,
        cas_latency: int = 3,
        io_latency: int = 0,
        gap_cycles: int | None = None,
        shown_cycles: int | None = None,
    ):
        if 8 * config.port_bytes != sdram.data_bits:
            raise ValueError(
                f"The accelerator's port must be as wide as the memory ({sdram.data_bits} bits), "
                f"not {8 * config.port_bytes} bits"
            )
        self.config = config
        self.part = sdram
        self.clock_hz = clock_hz
        self.timing = SdramTiming.of(sdram, clock_hz, cas_latency)
        self.io_latency = io_latency
        divisor = round(clock_hz / baud)
        if abs(clock_hz / divisor / baud - 1) > 0.02 or divisor < 4:
            raise ValueError(f"baud must be a part of the clock, at most a quarter of it, not {baud!r}")
        self.divisor = divisor
        self.baud = baud
        self.gap = round(GAP_SECONDS * clock_hz) if gap_cycles is None else gap_cycles
        self.shown = round(SHOWN_SECONDS * clock_hz) if shown_cycles is None else shown_cycles
        super().__init__(
            {
                "sdram": Out(SdramPins(sdram)),
                "uart_rx": In(1, init=1),
                "uart_tx": Out(1, init=1),
                "leds": Out(8),
            }
        )

    @property
    def port_names(self) -> dict[str, str]:
        """Names of the ports of the Verilog module, by their names here."""
        return {f"sdram__{name}": f"sdram_{name}" for name in SdramPins(self.part).members}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, bits = self.config, self.config.address_bits
        m.submodules.accelerator = accelerator = Accelerator(config)
        m.submodules.controller = controller = SdramController(
            self.part, self.timing, address_bits=bits, io_latency=self.io_latency
        )
        m.submodules.share = share = AXIShare(bits, config.port_bytes)
        reachable = self.part.reachable(bits)
        identity = {"memory_bytes": reachable, "clock_hz": self.clock_hz, "baud": self.baud}
        m.submodules.bridge = bridge = UartBridge(
            bits, config.port_bytes, divisor=self.divisor, identity=identity, gap=self.gap
        )
        wiring.connect(m, accelerator.m_axi_read, share.reads[ACCELERATOR])
        wiring.connect(m, accelerator.m_axi_write, share.writes[ACCELERATOR])
        wiring.connect(m, bridge.read, share.reads[BRIDGE])
        wiring.connect(m, bridge.write, share.writes[BRIDGE])
        wiring.connect(m, share.read, controller.read)
        wiring.connect(m, share.write, controller.write)
        wiring.connect(m, controller.pins, wiring.flipped(self.sdram))
        wiring.connect(m, bridge.registers, accelerator.s_axi)
        stepping, fault = self._watch(m, accelerator, bridge)
        # The memory's controller lies at its pads, which is far.
        halfway, self._ready = Signal(), Signal()
        m.d.sync += [halfway.eq(controller.ready), self._ready.eq(halfway)]
        m.d.comb += [
            bridge.rx.eq(self.uart_rx),
            self.uart_tx.eq(bridge.tx),
            bridge.state.irq.eq(accelerator.irq),
            bridge.state.ready.eq(self._ready),
            bridge.state.stepping.eq(stepping),
            bridge.state.fault.eq(fault),
        ]
        self._build_leds(m, accelerator, controller, bridge, stepping, fault)
        return m

    def _watch(self, m: Module, accelerator: Accelerator, bridge: UartBridge) -> tuple[Signal, Signal]:
        """Whether a step is executed, and whether there was a fault since the last PING."""
        stepping, fault, seen = Signal(), Signal(), Signal()
        activity = data.View(ActivityWord, accelerator.trace_activity)
        m.d.sync += [
            stepping.eq(activity.stepping),
            seen.eq(accelerator.trace_valid & (accelerator.trace.kind == TraceKind.FAULT)),
        ]
        with m.If(seen):
            m.d.sync += fault.eq(1)
        with m.Elif(bridge.pinged):
            m.d.sync += fault.eq(0)
        return stepping, fault

    def _build_leds(
        self,
        m: Module,
        accelerator: Accelerator,
        controller: SdramController,
        bridge: UartBridge,
        stepping: Signal,
        fault: Signal,
    ) -> None:
        beat_cycles = round(BEAT_SECONDS * self.clock_hz)
        beat, heartbeat = Signal(range(beat_cycles)), Signal()
        tick_cycles = max(2, self.shown)
        tick, ticked = Signal(range(tick_cycles)), Signal()
        with m.If(beat == beat_cycles - 1):
            m.d.sync += [beat.eq(0), heartbeat.eq(~heartbeat)]
        with m.Else():
            m.d.sync += beat.eq(beat + 1)
        m.d.sync += [tick.eq(Mux(ticked, 0, tick + 1)), ticked.eq(tick == tick_cycles - 2)]

        def shown(event: Value, name: str) -> Signal:
            """On from an event until the second tick after it."""
            left = Signal(2, name=f"{name}_left")
            with m.If(event):
                m.d.sync += left.eq(2)
            with m.Elif(ticked & (left != 0)):
                m.d.sync += left.eq(left - 1)
            return left.any()

        # LEDs lie where they please: a cycle more to get there.
        lamps = Signal.like(self.leds)
        m.d.sync += self.leds.eq(lamps)
        m.d.sync += lamps.eq(
            Cat(
                heartbeat,
                self._ready,
                accelerator.irq,
                shown(stepping, "busy"),
                fault,
                shown(bridge.received, "received"),
                shown(bridge.sent, "sent"),
                shown(bridge.error, "error"),
            )
        )
