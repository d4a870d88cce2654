# SPDX-License-Identifier: Apache-2.0
"""Ways of the host driver to simulated hardware."""
