# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools

import numpy as np
import pytest

from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.fixed import checksum
from serrano_sim.golden.sample import greedy
from serrano_sim.golden.scale import Scale
from serrano_sim.golden.silu import h16_decode
from serrano_sim.golden.synthetic import quantize_model, random_floats, random_model, write_tape
from serrano_sim.golden.tape import NO_LAYER, Opcode, load_model, read_tape

MODEL = random_model(1)
TOKENS = np.random.default_rng(26).integers(0, MODEL.vocab, 50)


@pytest.fixture(scope="module")
def logits():
    return Decoder(MODEL).step(TOKENS)


def pieces(decoder, sizes, sequence=0):
    edges = np.cumsum([0, *sizes])
    return np.concatenate([decoder.step(TOKENS[a:b], sequence) for a, b in itertools.pairwise(edges)])


def test_row_by_row_equals_all_at_once(logits):
    assert np.array_equal(pieces(Decoder(MODEL), [1] * 50), logits)


@pytest.mark.parametrize("sizes", [[15, 1, 1, 33], [16, 34], [7] * 7 + [1], [49, 1]])
def test_chunks_change_nothing(logits, sizes):
    assert np.array_equal(pieces(Decoder(MODEL), sizes), logits)


@pytest.mark.parametrize("n", [4, 8, 32])
def test_geometry_changes_nothing(logits, n):
    assert np.array_equal(pieces(Decoder(MODEL, n=n), [20, 30]), logits)
    assert np.array_equal(Decoder(load_model(write_tape(MODEL, n, 64)), n=n).step(TOKENS), logits)


def test_block_table_changes_nothing(logits):
    decoder = Decoder(MODEL, kv_blocks=9)
    decoder.open(0, [7, 2, 8, 1])
    assert np.array_equal(pieces(decoder, [18, 3, 29]), logits)
    assert decoder.kv.table(0) == [7, 2, 8, 1]
    ordered = Decoder(MODEL, kv_blocks=9)
    ordered.step(TOKENS)
    assert ordered.kv.table(0) == [1, 2, 3, 4]
    assert np.array_equal(decoder.kv.image[[7, 2, 8, 1]], ordered.kv.image[[1, 2, 3, 4]])
    assert np.array_equal(decoder.kv.written()[[7, 2, 8, 1]], ordered.kv.written()[[1, 2, 3, 4]])


def test_old_contents_of_kv_memory_change_nothing(logits):
    decoder = Decoder(MODEL)
    decoder.kv.image[:] = np.random.default_rng(27).integers(0, 256, decoder.kv.image.shape)
    assert np.array_equal(pieces(decoder, [5, 1, 44]), logits)


def test_batch_changes_nothing(logits):
    decoder = Decoder(MODEL, kv_blocks=20)
    decoder.open(3)
    decoder.open(9, [11])
    other = TOKENS[::-1]
    first = decoder.step_batch([(9, other[:7]), (3, TOKENS[:20])])
    second = decoder.step_batch([(3, TOKENS[20:21]), (9, other[7:40])])
    third = decoder.step_batch([(3, TOKENS[21:])])
    assert np.array_equal(np.concatenate([first[7:], second[:1], third]), logits)
    assert np.array_equal(np.concatenate([first[:7], second[1:]]), Decoder(MODEL).step(other[:40]))


def test_prompt_without_head(logits):
    decoder = Decoder(MODEL)
    assert decoder.step(TOKENS[:49], sample=False).shape == (0, MODEL.vocab)
    assert np.array_equal(decoder.step(TOKENS[49:]), logits[49:])


def test_sequence_starts_again(logits):
    decoder = Decoder(MODEL, kv_blocks=6)
    decoder.step(TOKENS[::-1])
    decoder.close()
    assert np.array_equal(decoder.step(TOKENS), logits)


def test_generate():
    prompt = TOKENS[:5].tolist()
    text = list(prompt)
    for _ in range(12):
        text.append(int(greedy(Decoder(MODEL).step(text)[-1])))
    decoder = Decoder(MODEL)
    assert decoder.generate(prompt, 12) == text[5:]
    # The last token was made, not yet taken in.
    assert decoder.kv.length(0) == 5 + 12 - 1


def test_generate_ends_behind_eos():
    tokens = Decoder(MODEL).generate([3, 4], 10)
    eos = tokens[4]
    model = quantize_model(random_floats(1), eos=eos)
    assert Decoder(model).generate([3, 4], 10) == tokens[: tokens.index(eos) + 1]
    # In the prompt it means nothing.
    assert len(Decoder(model).generate([3, eos], 1)) == 1
    with pytest.raises(ValueError, match=r"^A prompt needs at least one token$"):
        Decoder(MODEL).generate([], 3)


def test_trace():
    seen = []
    decoder = Decoder(MODEL, trace=lambda *event: seen.append(event))
    logits = decoder.step(TOKENS[:6])
    packets = read_tape(write_tape(MODEL, 16, 32)).packets
    assert [(p, o, layer) for p, o, layer, _ in seen] == [
        (packet.index, packet.opcode, packet.layer) for packet in packets[:-1]
    ]
    shapes = {Opcode.EMBED: 64, Opcode.NORM: 64, Opcode.QKV: 16 * 8, Opcode.ATTEND: 64, Opcode.GATE_UP: 172}
    for _, opcode, layer, result in seen:
        if opcode == Opcode.MATMUL:
            assert result.shape == (6, 97 if layer == NO_LAYER else 64)
        elif opcode == Opcode.SAMPLE:
            assert np.array_equal(result, greedy(logits))
        else:
            assert result.shape == (6, shapes[opcode])
            if opcode != Opcode.EMBED:
                assert np.abs(result).max() == 127
    assert np.array_equal(seen[-2][3], logits)
    assert 0 <= checksum(logits) < 1 << 32
    seen.clear()
    decoder.step([3], sample=False)
    assert seen[-1][0] == 14


def test_details():
    seen = {}
    decoder = Decoder(MODEL, detail=lambda packet, name, array: seen.setdefault((packet, name), array))
    decoder.step(TOKENS[:6])
    assert seen[2, "linear"].shape == (6, 128)
    assert seen[2, "scale_m"].shape == seen[2, "scale_e"].shape == (6, 16)
    assert seen[1, "scale_m"].shape == (6,)
    assert h16_decode(seen[6, "staged"]).shape == (6, 172)


def test_keys_lose_their_mean():
    # The same model without means has the same keys, but for the means.
    floats = random_floats(1)
    zero = dataclasses.replace(floats, k_mean=np.zeros_like(floats.k_mean))

    def keys(f):
        seen = {}
        model = quantize_model(f, 16)
        decoder = Decoder(model, detail=lambda p, name, array: seen.setdefault((p, name), array))
        decoder.trace = lambda packet, opcode, layer, result: seen.setdefault((packet, "result"), result)
        decoder.step(TOKENS)
        codes = seen[2, "result"].reshape(50, 16, 8)[:, :4]
        return codes * Scale(seen[2, "scale_m"], seen[2, "scale_e"]).value[:, :4, None] / 32767

    difference = keys(zero) - keys(floats)
    mean = np.floor(floats.k_mean[0] * 256 + 0.5) / 256
    assert np.max(np.abs(difference - mean)) < 1e-3
    assert np.abs(mean).max() > 0.5


def test_refuses():
    decoder = Decoder(MODEL, kv_blocks=3)
    with pytest.raises(ValueError, match=r"^Token ids must be in 0 .. 96, not \[97\]$"):
        decoder.step([97])
    with pytest.raises(ValueError, match=r"^A step needs at least one token$"):
        decoder.step([])
    with pytest.raises(ValueError, match=r"^Position 64 is beyond the context of 64 tokens$"):
        Decoder(MODEL).step([1] * 65)
    with pytest.raises(ValueError, match=r"^Sequence 0 needs 3 blocks more, 2 are free$"):
        decoder.step([1] * 33)
    with pytest.raises(ValueError, match=r"^A sequence may occur only once in a step$"):
        decoder.step_batch([(0, [1]), (0, [2])])
    with pytest.raises(ValueError, match=r"^Sequence 5 is not open$"):
        decoder.step_batch([(5, [1])])
    assert decoder.kv.length(0) == 0


@pytest.mark.parametrize(
    "shape",
    [
        {"head_dim": 48, "heads": 6, "kv_heads": 6, "dim": 36, "ffn": 50},
        {"head_dim": 64, "heads": 8, "kv_heads": 1, "dim": 40, "vocab": 31},
        {"head_dim": 128, "heads": 4, "kv_heads": 1, "dim": 64, "ffn": 77},
        {"head_dim": 4, "heads": 4, "kv_heads": 2, "dim": 17, "ffn": 9},
    ],
    ids=lambda shape: str(shape["head_dim"]),
)
def test_shapes(shape):
    model = random_model(5, layers=1, **shape)
    tokens = np.random.default_rng(28).integers(0, model.vocab, 21)
    decoder = Decoder(model, n=8)
    rows = np.concatenate([decoder.step([t]) for t in tokens])
    assert np.array_equal(rows, Decoder(model).step(tokens))
    assert rows.shape == (21, model.vocab)


def reference(f, tokens):
    """The same Llama model in floats."""

    def norm(x, gain):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + f.eps) * gain

    def rotate(x):
        frequency = f.theta ** (-2.0 * np.arange(f.head_dim // 2) / f.head_dim)
        turn = np.exp(1j * np.arange(len(tokens))[:, None] * frequency)[:, None]
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), axis=-1).reshape(x.shape)

    def heads(x, w):
        return (x @ w.T).reshape(len(x), -1, f.head_dim)

    x = f.embedding[tokens]
    hidden = np.tril(np.ones((len(tokens), len(tokens)))) == 0
    for layer in f.layers:
        h = norm(x, layer.attention_norm)
        q, k, v = rotate(heads(h, layer.q)), rotate(heads(h, layer.k)), heads(h, layer.v)
        k, v = (np.repeat(t, f.heads // f.kv_heads, axis=1) for t in (k, v))
        s = np.einsum("rhd,thd->hrt", q, k) / np.sqrt(f.head_dim)
        s[:, hidden] = -np.inf
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hrt,thd->rhd", p, v).reshape(len(x), -1) @ layer.o.T
        h = norm(x, layer.ffn_norm)
        gate = h @ layer.gate.T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer.up.T)) @ layer.down.T
    return norm(x, f.norm) @ f.head.T


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.08), (16, 1e-3)])
def test_against_floats(bits, bound):
    f = random_floats(9, dim=96, ffn=200, layers=3, heads=6, kv_heads=3, head_dim=16, vocab=211, context=128)
    tokens = np.random.default_rng(29).integers(0, 211, 128)
    exact = reference(f, tokens)
    got = Decoder(quantize_model(f, bits)).step(tokens) / 65536
    error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert error < bound
