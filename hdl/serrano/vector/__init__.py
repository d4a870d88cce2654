# SPDX-License-Identifier: Apache-2.0
"""Results on their way back to the array: scaling, residual, activation, rotation, quantization."""
