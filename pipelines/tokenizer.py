"""Text to token ids: bytes, a byte-level BPE trained on the corpus, or a given tokenizer.json.

The library spends most of its time on finding words, and encodes a frequent word again and again. Where words are those
of GPT-2's pattern, Arrow finds them, each different one is encoded once by the library, and its ids are put where the
word is: the same ids in less than half the time. None of it holds the interpreter's lock for long, so that threads help.

The only home of `tokenizers` and of `pyarrow`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixopt.data import TokenizerConfig
from mixopt.domains import Tokenizer
from mixopt.errors import DataError

TokenArray = NDArray[np.unsignedinteger[Any]]
Counts = NDArray[np.int64]
END_OF_TEXT = "<|endoftext|>"
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<｜end▁of▁sentence｜>")
PIECE = 1 << 18  # characters: longer documents are encoded in pieces, so that memory stays bounded
PIECES = 1 << 21  # characters: pieces encoded at once
KNOWN_WORDS, KNOWN_LENGTH = 1 << 18, 32  # words whose ids are kept, and the characters of the longest
FILE = "tokenizer.json"

# GPT-2's pattern in the syntax of RE2, which knows no lookahead: a mark is set before the last of several spaces that
# ends before a word, then one after each word. Source: openai/gpt-2, src/encoder.py.
SPACE = r"\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
LAST_SPACE = f"([{SPACE}])([{SPACE}][^{SPACE}])"
WORD = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\pL+| ?\pN+| ?[^\x00{SPACE}\pL\pN]+|[{SPACE}]+"
MARK = "\0"
UNSURE = r"[^\pL\pM\pN\pP\pS\pZ\p{Cc}\p{Cf}\p{Co}]|\x00"  # characters younger than this RE2's Unicode, and marks


class Encoder(Protocol):
    """Turns documents into token ids."""

    @property
    def identity(self) -> Tokenizer:
        """What the manifest says about this tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each document, end of text last."""

    def text_bytes(self) -> Counts:
        """How many bytes of text each id stands for; end of text for none."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file, if it has one, next to the manifest."""


class Bytes:
    """The 256 bytes of UTF-8 and end of text."""

    identity = Tokenizer("bytes", 257, 256, "bytes")

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The bytes of each document, end of text last."""
        return [np.append(np.frombuffer(text.encode(), np.uint8).astype("<u2"), np.uint16(256)) for text in texts]

    def text_bytes(self) -> Counts:
        """One byte of text for each id but end of text."""
        return np.append(np.ones(256, np.int64), 0)

    def save(self, folder: Path) -> None:
        """Bytes need no file."""


class Subwords:
    """A tokenizer.json. Special tokens written out in a text are read as text, never as the token."""

    def __init__(self, kind: str, body: str, end_of_text: str | None) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Library

        self._body = body
        self._library = Library.from_str(body)
        self._library.no_truncation()
        self._library.no_padding()
        known = self._library.get_vocab()
        wanted = USUAL_ENDS if end_of_text is None else (end_of_text,)
        end = next((token for token in wanted if token in known), None)
        if end is None:
            raise DataError(
                f"no end of text among its {len(known):,} tokens (looked for {', '.join(wanted)}). "
                "Name the token that ends a document as end_of_text."
            )
        self._library.add_special_tokens([AddedToken(end, special=True)])
        self._library.encode_special_tokens = True
        vocabulary = max(known.values()) + 1
        fingerprint = hashlib.sha256(f"{end}\n{body}".encode()).hexdigest()[:16]
        self.identity = Tokenizer(kind, vocabulary, known[end], fingerprint, FILE)
        self._dtype = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
        self._by_words = _splits_as_gpt2(body)
        self._known: dict[str, bytes] = {}
        if known[end] in self._library.encode(f"a{end}b", add_special_tokens=False).ids:
            raise DataError(
                f"a document in which {end!r} is written out would end there. "
                "Name another token as end_of_text (it must be a special token of the file)."
            )

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each document, end of text last."""
        pieces = [list(_pieces(text)) for text in texts]
        if not pieces:
            return []
        parts = [part for group in _groups(chain(*pieces)) for part in self._ids(group)]
        ends_of_pieces = np.cumsum(np.concatenate([counts for _, counts in parts]))
        ends = ends_of_pieces[np.cumsum([len(own) for own in pieces]) - 1]
        ids = np.insert(np.concatenate([ids for ids, _ in parts]), ends, self.identity.end_of_text)
        return np.split(ids, ends[:-1] + np.arange(1, len(ends)))

    def _ids(self, pieces: Sequence[str]) -> Iterator[tuple[TokenArray, Counts]]:
        """The ids of pieces, and how many are of each, for one stretch of pieces after another."""
        by_words = _split_alike(pieces) if self._by_words else repeat(False)
        for alike, stretch in groupby(zip(by_words, pieces, strict=False), key=itemgetter(0)):
            own = [piece for _, piece in stretch]
            yield self._ids_of_words(own) if alike else self._ids_of_library(own)

    def _ids_of_library(self, pieces: Sequence[str]) -> tuple[TokenArray, Counts]:
        ids = [encoded.ids for encoded in self._library.encode_batch_fast(pieces, add_special_tokens=False)]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain(*ids), self._dtype, counts.sum()), counts

    def _ids_of_words(self, pieces: Sequence[str]) -> tuple[TokenArray, Counts]:
        import pyarrow as pa

        words = _words(pieces)
        numbered = words.flatten().dictionary_encode()
        known = self._known_ids(numbered.dictionary.to_pylist())
        counts_of_words = np.fromiter(map(len, known), np.int64, len(known)) // self._dtype.itemsize
        starts = np.concatenate([[0], np.cumsum(counts_of_words)]).astype(np.int32)
        ids_of_words = pa.ListArray.from_arrays(starts, np.frombuffer(b"".join(known), self._dtype))
        ends = np.cumsum(counts_of_words[numbered.indices])[words.offsets.to_numpy()[1:] - 1]
        return ids_of_words.take(numbered.indices).flatten().to_numpy(), np.diff(ends, prepend=0)

    def _known_ids(self, words: Sequence[str]) -> list[bytes]:
        """The ids of each of these different words, from the library where they are new."""
        known = self._known
        new = [word for word in words if word not in known]
        encoded = self._library.encode_batch_fast(new, add_special_tokens=False)
        fresh = {word: np.array(own.ids, self._dtype).tobytes() for word, own in zip(new, encoded, strict=True)}
        found = [fresh[word] if word in fresh else known[word] for word in words]
        if len(known) > KNOWN_WORDS:
            self._known = known = {}
        known.update((word, ids) for word, ids in fresh.items() if len(word) <= KNOWN_LENGTH)
        return found

    def text_bytes(self) -> Counts:
        """How many bytes of text each id stands for; end of text for none.

        Of byte-level tokens it is the characters of their names, of others the UTF-8 of the text that they are decoded
        to. Raises DataError for decoders that do not say it of single tokens.
        """
        names = self._library.get_vocab(with_added_tokens=False)
        added = {i: token.content for i, token in self._library.get_added_tokens_decoder().items()}
        size_of = _size_of_name(json.loads(self._body))
        sizes = np.zeros(self.identity.vocabulary, np.int64)
        for name, i in names.items():
            sizes[i] = size_of(name)
        for i, content in added.items():
            sizes[i] = len(content.encode())
        sizes[self.identity.end_of_text] = 0
        return sizes

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        (folder / FILE).write_text(self._body, encoding="utf-8")


def make(config: TokenizerConfig, sample: Iterable[str]) -> Encoder:
    """The encoder that a configuration asks for; `sample` is read only where one is trained.

    Raises DataError for a file that is no tokenizer, and where the sample has too few different words to train on.
    """
    if config.kind == "bytes":
        return Bytes()
    if config.kind == "train":
        end = config.end_of_text or END_OF_TEXT
        return Subwords("train", train(sample, config.vocabulary, end), end)
    body = read(config)
    try:
        return Subwords("file", body, config.end_of_text)
    except DataError as e:
        raise DataError(f"tokenizer {config.file}: {e}") from e
    except Exception as e:  # the library raises plain Exceptions
        raise DataError(f"tokenizer {config.file}: not a tokenizer.json ({e}). Give one saved by `tokenizers`.") from e


def vocabulary(config: TokenizerConfig) -> int:
    """The number of token ids, before any text is read. Raises DataError for a file that is no tokenizer."""
    return config.vocabulary if config.kind == "train" else make(config, ()).identity.vocabulary


def read(config: TokenizerConfig) -> str:
    """The content of the configured tokenizer.json; empty for other kinds. Raises DataError if it cannot be read."""
    if config.file is None:
        return ""
    try:
        return Path(config.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"tokenizer {config.file}: cannot be read ({e}). Give the path of a tokenizer.json.") from e


def train(sample: Iterable[str], vocabulary: int, end_of_text: str) -> str:
    """A byte-level BPE of exactly `vocabulary` tokens, the last of which is end of text, as tokenizer.json.

    Source: the pre-tokenizer is that of GPT-2, without its leading space.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - 1, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(sample, trainer)
    library.add_special_tokens([AddedToken(end_of_text, special=True)])
    if library.get_vocab_size() != vocabulary:
        raise DataError(
            f"tokenizer: the text has material for {library.get_vocab_size():,} tokens only "
            f"(vocabulary is {vocabulary:,}). Ask for a smaller vocabulary or add text."
        )
    return str(library.to_str())


def _pieces(text: str) -> Iterator[str]:
    """The text, cut before spaces where it is longer than PIECE."""
    start = 0
    while len(text) - start > PIECE:
        cut = text.rfind(" ", start + 1, start + PIECE)
        cut = start + PIECE if cut < 0 else cut
        yield text[start:cut]
        start = cut
    yield text[start:]


def _groups(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Pieces in lists of about PIECES characters."""
    group, size = [], 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= PIECES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _split_alike(pieces: Sequence[str]) -> list[bool]:
    """Whether `_words` and the library split each piece alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.invert(pc.match_substring_regex(pa.array(pieces), UNSURE)).to_pylist()


def _words(pieces: Sequence[str]) -> Any:
    """The words of pieces without marks, as an Arrow array of lists, and some empty ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    spaced = pc.replace_substring_regex(pa.array(pieces), LAST_SPACE, rf"\1{MARK}\2")
    return pc.split_pattern(pc.replace_substring_regex(spaced, WORD, rf"\0{MARK}"), MARK)


def _size_of_name(body: dict[str, Any]) -> Callable[[str], int]:
    """Bytes of the text that a token of this name stands for."""
    decoder = body.get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return len
    if not kinds & {"Metaspace", "ByteFallback", "Replace"} or "WordPiece" in kinds:
        raise DataError(
            f"its decoder ({', '.join(sorted(map(str, kinds)))}) does not say which text single tokens stand for, by which "
            "bits per byte are counted (known are ByteLevel, Metaspace and ByteFallback). Give the text instead of token files."
        )
    return lambda name: 1 if re.fullmatch(r"<0x[0-9A-F]{2}>", name) else len(name.replace("\u2581", " ").encode())


def _splits_as_gpt2(body: str) -> bool:
    """Whether a tokenizer.json encodes a text word by word, and its words are those of GPT-2's pattern."""
    file = json.loads(body)
    split = file.get("pre_tokenizer") or {}
    return (
        (split.get("type"), split.get("add_prefix_space"), split.get("use_regex", True)) == ("ByteLevel", False, True)
        and file.get("normalizer") is None
        and not file["model"].get("dropout")
        and all(token["special"] for token in file.get("added_tokens", ()))
    )
