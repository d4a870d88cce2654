# SPDX-License-Identifier: Apache-2.0
"""Golden models, behavioural memory and benches for Serrano."""
