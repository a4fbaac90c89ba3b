"""Text to token ids: bytes, a byte-level BPE trained on the corpus, or a given tokenizer.json.

The only home of `tokenizers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixopt.data import TokenizerConfig
from mixopt.domains import Tokenizer
from mixopt.errors import DataError

TokenArray = NDArray[np.unsignedinteger[Any]]
END_OF_TEXT = "<|endoftext|>"
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<｜end▁of▁sentence｜>")
PIECE = 1 << 18  # characters: longer documents are encoded in pieces, so that memory stays bounded
FILE = "tokenizer.json"


class Encoder(Protocol):
    """Turns documents into token ids."""

    @property
    def identity(self) -> Tokenizer:
        """What the manifest says about this tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each document, end of text last."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file, if it has one, next to the manifest."""


class Bytes:
    """The 256 bytes of UTF-8 and end of text."""

    identity = Tokenizer("bytes", 257, 256, "bytes")

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The bytes of each document, end of text last."""
        return [np.append(np.frombuffer(text.encode(), np.uint8).astype("<u2"), np.uint16(256)) for text in texts]

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
        self._dtype = "<u2" if vocabulary <= 1 << 16 else "<u4"
        if known[end] in self._library.encode(f"a{end}b", add_special_tokens=False).ids:
            raise DataError(
                f"a document in which {end!r} is written out would end there. "
                "Name another token as end_of_text (it must be a special token of the file)."
            )

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each document, end of text last."""
        pieces = [list(_pieces(text)) for text in texts]
        encoded = iter(self._library.encode_batch_fast([*chain(*pieces)], add_special_tokens=False))
        end = self.identity.end_of_text
        return [np.array([*chain(*(next(encoded).ids for _ in own)), end], dtype=self._dtype) for own in pieces]

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
