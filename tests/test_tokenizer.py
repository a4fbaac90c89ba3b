"""Ids that decode to the text, one end of text for each document, and the errors of bad tokenizers."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from mixopt.data import TokenizerConfig
from mixopt.errors import DataError
from pipelines import tokenizer
from pipelines.tokenizer import END_OF_TEXT, Encoder

TEXTS = [
    "The cat sat on the mat, 12 times.",
    "ünïcödé ☃ 𝄞",
    "",
    "  spaces\n\n\tand tabs ",
    f"a {END_OF_TEXT} written out",
]
SAMPLE = [f"{a} {b} ran over the {c} and then {a}s {b}ed the {c}s again {i}" for i, (a, b, c) in enumerate(
    (a, b, c) for a in ("cat", "horse", "river") for b in ("quick", "slow", "merry") for c in ("hill", "bridge", "forest")
)]  # fmt: skip


def trained(vocabulary: int = 320) -> Encoder:
    return tokenizer.make(TokenizerConfig("train", vocabulary), SAMPLE)


def given(path: Path, library: Library, end_of_text: str | None = None) -> Encoder:
    library.save(str(path / "given.json"))
    return tokenizer.make(TokenizerConfig("file", file=str(path / "given.json"), end_of_text=end_of_text), [])


def words(*names: str, special: tuple[str, ...] = ()) -> Library:
    library = Library(models.WordLevel({name: i for i, name in enumerate(("[UNK]", *names))}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens([AddedToken(name, special=True) for name in special])
    return library


def test_bytes() -> None:
    encoder = tokenizer.make(TokenizerConfig("bytes"), [])
    assert (encoder.identity.vocabulary, encoder.identity.end_of_text, encoder.identity.file) == (257, 256, "")
    for text, ids in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert ids.dtype == np.dtype("<u2")
        assert ids[-1] == 256
        assert bytes(ids[:-1].tolist()).decode() == text


def test_training_gives_exactly_the_vocabulary_and_the_text_back(tmp_path: Path) -> None:
    encoder = trained(320)
    assert (encoder.identity.vocabulary, encoder.identity.end_of_text) == (320, 319)
    encoder.save(tmp_path)
    library = Library.from_file(str(tmp_path / encoder.identity.file))
    assert library.token_to_id(END_OF_TEXT) == 319
    for text, ids in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert library.decode(ids[:-1].tolist(), skip_special_tokens=False) == text
        assert np.flatnonzero(ids == 319).tolist() == [len(ids) - 1]


def test_training_is_deterministic() -> None:
    assert trained().identity == trained().identity
    assert trained().identity.fingerprint != trained(319).identity.fingerprint


def test_too_little_text_for_the_vocabulary() -> None:
    with pytest.raises(DataError, match=r"material for 2\d\d tokens only \(vocabulary is 4,000\).*smaller vocabulary"):
        tokenizer.make(TokenizerConfig("train", 4000), ["a b c"])


def test_an_error_in_the_sample_comes_through() -> None:
    def sample():
        yield "some text"
        raise DataError("the file is damaged")

    with pytest.raises(DataError, match="the file is damaged"):
        tokenizer.make(TokenizerConfig("train", 300), sample())


def test_long_documents_are_encoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = trained()
    texts = [" ".join(SAMPLE), "x" * 1000, "short", "", "tail " * 40]
    whole = encoder.encode(texts)
    monkeypatch.setattr(tokenizer, "PIECE", 100)
    assert [ids.tolist() for ids in encoder.encode(texts[:1])] == [whole[0].tolist()]
    assert [len(ids) for ids in encoder.encode(texts)][2:] == [len(ids) for ids in whole][2:]


SPLITTING = [
    *TEXTS,
    "it's we've I'll don't 'tis ''s 'S x'd'm",
    "a  b   c\td \t e\n\n  f\r\n g\x0b\x0ch  \n",
    " \u00a0\u2003x\u3000 \u2028y\x85z \x1c1\x1fa",
    "12³ ⅷ½ ٣٤ 1,000.5 x2 2x _a_ -- ...!? «α» e\u0301",
    "nul \0 inside  \0\0 and 's",
    "long" * 40 + " " * 70 + "!" * 50,
    " ",
    "👩\u200d👩 😀😀 漢字 かな ไทย العربية",
]


def alone(encoder: Encoder, folder: Path, text: str) -> list[int]:
    """What the bare library makes of a text."""
    encoder.save(folder)
    library = Library.from_file(str(folder / encoder.identity.file))
    library.encode_special_tokens = True
    return library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("bound", ["KNOWN_WORDS", "KNOWN_LENGTH", "PIECES"])
def test_words_are_encoded_as_the_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(tokenizer, bound, 3)
    encoder = trained(340)
    wanted = [alone(encoder, tmp_path, text) for text in SPLITTING]
    for _ in range(2):  # the second time with words that are known
        assert [ids[:-1].tolist() for ids in encoder.encode(SPLITTING)] == wanted
    for text, ids in zip(SPLITTING, wanted, strict=True):
        assert encoder.encode([text])[0][:-1].tolist() == ids
    assert encoder.encode([]) == []


@drawn(st.lists(st.text(st.sampled_from("aZ 1'sré²\n\t\u00a0.…\0\u3000ll🙂"), max_size=30), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_text_is_encoded_as_the_library_does(texts: list[str]) -> None:
    encoder, library = small_encoder()
    found = [ids[:-1].tolist() for ids in encoder.encode(texts)]
    assert found == [library.encode(text, add_special_tokens=False).ids for text in texts]


@cache
def small_encoder() -> tuple[Encoder, Library]:
    body = tokenizer.train([*SAMPLE, *SPLITTING], 400, END_OF_TEXT)
    return tokenizer.Subwords("train", body, END_OF_TEXT), Library.from_str(body)


def test_words_are_those_of_the_library() -> None:
    """Where letters, numbers, spaces and others begin and end in Unicode, but for what is left to the library."""
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    points = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    kinds = [unicodedata.category(point) for point in points]
    changes = [i for i in range(1, len(points)) if kinds[i] != kinds[i - 1]]
    edges = [points[j] for i in changes for j in (i - 1, i) if kinds[j] != "Cn"]
    sure = [point for point, alike in zip(edges, tokenizer._split_alike(edges), strict=True) if alike]
    assert len(sure) > 3000
    text = "".join(f"a{c}1{c}. {c}a {c}  {c}{c}" for c in sure)
    wanted = [text[first:last] for _, (first, last) in library.pre_tokenize_str(text)]
    assert [word for word in tokenizer._words([text])[0].as_py() if word] == wanted


def test_characters_that_are_too_new_are_left_to_the_library() -> None:
    encoder, library = small_encoder()
    texts = ["the cat", "\U0003fffe\u0378 's", "x", "a\0b"]
    assert tokenizer._split_alike(texts) == [True, False, True, False]
    for text, ids in zip(texts, encoder.encode(texts), strict=True):
        assert ids[:-1].tolist() == library.encode(text, add_special_tokens=False).ids


def test_other_ways_of_splitting_are_left_to_the_library(tmp_path: Path) -> None:
    text = "the cat  sat\non the hill's <x> CAT 12"
    changes = (
        lambda library: setattr(library, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda library: setattr(library, "pre_tokenizer", pre_tokenizers.ByteLevel(False, use_regex=False)),
        lambda library: setattr(library, "normalizer", normalizers.Lowercase()),
        lambda library: library.add_tokens(["<x>", "t  s"]),
    )
    for change in changes:
        library = Library.from_str(tokenizer.train(SAMPLE, 340, "<eos>"))
        change(library)
        encoder = given(tmp_path, library)
        assert encoder.encode([text])[0][:-1].tolist() == library.encode(text, add_special_tokens=False).ids


def test_a_file_with_a_large_vocabulary_is_four_bytes_wide(tmp_path: Path) -> None:
    encoder = given(tmp_path, words(*(f"w{i}" for i in range(70_000)), special=("</s>",)))
    assert encoder.identity.vocabulary == 70_002
    assert encoder.encode(["w69999 w0"])[0].tolist() == [70_000, 1, 70_001]
    assert encoder.encode(["w0"])[0].dtype == np.dtype("<u4")


def test_a_files_truncation_padding_and_template_do_not_apply(tmp_path: Path) -> None:
    library = words("a", "b", special=("<bos>", "<eos>"))
    library.enable_truncation(2)
    library.enable_padding(length=8)
    library.post_processor = processors.TemplateProcessing(
        "<bos> $A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 4)]
    )
    encoder = given(tmp_path, library)
    assert [ids.tolist() for ids in encoder.encode(["a b a b", "a"])] == [[1, 2, 1, 2, 4], [1, 4]]


@pytest.mark.parametrize("special", [True, False])
def test_end_of_text_written_out_is_read_as_text(tmp_path: Path, special: bool) -> None:
    library = Library.from_str(tokenizer.train(SAMPLE, 300, "<other>"))
    library.add_tokens([AddedToken("</s>", special=special)])
    encoder = given(tmp_path, library)
    (ids,) = encoder.encode(["one </s> two</s>"])
    assert np.flatnonzero(ids == encoder.identity.end_of_text).tolist() == [len(ids) - 1]


def test_end_of_text_is_found_or_named(tmp_path: Path) -> None:
    library = words("a", special=("<stop>", "<eos>"))
    assert given(tmp_path, library).identity.end_of_text == 3
    assert given(tmp_path, library, "<stop>").identity.end_of_text == 2
    with pytest.raises(DataError, match=r"given\.json: no end of text .*looked for <nope>\).*end_of_text"):
        given(tmp_path, library, "<nope>")
    with pytest.raises(DataError, match=r"looked for <\|endoftext\|>, <\|end_of_text\|>, </s>"):
        given(tmp_path, words("a"))


def test_a_fingerprint_tells_files_and_ends_apart(tmp_path: Path) -> None:
    both = words("a", special=("<stop>", "<eos>"))
    prints = [
        given(tmp_path, both).identity,
        given(tmp_path, both, "<stop>").identity,
        given(tmp_path, words("<eos>")).identity,
    ]
    assert len({identity.fingerprint for identity in prints}) == 3


@pytest.mark.parametrize("content", [None, b"{", b"\xff", json.dumps({"version": "1.0"}).encode()])
def test_files_that_are_no_tokenizer(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer .*tokenizer\.json: (cannot be read|not a tokenizer\.json)"):
        tokenizer.make(TokenizerConfig("file", file=str(path)), [])
