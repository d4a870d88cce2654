# SPDX-License-Identifier: Apache-2.0
"""The driver on the accelerator's Verilog: live simulations of preset tiny with a small random model."""

import os
import shutil
import signal

import pytest

from serrano.config import preset
from serrano_host.driver import Device
from serrano_host.driver.registers import FaultCode
from serrano_host.driver.rings import memory_needed
from serrano_host.errors import TransportError
from serrano_host.tape import Descriptor
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.layout import Request
from serrano_sim.top.prefix import golden_tokens
from serrano_sim.transport.simulation import STALL, Settings, SimulationTransport, open_transport

CONFIG = preset("tiny")
MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=40, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
DESCRIPTOR = Descriptor.unpack(TAPE[:256])
REQUESTS = [([1, 2, 3], 5, None), ([7] * 20, 3, None), ([39], 12, None), ([5, 4], 30, 9)]


def expected(prompt, count, eos):
    return golden_tokens(MODEL, CONFIG.n, Request(tuple(prompt), count, eos))


def test_requests():
    """Rings smaller than what goes through them; refused requests between good ones."""
    with Device(open_transport("tiny", DESCRIPTOR, {}), submit_size=2, complete_size=32) as device:
        device.load(TAPE)
        handles = [device.submit(*request) for request in REQUESTS]
        bad = device.submit([40], 1)
        handles.append(device.submit(*REQUESTS[0]))
        assert list(device.stream(handles[2])) == expected(*REQUESTS[2])
        device.wait()
        wanted = [expected(*request) for request in (*REQUESTS, REQUESTS[0])]
        assert [handle.tokens for handle in handles] == wanted
        assert (bad.tokens, bad.status) == ([], FaultCode.REQUEST_TOKEN)
        for handle in handles:
            assert handle.submitted < handle.cycles[0]
            assert handle.cycles == sorted(set(handle.cycles))
        device.settle()
        stats = device.stats()
        assert stats.tokens == stats.counters["tokens"] == sum(map(len, wanted))
        assert (stats.ended, stats.running, stats.kv_used) == (6, 0, 0)
        assert [fault.code for fault in stats.faults] == [FaultCode.REQUEST_TOKEN]
        folder = device.transport.folder
        assert folder.exists()
    assert not folder.exists()


def test_time_stands_still_while_nobody_waits():
    with open_transport("tiny", DESCRIPTOR, {"latency": "5"}) as transport:
        assert transport.read_registers(0, 2)[0] == int.from_bytes(b"SRNO", "little")
        before = transport.cycles()
        transport.write_memory(4096, bytes(1000))
        assert transport.read_memory(4096, 1000) == bytes(1000)
        assert transport.cycles() == before
        assert transport.wait(1000) is False
        assert 1000 <= transport.cycles() - before <= 1002
        with pytest.raises(TransportError, match="are not in a memory of"):
            transport.read_memory(transport.memory_bytes - 1, 2)
        with pytest.raises(TransportError, match="are not in a memory of"):
            transport.write_memory(transport.memory_bytes - 1, b"ab")
    with pytest.raises(TransportError, match="the simulation has been closed"):
        transport.read_register(0)
    transport.close()


def test_an_interrupt_leaves_nothing_behind():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), open_transport("tiny", DESCRIPTOR, {}) as transport:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            while True:
                transport.wait(20_000)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert transport._process.poll() == 0
    assert not transport.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_simulator_dies(number):
    """Whoever waits learns of it, with the process's last words; the files are kept until then."""
    transport = SimulationTransport(CONFIG, memory_needed(DESCRIPTOR, 8), Settings())
    device = Device(transport)
    device.load(TAPE)
    device.submit([1], 5)
    os.killpg(transport._process.pid, number)
    with pytest.raises(TransportError, match=r"the simulation ended: .*status"):
        device.wait()
    with pytest.raises(TransportError, match="the simulation ended"):
        device.stats()
    device.close()
    assert transport._process.poll() is not None
    assert (transport.folder / "process.log").exists()
    shutil.rmtree(transport.folder)


def test_a_bench_that_does_not_start(monkeypatch):
    monkeypatch.setattr("serrano_sim.transport.simulation.SOCKET_FILE", "elsewhere")
    with pytest.raises(TransportError, match=r"the simulation does not start: .*socket.path.*process.log$"):
        SimulationTransport(CONFIG, memory_needed(DESCRIPTOR, 8))


def test_settings():
    assert Settings.of({}) == Settings(latency=60)
    texts = {"latency": "7", "seed": "3", "dram": "ddr3-1600", "waves": "1", "keep": "0"}
    assert Settings.of(texts) == Settings(latency=7, seed=3, dram="ddr3-1600", waves=True)
    assert 0 < STALL < 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"latency": "x"}, "option latency must be an integer, not 'x'"),
        ({"latency": "0"}, "latency must be from 1 to 100000 cycles, not 0"),
        ({"waves": "yes"}, "option waves must be 0 or 1, not 'yes'"),
        ({"dram": "rambus"}, "dram must be one of ddr3-1600, not 'rambus'"),
        ({"speed": "1"}, "the simulation has no option 'speed'; it has latency, seed"),
    ],
)
def test_wrong_settings(texts, message):
    with pytest.raises(TransportError, match=message):
        Settings.of(texts)


def test_unknown_presets():
    with pytest.raises(TransportError, match="huge"):
        open_transport("huge", DESCRIPTOR, {})
