# SPDX-License-Identifier: Apache-2.0
"""Bit-true numpy models of Serrano's arithmetic, after docs/numerics.md and docs/tape.md.

Integers are numpy int64 throughout; where the hardware stores a value in a given width, the model checks that
width and raises OverflowError. Functions are vectorised: leading dimensions are rows, heads, or whatever the
caller has several of.
"""
