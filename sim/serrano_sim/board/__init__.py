# SPDX-License-Identifier: Apache-2.0
"""A whole board in simulation: its Verilog, an SDRAM at its pins, a serial line to the host's driver."""
