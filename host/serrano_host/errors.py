# SPDX-License-Identifier: Apache-2.0
"""Errors that are meant for the user: one line that names the thing and the rule it breaks."""


class SerranoError(Exception):
    """Base of all errors that the command line shows as one line, without a traceback."""


class CheckpointError(SerranoError):
    """A checkpoint or tokenizer is missing, truncated, inconsistent or of a kind that is not supported."""


class CompileError(SerranoError):
    """A model cannot be quantized or laid out for the geometry asked for."""


class TapeError(SerranoError):
    """A tape is truncated, corrupt, or not a tape at all."""


class DriverError(SerranoError):
    """The accelerator does not answer as it should, or cannot do what was asked for."""


class TransportError(DriverError):
    """The way to the accelerator is broken, or cannot be opened."""


class RequestError(DriverError, ValueError):
    """A request that cannot be written into the rings, or a file with one that makes no sense."""


class RingFull(DriverError):
    """There is no room for another request at the moment."""


class DeviceTimeout(DriverError):
    """Nothing happened for too long."""
