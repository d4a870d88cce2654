# SPDX-License-Identifier: Apache-2.0
"""The folder that goes to synthesis: Verilog with all that stands beside it, checked. docs/integration.md."""
