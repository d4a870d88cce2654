# SPDX-License-Identifier: Apache-2.0
"""docs/numerics.md once more, one element at a time in unbounded integers, to compare the arrays with."""

import math


def rhu(x: int, n: int) -> int:
    return (x + (1 << (n - 1))) >> n if n > 0 else x << -n


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def sat32(x: int) -> int:
    return clamp(x, -(2**31), 2**31 - 1)


def mul(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    p = a[0] * b[0]
    m, e = (rhu(p, 16), a[1] + b[1] + 1) if p >= 2**31 else (rhu(p, 15), a[1] + b[1])
    return (2**15, e + 1) if m == 2**16 else (m, e)


def unpack(code: int) -> tuple[int, int]:
    return 2**15 + 32 * (code & 1023), (code >> 10) - 40


def dequantize(acc: int, s: tuple[int, int]) -> int:
    return sat32(rhu(acc * s[0], clamp(-(s[1] + 1), -16, 63)))


def recip(m: int) -> int:
    def entry(i: int) -> int:
        d = 2**15 + 128 * i
        return (2**31 + (d >> 1)) // d

    i, f = (m - 2**15) >> 7, (m - 2**15) & 127
    return entry(256) if i == 256 else entry(i) - rhu((entry(i) - entry(i + 1)) * f, 7)


def rsqrt(w: int) -> int:
    def entry(i: int) -> int:
        return (math.isqrt(2**50 // (2**16 + 512 * i)) + 1) // 2

    i, f = (w - 2**16) >> 9, (w - 2**16) & 511
    return entry(384) if i == 384 else entry(i) - rhu((entry(i) - entry(i + 1)) * f, 9)


def exp2(z: int) -> tuple[int, int]:
    def entry(j: int) -> int:
        return round(2 ** (16 + j / 256))

    j, g = (z & 4095) >> 4, z & 15
    return entry(j) + rhu((entry(j + 1) - entry(j)) * g, 4), z >> 12


def quantize(x: list[int], bits: int = 8) -> tuple[list[int], tuple[int, int]]:
    top = 2 ** (bits - 1) - 1
    peak = max(abs(value) for value in x)
    if peak == 0:
        return [0] * len(x), (2**15, -40)
    p = peak.bit_length() - 1
    n = p - 15
    a = (rhu(peak, n) + 31) & ~31
    c = rhu(top * recip(a), bits - 1)
    codes = [clamp(rhu(rhu(value, n) * c, 24 + 8 - bits), -top, top) for value in x]
    return codes, (a, p - 16) if a < 2**16 else (2**15, p - 15)


def rms_norm(x: list[int], s_eps: tuple[int, int], bits: int = 8) -> tuple[list[int], tuple[int, int]]:
    codes, zero = quantize(x, bits)
    peak = max(abs(value) for value in x)
    if peak == 0:
        return codes, zero
    n = peak.bit_length() - 16
    a = (rhu(peak, n) + 31) & ~31
    t = clamp(s_eps[1] + 17 - 2 * n, -63, 46)
    total = sum(rhu(value, n) ** 2 for value in x) + rhu(s_eps[0], -t)
    k = (total.bit_length() - 1) & ~1
    r = rsqrt(rhu(total, k - 16))
    first = (a, 15) if a < 2**16 else (2**15, 16)
    second = (r, -1 - k // 2) if r < 2**16 else (2**15, -k // 2)
    return codes, mul(first, second)


def h16_encode(y: int) -> int:
    a = abs(y)
    n = max(0, a.bit_length() - 1 - 10) if a else 0
    return n * 1024 + rhu(a, n) + (2**15 if y < 0 else 0)


def h16_decode(code: int) -> int:
    exponent, f = code >> 10 & 31, code & 1023
    a = f if exponent == 0 else (1024 + f) << (exponent - 1)
    return -a if code >> 15 else a


def silu_up(g: int, u: int) -> int:
    m, i = exp2(-rhu(abs(g) * 47274, 19))
    t = rhu(m, min(-i, 63))
    sig = recip(rhu(2**16 + t, 1))
    if g < 0:
        sig = 2**16 - sig
    return sat32(rhu(rhu(g * sig, 16) * u, 16))


def rotate(a: int, b: int, c: int, s: int) -> tuple[int, int]:
    return sat32(rhu(a * c - b * s, 15)), sat32(rhu(a * s + b * c, 15))


def score(acc: int, s_q: tuple[int, int], s_k: tuple[int, int]) -> int:
    factor, e = mul(s_q, s_k)
    return sat32(rhu(acc * factor, clamp(3 - e, -16, 63)))


def attend_state(q, s_q, k, s_k, v, s_v, position: int) -> tuple[int, int, int, list[int]]:
    """(m, X, l, o) of one row: q [head_dim], s_q (m, e); k, v [tokens][head_dim]; s_k, s_v [(m, e)]."""
    state = None
    head_dim = len(q)
    for first in range(0, position + 1, 16):
        tokens = []
        for t in range(first, min(first + 16, position + 1)):
            acc = sum(q[d] * k[t][d] for d in range(head_dim))
            z = score(acc, s_q, s_k[t])
            m, i = exp2(z)
            u = rhu(m * s_v[t][0], 16)
            y = i + s_v[t][1] + 1
            tokens.append((z, m, i, u, y, y + 1 if u >= 2**16 else y, v[t]))
        top = max(-(-token[0] // 4096) for token in tokens)
        exponent = max(token[5] for token in tokens)
        old_l, old_o, fall_m, fall_x = 0, [0] * head_dim, 0, 0
        if state:
            fall_m, fall_x = max(0, top - state[0]), max(0, exponent - state[1])
            top, exponent = max(top, state[0]), max(exponent, state[1])
            old_l, old_o = state[2], state[3]
        total = rhu(old_l, min(fall_m, 63)) + sum(rhu(256 * t[1], min(top - t[2], 63)) for t in tokens)
        p = [min(65535, rhu(t[3], min(exponent - t[4], 63))) for t in tokens]
        o = [
            rhu(old_o[d], min(fall_x, 63)) + sum(w * t[6][d] for w, t in zip(p, tokens, strict=True))
            for d in range(head_dim)
        ]
        state = (top, exponent, total, o)
    return state


def finish(m: int, x: int, total: int, o: list[int], bits: int = 8) -> list[int]:
    pl = total.bit_length() - 1
    g = recip(rhu(total, pl - 15))
    n = clamp(m + pl - x - 1 + bits - 8, -16, 63)
    return [sat32(rhu(value * g, n)) for value in o]


def attend(q, s_q, k, s_k, v, s_v, position: int, bits: int = 8) -> list[int]:
    return finish(*attend_state(q, s_q, k, s_k, v, s_v, position), bits)
