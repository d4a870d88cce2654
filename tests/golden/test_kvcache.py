# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from serrano_sim.golden.kvcache import KVCache, block_bytes, record_bytes, run_offsets

SHAPES = pytest.mark.parametrize(
    ("head_dim", "n"), [(8, 16), (8, 4), (48, 16), (48, 32), (64, 16), (128, 16), (20, 16), (2, 4), (16, 64)]
)


def tokens(rng, kv_heads, count, head_dim):
    """k, s_k, v, s_v."""
    codes = [rng.integers(-128, 128, (kv_heads, count, head_dim)) for _ in range(2)]
    scales = [rng.integers(0, 1 << 16, (kv_heads, count)) for _ in range(2)]
    return codes[0], scales[0], codes[1], scales[1]


def record(k, s_k, v, s_v, n):
    """The record of 16 tokens, byte by byte as docs/tape.md tells it."""
    out = bytearray()
    for scales in (s_k, s_v):
        for value in scales:
            out += int(value).to_bytes(2, "little")
    for codes in (k, v):
        for first in range(0, codes.shape[1], n):
            for token in codes:
                out += bytes(int(c) & 255 for c in token[first : first + n])
    return bytes(out)


@SHAPES
def test_offsets_fill_a_run(head_dim, n):
    assert sorted(run_offsets(head_dim, n).reshape(-1)) == list(range(16 * head_dim))


@SHAPES
def test_image_is_as_the_page_says(head_dim, n):
    rng = np.random.default_rng(head_dim)
    cache = KVCache(layers=2, kv_heads=3, head_dim=head_dim, n=n, blocks=6)
    cache.open(7, [4, 2])
    data = [tokens(rng, 3, 32, head_dim) for _ in range(2)]
    for layer in range(2):
        cache.append(7, layer, *data[layer])
    cache.commit(7, 32)
    size = 16 * (2 * head_dim + 4)
    assert (cache.record_bytes, cache.block_bytes) == (size, -(-6 * size // 64) * 64)
    for index, block in enumerate((4, 2)):
        own = slice(16 * index, 16 * index + 16)
        expected = b"".join(
            record(*(part[head, own] for part in data[layer]), n) for layer in range(2) for head in range(3)
        )
        assert cache.image[block].tobytes() == expected.ljust(cache.block_bytes, b"\0")
    assert not cache.image[[0, 1, 3, 5]].any()


@SHAPES
@pytest.mark.parametrize("code_bytes", [1, 2])
def test_reads_back_what_was_appended_in_pieces(head_dim, n, code_bytes):
    rng = np.random.default_rng(n)
    cache = KVCache(2, 3, head_dim, n, blocks=8, code_bytes=code_bytes)
    cache.open(0)
    every = [tokens(rng, 3, 45, head_dim) for _ in range(2)]
    if code_bytes == 2:
        every = [(255 * k, s_k, -255 * v, s_v) for k, s_k, v, s_v in every]
    first = 0
    for count in (1, 14, 3, 20, 7):
        cache.reserve(0, count)
        for layer in range(2):
            cache.append(0, layer, *(part[:, first : first + count] for part in every[layer]))
            # Before the commit, a reader sees the step's own tokens.
            for got, wanted in zip(cache.read(0, layer, first + count), every[layer], strict=True):
                assert np.array_equal(got, wanted[:, : first + count])
        cache.commit(0, count)
        first += count
    assert cache.length(0) == 45
    for layer in range(2):
        for head in range(3):
            for group in range(3):
                own = slice(16 * group, min(16 * group + 16, 45))
                for got, part in zip(cache.read_group(0, layer, head, group), every[layer], strict=True):
                    assert np.array_equal(got[: own.stop - own.start], part[head, own])


def test_tables_and_free_blocks():
    cache = KVCache(1, 1, 8, blocks=5)
    cache.open(0)
    cache.reserve(0, 16)
    cache.open(1, [3])
    cache.reserve(1, 17)
    assert (cache.table(0), cache.table(1), cache.used) == ([1], [3, 2], 3)
    with pytest.raises(ValueError, match=r"^Sequence 0 needs 2 blocks more, 1 are free$"):
        cache.reserve(0, 33)
    assert cache.table(0) == [1]
    cache.close(1)
    assert not cache.is_open(1)
    cache.reserve(0, 64)
    # Free blocks come back behind the others, a sequence's last block first.
    assert (cache.table(0), cache.used) == ([1, 4, 2, 3], 4)


def test_misuse():
    cache = KVCache(1, 1, 8, blocks=4)
    cache.open(0, [2])
    for table, message in (
        ([2], "Block 2 is not free"),
        ([0], "Block 0 is not free"),
        ([4], "Block 4 is not free"),
        ([1, 1], r"A block table names each block once, not \[1, 1\]"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            cache.open(1, table)
    with pytest.raises(ValueError, match=r"^Sequence 0 is open already$"):
        cache.open(0)
    with pytest.raises(ValueError, match=r"^Sequence 1 is not open$"):
        cache.length(1)
    data = tokens(np.random.default_rng(0), 1, 17, 8)
    with pytest.raises(ValueError, match=r"^Sequence 0 has no block for position 16$"):
        cache.append(0, 0, *data)
    with pytest.raises(ValueError, match=r"^Sequence 0 has no blocks for 17 tokens more$"):
        cache.commit(0, 17)
    with pytest.raises(ValueError, match=r"^Sequence 0 has no block for position 16$"):
        cache.read(0, 0, 17)
    with pytest.raises(OverflowError, match=r"^KV code must fit in 8 bits signed"):
        cache.append(0, 0, data[0][:, :1] * 0 + 128, data[1][:, :1], data[2][:, :1], data[3][:, :1])
    for arguments, message in (
        ({"blocks": 1}, "KV memory needs NULL and at least one more block, not 1"),
        ({"code_bytes": 3}, "A code has 1 or 2 bytes, not 3"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            KVCache(1, 1, 8, **arguments)


def test_written_bytes():
    rng = np.random.default_rng(24)
    cache = KVCache(2, 3, 20, 16, blocks=6)
    cache.open(0, [5, 1])
    cache.open(1, [2])
    for sequence, count in ((0, 19), (1, 4)):
        cache.reserve(sequence, count)
        for layer in range(2):
            k, s_k, v, s_v = tokens(rng, 3, count, 20)
            # No byte is zero, so that every byte that was written shows.
            cache.append(sequence, layer, k | 1, s_k | 0x0101, v | 1, s_v | 0x0101)
    assert not cache.written().any()
    cache.commit(0, 19)
    cache.commit(1, 4)
    assert np.array_equal(cache.written(), cache.image != 0)
    cache.close(1)
    assert cache.written()[[2]].sum() == 0
    assert cache.written().sum() == 19 * 6 * (2 * 20 + 4)


def test_sizes():
    assert (record_bytes(64), record_bytes(8, 2)) == (16 * 132, 16 * 36)
    assert block_bytes(3, 1, 8) == 960
    assert block_bytes(1, 1, 8) == 320


def test_blocks_of_several_sequences():
    """What is shared is read by both; a copy takes the first tokens, and nothing else of any record."""
    rng = np.random.default_rng(25)
    cache = KVCache(2, 3, 20, 16, blocks=8)
    cache.open(0, [5, 1, 3])
    every = [tokens(rng, 3, 40, 20) for _ in range(2)]
    for layer in range(2):
        cache.append(0, layer, *every[layer])
    cache.commit(0, 40)
    before = cache.image[3].copy()
    cache.image[4] = 0xEE
    cache.copy(3, 4, 6)
    assert np.array_equal(cache.image[3], before)
    cache.open(1, [5, 1, 4, 2], 38)
    assert (cache.length(1), cache.used) == (38, 5)
    for layer in range(2):
        for got, wanted in zip(cache.read(1, layer, 38), every[layer], strict=True):
            assert np.array_equal(got, wanted[:, :38])
        # Records of 16 tokens: the copy's others are zeros.
        for got in cache.read_group(1, layer, 1, 2):
            assert not got[6:].any()
    assert cache.image[4].astype(bool).sum() <= 6 * 6 * (2 * 20 + 4)
    mask = cache.written()
    assert [int(mask[block].sum()) // (6 * 44) for block in range(8)] == [0, 16, 0, 8, 6, 16, 0, 0]
    cache.close(0)
    assert cache.used == 4
    cache.close(1)
    assert cache.used == 0
    cache.open(2)
    cache.reserve(2, 7 * 16)
    # Never used ones, then what came back: of the first sequence its own, of the second one all.
    assert cache.table(2) == [6, 7, 3, 2, 4, 1, 5]
    for table, length, message in (
        ([1], 17, "Sequence 3 has no blocks for 17 tokens"),
        ([0], 1, "There is no block 0"),
        ([8], 1, "There is no block 8"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            cache.open(3, table, length)


@SHAPES
def test_moves(head_dim, n):
    """Byte for byte, from the tokens: what a copy and a record keep of a full block."""
    rng = np.random.default_rng(n)
    cache = KVCache(layers=2, kv_heads=2, head_dim=head_dim, n=n, blocks=6)
    cache.open(0, [2])
    data = [tokens(rng, 2, 16, head_dim) for _ in range(2)]
    for layer in range(2):
        cache.append(0, layer, *data[layer])

    def kept(index, low, high):
        layer, head = divmod(index, 2)
        parts = [part[head].copy() for part in data[layer]]
        for part in parts:
            part[:low] = part[high:] = 0
        return record(*parts, n)

    for low, high in ((0, 16), (0, 1), (3, 9), (15, 16), (7, 7), (0, 0)):
        cache.image[3] = 0xAA
        before = cache.image.copy()
        cache.copy(2, 3, high, low)
        expected = b"".join(kept(index, low, high) for index in range(4))
        assert cache.image[3].tobytes() == expected.ljust(cache.block_bytes, b"\0")
        for index in range(4):
            assert cache.record(2, index, low, high).tobytes() == kept(index, low, high)
        cache.scrub(3)
        assert not cache.image[3].any()
        others = [0, 1, 2, 4, 5]
        assert np.array_equal(cache.image[others], before[others])
