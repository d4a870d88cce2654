# SPDX-License-Identifier: Apache-2.0
"""Steps of models of any size, measured on the Verilog: ``make bench``, docs/performance.md."""
