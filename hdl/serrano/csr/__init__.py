# SPDX-License-Identifier: Apache-2.0
"""Control and status registers: one table, and the hardware made from it."""

from .registers import ControlRegisters
from .table import COUNTERS, REGISTERS, Access, Register, register

__all__ = ["COUNTERS", "REGISTERS", "Access", "ControlRegisters", "Register", "register"]
