# SPDX-License-Identifier: Apache-2.0
"""Behavioural AXI4 memory and trace sink in C++, their SystemVerilog modules and their Python handles."""
