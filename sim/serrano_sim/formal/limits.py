# SPDX-License-Identifier: Apache-2.0
"""How long commands may take in the size of the proofs."""

__all__ = ["LIMITS"]

LIMITS = {
    "OPEN": 4,
    "ALLOC": 12,
    "APPEND-0": 7,
    "APPEND-1": 22,
    "APPEND-2": 31,
    "APPEND-3": 13,
    "COMMIT": 11,
    "ABORT": 4,
    "SEAL": 6,
    "SHARE": 7,
    "FORK": 17,
    "TRIM": 12,
    "SLIDE": 12,
    "FREE": 12,
    "TRANSLATE": 4,
    "GATHER-0": 6,
    "GATHER-1": 13,
    "GATHER-2": 20,
    "GATHER-3": 27,
    "EVICT": 6,
    "SCRUB": 11,
    "RESET_POOL": 12,
    "STAT": 5,
    "UNKNOWN": 4,
}
"""Cycles from the one in which a command is taken to the first one in which the controller is idle again.

A number behind a command is that of table entries with a token of it: cases of their own, for the solver's
sake. (Three entries with one to be replaced do not occur in this size, as there are three blocks.)
"""
