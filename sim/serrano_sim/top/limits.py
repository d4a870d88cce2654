# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits an accelerator, by its configuration."""

from serrano.config import AcceleratorConfig
from serrano_host.driver.limits import LIMITS, misfits

__all__ = ["LIMITS", "limits_of", "misfits"]


def limits_of(config: AcceleratorConfig) -> dict[str, int]:
    """The limits of a configuration, and the geometry that a tape must have."""
    return {name: getattr(config, name) for name in LIMITS} | {"n": config.n, "align": config.tape_align}
