# SPDX-License-Identifier: Apache-2.0
"""Prompts that arrive while others are served."""

import pytest

from serrano_host.driver import Device
from serrano_host.driver.registers import FaultCode
from serrano_host.errors import DriverError
from serrano_host.serving.prompts import Wanted
from serrano_host.serving.session import serve
from serrano_sim.golden.synthetic import random_model, write_tape
from support.fake_device import FakeDevice, continuation

VOCAB = 7
MODEL = random_model(2, dim=6, ffn=5, layers=1, heads=4, kv_heads=2, head_dim=6, vocab=VOCAB, context=64)
TAPE = write_tape(MODEL, 4, 32)


class Log:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, all_served, start):
        self.told.append(("begin", len(all_served)))

    def submitted(self, served):
        self.told.append(("submitted", served.index))

    def event(self, served, event, piece):
        self.told.append(("event", served.index, event.token, piece))

    def idle(self, cycle):
        pass


def opened(**settings):
    sizes = {name: settings.pop(name) for name in ("submit_size", "prompts_bytes") if name in settings}
    device = Device(FakeDevice(**settings), **sizes)
    device.load(TAPE)
    return device


def test_all_at_once():
    device, log = opened(), Log()
    prompts = [Wanted((i, 3), None, 5, tenant=i) for i in range(7)]
    served = serve(device, prompts, log)
    assert [one.tokens for one in served] == [continuation([i, 3], 5, VOCAB) for i in range(7)]
    assert [one.handle.tenant for one in served] == list(range(7))
    assert all(one.ended and one.error is None for one in served)
    assert served[2].text == "".join(f"{token} " for token in served[2].tokens)
    assert log.told[:8] == [("begin", 7), *(("submitted", i) for i in range(7))]
    assert sum(what[0] == "event" for what in log.told) == 35


def test_arrivals():
    device, log = opened(sequences=2), Log()
    prompts = [Wanted((1,), None, 3, arrival=at) for at in (5000, 0, 900_000, 5000)]
    served = serve(device, prompts, log, poll_cycles=1000)
    assert [what[1] for what in log.told if what[0] == "submitted"] == [1, 0, 3, 2]
    start = served[1].arrival
    for one in served:
        assert one.arrival == start + one.wanted.arrival
        # The doorbell follows within the cycles that a few accesses to registers take.
        assert one.arrival <= one.handle.submitted <= one.arrival + 30
        assert one.tokens == continuation([1], 3, VOCAB)


def test_more_than_the_ring_has_room_for():
    device = opened(submit_size=2, prompts_bytes=256)
    prompts = [Wanted((i % VOCAB,) * (1 + i % 40), None, 4) for i in range(30)]
    served = serve(device, prompts, Log())
    assert [one.tokens for one in served] == [continuation(w.prompt_ids, 4, VOCAB) for w in prompts]


def test_requests_that_fail_do_not_stop_others():
    device, log = opened(failing={2: FaultCode.WATCHDOG}, prompts_bytes=128), Log()
    prompts = [Wanted(ids, None, 3) for ids in ((), (1,), (2,), (1,) * 33, (4,), (2**40,))]
    served = serve(device, prompts, log)
    assert [one.error and one.error.split(":")[0] for one in served] == [
        "REQUEST_EMPTY",
        None,
        "WATCHDOG",
        "a prompt of 33 tokens does not fit 128 bytes for prompts",
        None,
        "token ids must fit unsigned words of 32 bits",
    ]
    assert all(one.ended for one in served)
    assert [len(one.tokens) for one in served] == [0, 3, 1, 0, 3, 0]


def test_without_cycles():
    prompts = [Wanted((1,), None, 3), Wanted((1,), None, 3, arrival=5)]
    assert serve(opened(knows_cycles=False), prompts[:1], Log())[0].arrival is None
    with pytest.raises(DriverError, match="this transport does not know cycles"):
        serve(opened(knows_cycles=False), prompts, Log())


class Bytes:
    """Each token is a byte of UTF-8."""

    vocab = 300

    def decode_stream(self, prompt=()):
        from serrano_host.checkpoints import TextStream

        return TextStream(lambda ids: bytes(ids).decode(errors="replace"), prompt)


def test_text_is_joined_over_tokens():
    device = opened()
    (served,) = serve(device, [Wanted((1, 2), "\1\2", 4)], Log(), Bytes())
    assert served.text == bytes(served.tokens).decode()
