# SPDX-License-Identifier: Apache-2.0
"""What handles say about their ends."""

import pytest

from serrano_host.driver.handles import Handle, fault_text
from serrano_host.driver.registers import FaultCode


@pytest.mark.parametrize(
    ("status", "cancelled", "error"),
    [
        (0, False, None),
        (FaultCode.REQUEST_CANCELLED, True, "REQUEST_CANCELLED: the host has cancelled the request"),
        (FaultCode.REQUEST_SPACE, False, "REQUEST_SPACE: there are not enough KV blocks"),
        (0xEE, False, "fault 0xee"),
    ],
)
def test_ends(status, cancelled, error):
    handle = Handle(1, 2, 3, ended=True, status=status)
    assert (handle.cancelled, handle.error) == (cancelled, error)


def test_every_code_has_a_text():
    assert all(fault_text(code).startswith(f"{code.name}: ") for code in FaultCode)
