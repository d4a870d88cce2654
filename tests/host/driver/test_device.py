# SPDX-License-Identifier: Apache-2.0
"""The driver on a stand-in for the accelerator: rings, cancelling, faults, and what goes wrong."""

import random

import pytest

from serrano_host.driver import Device, Fault, fault_text
from serrano_host.driver.registers import COUNTERS, FaultCode, Register
from serrano_host.errors import (
    DeviceTimeout,
    DriverError,
    RequestError,
    RingFull,
    SerranoError,
    TapeError,
    TransportError,
)
from serrano_sim.golden.synthetic import random_model, write_tape
from support.fake_device import CANCELLED, FakeDevice, continuation

VOCAB = 7
MODEL = random_model(2, dim=6, ffn=5, layers=1, heads=4, kv_heads=2, head_dim=6, vocab=VOCAB, context=64)
TAPE = write_tape(MODEL, 4, 32)
NEAR_THE_WRAP = 2**32 - 5


def opened(fake=None, **settings):
    device = Device(fake or FakeDevice(), **settings)
    device.load(TAPE)
    return device


def test_limits():
    limits = Device(FakeDevice()).limits
    assert (limits.version, limits.n, limits.port_bytes, limits.load_bytes, limits.lanes) == (
        (1, 0),
        4,
        4,
        8,
        2,
    )
    assert (limits.blocks_max, limits.sequences_max, limits.align) == (64, 4, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identity": 0}, "no accelerator: register ID is 0x00000000, not 0x4f4e5253"),
        ({"version": 0x0002_0001}, "the accelerator's registers have version 2, not 1"),
    ],
)
def test_wrong_accelerators(settings, message):
    with pytest.raises(DriverError, match=message):
        Device(FakeDevice(**settings))


def test_busy_accelerators_are_refused():
    device = opened()
    device.submit([1], 5)
    device.poll(50)
    with pytest.raises(DriverError, match="busy with earlier requests"):
        Device(device.transport)


# Loading


def test_load_from_a_file(tmp_path):
    (tmp_path / "x.tape").write_bytes(TAPE)
    device = Device(FakeDevice())
    assert device.load(tmp_path / "x.tape").vocab == VOCAB
    assert device.transport.read_memory(device.map.tape_address, len(TAPE)) == TAPE


def test_load_refuses():
    device = Device(FakeDevice())
    with pytest.raises(TapeError, match="not a tape"):
        device.load(b"abc" * 100)
    with pytest.raises(TapeError, match="image_bytes"):
        device.load(TAPE + b"x")
    with pytest.raises(DriverError, match="no tape has been loaded"):
        device.submit([1], 1)
    with pytest.raises(DriverError, match="the tape's n is 4, the accelerator's is 8"):
        Device(FakeDevice(n=8)).load(TAPE)
    with pytest.raises(DriverError, match="memory has 16,384 bytes"):
        Device(FakeDevice(memory_bytes=1 << 14)).load(TAPE)


def test_a_tape_that_the_accelerator_refuses(monkeypatch):
    device = Device(FakeDevice())
    monkeypatch.setattr("serrano_host.driver.device.misfits", lambda *_: [])
    device.transport.n = 8
    with pytest.raises(DriverError, match="did not load the tape: DESCRIPTOR_GEOMETRY"):
        device.load(TAPE)
    with pytest.raises(DriverError, match="no tape has been loaded"):
        device.submit([1], 1)


def test_no_answer_to_load():
    with pytest.raises(DeviceTimeout, match=r"no interrupt .* cycles after LOAD; STATUS 0x0"):
        Device(FakeDevice(stuck=True), patience=50_000).load(TAPE)


def test_no_load_while_requests_run():
    device = opened()
    device.submit([1], 5)
    with pytest.raises(DriverError, match="1 requests are running"):
        device.load(TAPE)
    device.wait()
    device.load(TAPE)
    assert list(device.stream(device.submit([1], 5))) == continuation([1], 5, VOCAB)


# Requests


@pytest.mark.parametrize("watches", [True, False])
@pytest.mark.parametrize("start", [0, 1000, NEAR_THE_WRAP])
def test_requests(watches, start):
    """Many requests over small rings, with the counters about to wrap around."""
    rng = random.Random(5)
    device = opened(FakeDevice(watches=watches, start=start), submit_size=4, complete_size=16)
    wanted, handles = [], []
    for _ in range(60):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 30))]
        count, eos = rng.randrange(1, 16), rng.choice([None, rng.randrange(VOCAB)])
        handles.append(device.submit(prompt, count, eos, tenant=3))
        wanted.append(continuation(prompt, count, VOCAB, eos))
    device.wait()
    assert [handle.tokens for handle in handles] == wanted
    assert [handle.number for handle in handles] == [(start + i) % 2**32 for i in range(60)]
    for handle in handles:
        assert handle.ended and handle.error is None and handle.sequence in range(4)
        assert len(handle.cycles) == len(handle.tokens) and handle.ended_at == handle.cycles[-1]
        assert handle.submitted < handle.cycles[0] and handle.cycles == sorted(handle.cycles)
        assert not watches or len(set(handle.cycles)) == len(handle.tokens)
    stats = device.stats()
    assert (stats.submitted, stats.taken, stats.ended, stats.running) == (60, 60, 60, 0)
    assert stats.tokens == sum(map(len, wanted)) == stats.counters["tokens"]
    assert device.transport.most_running > 1


def test_streams_side_by_side():
    device = opened()
    handles = [device.submit([i], 6) for i in range(3)]
    streams = [device.stream(handle) for handle in handles]
    shown = [list(tokens) for tokens in zip(*zip(*streams, strict=True), strict=True)]
    assert shown == [continuation([i], 6, VOCAB) for i in range(3)]
    assert all(next(stream, None) is None for stream in streams)


def test_events_come_in_order():
    device = opened(FakeDevice(sequences=2))
    handles = [device.submit([i, i], 3) for i in range(3)]
    events = list(device.events())
    assert [handles.index(event.handle) for event in events] == [0, 1, 0, 1, 0, 1, 2, 2, 2]
    assert [event.ended for event in events] == [False] * 4 + [True] * 2 + [False] * 2 + [True]
    assert [event.token for event in events if event.handle is handles[2]] == handles[2].tokens
    assert [event.cycle for event in events] == sorted(event.cycle for event in events)
    assert device.running == []


def test_poll_does_not_wait_unless_told():
    device = opened()
    device.submit([1], 2)
    assert device.poll() == []
    assert device.transport.count("wait") == 1  # that for LOAD
    assert device.poll(20) == []
    (event,) = device.poll(500)
    assert event.token is not None and not event.ended


def test_full_submission_ring():
    device = opened(FakeDevice(sequences=1), submit_size=4)
    handles = []
    with pytest.raises(RingFull, match="no room in the submission ring"):
        while True:
            handles.append(device.submit([1], 3, block=False))
    assert len(handles) == 5  # One has been taken.
    handles.append(device.submit([2], 3))
    device.wait()
    assert [handle.tokens for handle in handles] == [continuation([1], 3, VOCAB)] * 5 + [
        continuation([2], 3, VOCAB)
    ]


def test_full_prompt_memory():
    device = opened(FakeDevice(sequences=8), prompts_bytes=256)
    long = [device.submit([1] * 32, 2, block=False) for _ in range(2)]
    with pytest.raises(RingFull, match="no room for the prompt in memory"):
        device.submit([1], 2, block=False)
    assert device.submit([3] * 40, 2).prompt_tokens == 40
    assert all(handle.ended for handle in long)
    with pytest.raises(RequestError, match="a prompt of 65 tokens does not fit 256 bytes"):
        device.submit([1] * 65, 2)


@pytest.mark.parametrize("watches", [True, False])
def test_requests_wait_for_completion_records(watches):
    """The ring has room for one request at a time, and the head is told in time."""
    device = opened(FakeDevice(watches=watches), complete_size=8)
    handles = [device.submit([i], 7) for i in range(5)]
    device.wait()
    assert [handle.tokens for handle in handles] == [continuation([i], 7, VOCAB) for i in range(5)]
    assert device.transport.most_running == 1


@pytest.mark.parametrize(
    ("prompt", "max_new", "settings", "message"),
    [
        ([-1], 1, {}, "token ids must fit unsigned words"),
        ([2**32], 1, {}, "token ids must fit unsigned words"),
        ([1], -1, {}, "max_new must fit an unsigned word, not -1"),
        ([1], 1, {"tenant": 2**32}, "tenant must fit an unsigned word, not 4294967296"),
        ([1], 1, {"eos": -2}, "eos must fit an unsigned word, not -2"),
    ],
)
def test_what_cannot_be_written_down(prompt, max_new, settings, message):
    device = opened()
    with pytest.raises(RequestError, match=message):
        device.submit(prompt, max_new, **settings)
    handle = device.submit([1], 1)
    device.wait([handle])
    assert handle.number == 0 and handle.tokens == continuation([1], 1, VOCAB)


# Faults


@pytest.mark.parametrize("watches", [True, False])
def test_refused_and_failed_requests(watches):
    fake = FakeDevice(watches=watches, failing={3: FaultCode.PACKET_CRC})
    device = opened(fake)
    handles = [device.submit(*request) for request in ([[], 4], [[1], 0], [[1] * 61, 4], [[1], 4], [[2], 4])]
    device.wait()
    assert [handle.status for handle in handles] == [0x40, 0x40, 0x41, 0x24, 0]
    assert handles[0].error == "REQUEST_EMPTY: a prompt is empty, or no tokens are wanted"
    assert [len(handle.tokens) for handle in handles] == [0, 0, 0, 1, 4]
    assert handles[4].tokens == continuation([2], 4, VOCAB)
    with pytest.raises(DriverError, match="request 3: PACKET_CRC: a packet is corrupt"):
        list(device.stream(handles[3]))
    device.poll(1000)
    faults = device.stats().faults
    assert sum(fault.count for fault in faults) == 4
    assert faults[0].code == 0x40 and "REQUEST_EMPTY" in str(faults[0])
    assert not fake.faults and not fake.high


def test_texts_of_faults():
    assert fault_text(0x43) == "REQUEST_SPACE: there are not enough KV blocks"
    assert fault_text(0x49).startswith("REQUEST_CANCELLED")
    assert fault_text(0xEE) == "fault 0xee"
    assert str(Fault(2, 7, 1, 3, 0x1000, 3)).endswith(
        "(packet 7, sequence 1, detail 0x3, address 0x1000), and 2 more"
    )


# Cancelling


@pytest.mark.parametrize("start", [0, NEAR_THE_WRAP])
def test_cancel(start):
    device = opened(FakeDevice(sequences=2, start=start))
    handles = [device.submit([i], 20) for i in range(4)]
    while len(handles[1].tokens) < 3:
        device.poll(1000)
    assert device.cancel(handles[1]) and device.cancel(handles[3])
    device.wait()
    assert [handle.cancelled for handle in handles] == [False, True, False, True]
    assert [handle.status for handle in handles] == [0, CANCELLED, 0, CANCELLED]
    assert len(handles[1].tokens) == 3 and handles[3].tokens == []
    assert handles[0].tokens == continuation([0], 20, VOCAB)
    assert list(device.stream(handles[1])) == handles[1].tokens  # no error
    assert not device.cancel(handles[1]) and not device.cancel(handles[0])


def test_cancel_leaves_an_entry_alone_that_has_been_written_over():
    device = opened(FakeDevice(sequences=2), submit_size=2)
    long = device.submit([1], 30)
    others = [device.submit([i], 1) for i in range(4)]
    device.wait(others)
    later = device.submit([2], 2, block=False)
    assert device.cancel(long)
    device.wait()
    assert long.cancelled and later.tokens == continuation([2], 2, VOCAB)


def test_cancel_where_there_are_no_such_registers():
    device = opened(FakeDevice(cancels=False))
    handle = device.submit([1], 3)
    with pytest.raises(DriverError, match="this accelerator cannot cancel"):
        device.cancel(handle)
    device.wait()
    assert handle.tokens == continuation([1], 3, VOCAB)


# The transport


def test_a_slow_transport_has_few_transfers():
    """Without watching: for each look the tail and one or two blocks of records; no more without news."""
    fake = FakeDevice(watches=False, sequences=4)
    device = opened(fake, poll_cycles=1000)
    handles = [device.submit([i], 10) for i in range(4)]
    fake.calls.clear()
    device.wait()
    # Ten steps of 100 cycles: ten looks at most. Then the interrupt, the records behind it, and the head.
    assert fake.count("wait") <= 2
    assert fake.count("read_memory") <= 3
    assert fake.count("read_register") <= 8
    assert all(handle.tokens == continuation([i], 10, VOCAB) for i, handle in enumerate(handles))
    fake.calls.clear()
    device.submit([1] * 30, 1)
    assert [call[0] for call in fake.calls] == ["write_memory", "write_memory", "write_register"]
    device.wait()
    fake.calls.clear()
    stats = device.stats()
    assert stats.kv_used == 0 and stats.kv_blocks == 64 and set(stats.counters) == set(COUNTERS)
    assert stats.counters["bytes_weights"] == stats.counters["steps"] * (5 << 32)
    assert len(fake.calls) == 4


def test_without_cycles():
    device = opened(FakeDevice(knows_cycles=False))
    handle = device.submit([1], 3)
    device.wait()
    assert handle.cycles == [None] * 3 and handle.submitted is handle.ended_at is None


def test_nothing_happens():
    device = opened(poll_cycles=100, patience=1000)
    handle = device.submit([1], 60)
    next(device.stream(handle))
    device.transport.next_step = None
    device.transport.stuck = True
    with pytest.raises(
        DeviceTimeout, match=r"nothing happened for 1,\d00 cycles, 1 requests are running; STATUS"
    ):
        device.wait()


def test_progress_without_tokens_is_waited_for(monkeypatch):
    """A long prompt gives no token for a long time, but steps."""
    device = opened(FakeDevice(step=5000), poll_cycles=100, patience=1000)
    with pytest.raises(DeviceTimeout):
        list(device.stream(device.submit([1], 3)))
    fake = FakeDevice(step=5000)
    device = opened(fake, poll_cycles=100, patience=1000)
    counters = device._counters

    def working():
        fake.counters["bytes_weights"] += 64
        return counters()

    monkeypatch.setattr(device, "_counters", working)
    assert list(device.stream(device.submit([1], 3))) == continuation([1], 3, VOCAB)


def test_a_dead_line():
    device = opened()
    device.submit([1], 3)
    device.transport.dead = True
    with pytest.raises(TransportError, match="the line is dead") as caught:
        device.wait()
    assert isinstance(caught.value, SerranoError)


def test_a_corrupt_completion_ring():
    device = opened(FakeDevice(watches=False))
    device.submit([1], 2)
    device.transport.records += 1
    with pytest.raises(DriverError, match="completion record 1 has the number 0"):
        device.wait()
    device = opened(FakeDevice(watches=False))
    device.submit([1], 2)
    device.transport.records += 5000
    with pytest.raises(DriverError, match="5,000 completion records at once; was the accelerator reset"):
        device.wait()


def test_a_record_of_nobody():
    device = opened()
    device.submit([1], 2)
    del device._running[0]
    with pytest.raises(DriverError, match="of request 0, not running"):
        device.poll(1000)


def test_settle(monkeypatch):
    device = opened()
    handle = device.submit([1], 3)
    busy = [1, 1, 0]
    value = device.transport._value
    monkeypatch.setattr(
        device.transport, "_value", lambda at: busy.pop(0) if at == Register.STATUS else value(at)
    )
    device.settle()
    assert handle.ended and not busy
    busy += [1] * 2000
    with pytest.raises(DeviceTimeout, match="STATUS stays busy; STATUS 0x1"):
        device.settle()


def test_kv_command():
    device = opened()
    assert device.kv_command(3, sequence=2, tenant=1, argument0=8) == (5, 3 | 2 << 8 | 1 << 24)
    assert device.transport.values[Register.KV_ARGUMENT0] == 8


def test_kv_command_without_an_answer(monkeypatch):
    device = opened()
    monkeypatch.setattr(device.transport, "read_registers", lambda offset, count: [0] * count)
    with pytest.raises(DeviceTimeout, match="no response to KV command 0x3"):
        device.kv_command(3)


def test_it_closes_its_transport():
    with opened() as device:
        pass
    assert device.transport.closed
