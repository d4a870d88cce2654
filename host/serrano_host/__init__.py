# SPDX-License-Identifier: Apache-2.0
"""What runs on the host: checkpoints, quantizer, tape compiler, driver and command line."""
