# SPDX-License-Identifier: Apache-2.0
"""Environment that every test shares, whether started by make, by an editor or by hand."""

import os

# Verilog conversion uses the Yosys that comes with Amaranth, also where another one is on PATH.
os.environ["AMARANTH_USE_YOSYS"] = "builtin"
# Plots are written to files; no test needs a display.
os.environ["MPLBACKEND"] = "Agg"
