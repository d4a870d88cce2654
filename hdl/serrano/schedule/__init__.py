# SPDX-License-Identifier: Apache-2.0
"""Control: the model's descriptor, requests, steps and packets."""
