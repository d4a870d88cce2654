# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: llama2.c's encoding against a plain rendering of its rule, and streams of text."""

import random
import re
import struct

import pytest

from serrano_host.checkpoints import CheckpointError
from serrano_host.checkpoints.llama2c import Llama2cTokenizer
from serrano_host.checkpoints.loading import open_checkpoint
from support.checkpoint_files import (
    Shape,
    llama2c_pieces,
    random_weights,
    write_hugging_face,
    write_llama2c,
    write_llama2c_tokenizer,
)

VOCAB = 300
SMALL = Shape(dim=16, ffn=12, layers=1, heads=4, kv_heads=2, head_dim=4, vocab=VOCAB, context=20)


@pytest.fixture
def stories(tmp_path):
    return Llama2cTokenizer(write_llama2c_tokenizer(tmp_path / "tokenizer.bin", llama2c_pieces(VOCAB)), VOCAB)


def plain_encode(pieces, text):
    """The rule as it stands in llama2.c: look for the best pair anew after each merge."""
    ids_of = {}
    for token, (piece, _) in enumerate(pieces):
        ids_of.setdefault(piece, token)
    ids = [ids_of[b" "]] if text else []
    for character in text:
        raw = character.encode()
        ids += [ids_of[raw]] if raw in ids_of else [value + 3 for value in raw]
    while True:
        best = None
        for i in range(len(ids) - 1):
            joint = ids_of.get(pieces[ids[i]][0] + pieces[ids[i + 1]][0])
            if joint is not None and (best is None or pieces[joint][1] > best[0]):
                best = pieces[joint][1], i, joint
        if best is None:
            return [1, *ids]
        ids[best[1] : best[1] + 2] = [best[2]]


def test_encoding_is_llama2c_s(stories):
    pieces = llama2c_pieces(VOCAB)
    rng = random.Random(5)
    texts = ["", "hello", "hello hello", "llllllll", "é€😀 z"]
    texts += ["".join(rng.choices("helloa é€z", k=rng.randrange(1, 60))) for _ in range(200)]
    for text in texts:
        ids = stories.encode(text)
        assert ids == plain_encode(pieces, text), text
        assert stories.decode(ids) == text
        assert stories.encode(text, bos=False) == ids[1:]


def test_scores_decide_and_the_leftmost_of_equals_wins(tmp_path):
    pieces = [*llama2c_pieces(259), (b"a", 0.0), (b" ", 0.0), (b"aa", 1.0), (b"aaa", 1.0), (b" a", 9.0)]
    tokenizer = Llama2cTokenizer(write_llama2c_tokenizer(tmp_path / "t.bin", pieces), len(pieces))
    for text in ("a", "aa", "aaa", "aaaa", "aaaaaaaaa"):
        assert tokenizer.encode(text) == plain_encode(pieces, text)
    assert [pieces[i][0] for i in tokenizer.encode("aaaa", bos=False)] == [b" a", b"aaa"]


def test_long_texts_are_quick(stories):
    text = "hello la " * 20_000
    assert stories.decode(stories.encode(text)) == text


def test_control_tokens_have_no_text(stories):
    hello = stories.encode("hello", bos=False)
    assert stories.decode([1, *hello, 1, *hello, 2]) == "hellohello"
    assert stories.decode(hello) == " hello"


def test_stream_holds_back_incomplete_characters(stories):
    ids = stories.encode("é€😀!")
    stream = stories.decode_stream(ids[:1])
    assert [stream.push(token) for token in ids[1:]] == ["", "é", "", "", "€", "", "", "", "😀", "!"]
    assert stream.finish() == ""
    broken = stories.decode_stream()
    assert broken.push(0xE2 + 3) == ""
    assert broken.push(ord("!") + 3) == "\ufffd!"
    assert broken.push(0xE2 + 3) == ""
    assert broken.finish() == "\ufffd"


def test_stream_continues_the_prompt(stories, tmp_path):
    other = open_checkpoint(write_hugging_face(tmp_path / "hf", SMALL, random_weights(SMALL))).tokenizer()
    text = "hello la € lané 😀 al"
    for tokenizer in (stories, other):
        ids = tokenizer.encode(text)
        for cut in range(len(ids) + 1):
            stream = tokenizer.decode_stream(ids[:cut])
            shown = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
            assert shown + "".join(map(stream.push, ids[cut:])) + stream.finish() == text


def test_missing_byte_token(tmp_path):
    tokenizer = Llama2cTokenizer(
        write_llama2c_tokenizer(tmp_path / "t.bin", [(b"<unk>", 0.0), (b"<s>", 0.0), (b"a", 0.0)]), 3
    )
    assert tokenizer.encode("aa") == [1, 2, 2]
    with pytest.raises(CheckpointError, match="has no token for the byte 0xC3"):
        tokenizer.encode("é")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (2, "truncated: ends in max_token_length"),
        (4, "ends at the score of token 0; the model's vocab_size is 300"),
        (9, "ends at the length of token 0"),
        (14, "truncated: ends in the bytes of token 0"),
    ],
)
def test_truncated_tokenizer(tmp_path, cut, message):
    path = write_llama2c_tokenizer(tmp_path / "tokenizer.bin", llama2c_pieces(VOCAB))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
        Llama2cTokenizer(path, VOCAB)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<i", 0), "max_token_length is 0"),
        (
            struct.pack("<ifi", 3, 0.0, 4) + b"abcd",
            "length of token 0 must be 0 to max_token_length 3, not 4",
        ),
        (struct.pack("<ifi", 3, 0.0, -1), "length of token 0 must be 0 to max_token_length 3, not -1"),
        (struct.pack("<ifi", 3, float("nan"), 1) + b"a", "score of token 0 is not a number"),
        (struct.pack("<ifi", 3, 0.0, 1) + b"abc", "2 bytes behind token 0, the last by vocab_size 1"),
    ],
)
def test_wrong_tokenizer(tmp_path, content, message):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Llama2cTokenizer(path, 1)


def test_tokenizer_is_found_beside_the_model_or_given(tmp_path):
    folder = write_hugging_face(tmp_path / "hf", SMALL, random_weights(SMALL))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer().encode("he") == [1, checkpoint.tokenizer().encode("he", bos=False)[0]]
    file = write_llama2c(tmp_path / "m.bin", SMALL, random_weights(SMALL))
    with pytest.raises(CheckpointError, match="no tokenizer beside it; give one with --tokenizer"):
        open_checkpoint(file).tokenizer()
    assert open_checkpoint(file, folder).tokenizer().decode([1, 2]) == ""
    assert open_checkpoint(file, folder / "tokenizer.json").tokenizer().decode([0]) == ""
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", llama2c_pieces(VOCAB))
    assert isinstance(open_checkpoint(file).tokenizer(), Llama2cTokenizer)
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", llama2c_pieces(VOCAB - 1))
    unused = open_checkpoint(file)
    with pytest.raises(CheckpointError, match="ends at the score of token 299"):
        unused.tokenizer()
    with pytest.raises(CheckpointError, match="no such tokenizer file"):
        open_checkpoint(file, tmp_path / "nothing.json")


def test_wrong_hugging_face_tokenizer(tmp_path):
    folder = write_hugging_face(tmp_path / "hf", SMALL, random_weights(SMALL))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer\.json"):
        open_checkpoint(folder).tokenizer()
    tiny = Shape(dim=16, ffn=12, layers=1, heads=4, kv_heads=2, head_dim=4, vocab=200, context=20)
    folder = write_hugging_face(tmp_path / "tiny", tiny, random_weights(tiny))
    with pytest.raises(CheckpointError, match="has 259 tokens; the model's vocab_size is 200"):
        open_checkpoint(folder).tokenizer()
