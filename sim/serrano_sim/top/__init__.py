# SPDX-License-Identifier: Apache-2.0
"""The whole accelerator under Verilator: jobs laid out in memory, run, compared with the golden model."""
