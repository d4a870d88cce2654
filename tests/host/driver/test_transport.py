# SPDX-License-Identifier: Apache-2.0
"""What a transport has by itself."""

from serrano_host.driver.transport import Transport, words


class Least(Transport):
    """No more than a transport must have."""

    memory_bytes = 0

    def __init__(self):
        self.registers = {4 * i: 10 + i for i in range(4)}

    def read_register(self, offset):
        return self.registers[offset]

    def write_register(self, offset, value):
        self.registers[offset] = value


def test_defaults():
    transport = Least()
    assert transport.read_registers(4, 3) == [11, 12, 13]
    transport.write_registers(0, [5, 6])
    assert transport.registers == {0: 5, 4: 6, 8: 12, 12: 13}
    assert transport.watch(0, 64) is False
    assert transport.cycles() is None
    assert transport.close() is None


def test_words():
    assert words([1, 0xFFFFFFFE]) == b"\1\0\0\0\xfe\xff\xff\xff"
