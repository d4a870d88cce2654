# SPDX-License-Identifier: Apache-2.0
"""From Amaranth to one RTLIL module per distinct block, and from there to Verilog."""
