"""A corpus as token files: made once, kept in the user's cache, mapped into memory, never changed.

A folder of token files holds ``train.bin`` and ``validation.bin`` (little-endian, 2 bytes a token
where the vocabulary allows, else 4), the ``tokenizer.json`` that made them, and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from antiphon.backend.corpus import KEY, Corpus, document_hash, open_corpus
from antiphon.backend.tokenizer import end_of_text, read_tokenizer, train_tokenizer
from antiphon.errors import JobError, Mistake, RunError

FORMAT = 1  # of the folder; a new number makes every corpus anew
Split = Literal["train", "validation"]
Progress = Callable[[str, int, int], None]  # what is done, how far, of how much

VALIDATION_SHARE = 50  # one document in so many is kept from training
_PIECE_CHARACTERS_MAX = 16_384
_PIECE_CHARACTERS_MIN = 256
_TOKENIZER_CHARACTERS = 32_000_000  # more text hardly changes what is learnt from it
_BATCH_CHARACTERS = 1 << 20  # encoded together
_ABANDONED_SECONDS = 86_400.0  # after which what a killed build left is removed


@dataclass(frozen=True)
class Tokens:
    """The tokens of a corpus. Arrays are mapped from files and cannot be written."""

    folder: Path
    train: NDArray[np.uint16 | np.uint32]
    validation: NDArray[np.uint16 | np.uint32]
    vocabulary: int  # of the model: every token is below
    end: int  # the token after every document
    digest: str  # of all tokens: equal digests, equal training

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.tokenizer_path)

    def sequences(self, split: Split, sequence_length: int) -> int:
        """Return how many sequences there are: the next begins where one's inputs end."""
        return max(0, (len(self._tokens(split)) - 1) // sequence_length)

    def batch(
        self, split: Split, indices: Sequence[int], sequence_length: int
    ) -> NDArray[np.int64]:
        """Return the sequences of those indices, (n, sequence_length + 1), inputs and targets."""
        tokens = self._tokens(split)
        count = self.sequences(split, sequence_length)
        rows = np.empty((len(indices), sequence_length + 1), np.int64)
        for row, index in zip(rows, indices, strict=True):
            assert 0 <= index < count, f"sequence {index} of {count}"
            row[:] = tokens[index * sequence_length : (index + 1) * sequence_length + 1]
        return rows

    def require(self, sequence_length: int, global_batch: int) -> None:
        """Raise JobError unless there is one batch to train on and one sequence to validate on."""
        needed: tuple[tuple[Split, int], ...] = (("train", global_batch), ("validation", 1))
        for split, count in needed:
            found = self.sequences(split, sequence_length)
            if found < count:
                problem = (
                    f"holds {len(self._tokens(split))} tokens for {split}, {found} sequences of"
                    f" {sequence_length}, where at least {count} are needed"
                )
                help_ = "give more text, a smaller global_batch or a shorter sequence_length"
                raise JobError(Mistake(KEY, problem, help_))

    def _tokens(self, split: Split) -> NDArray[np.uint16 | np.uint32]:
        return self.train if split == "train" else self.validation


def prepare_tokens(
    data: str,
    vocabulary: int,
    tokenizer_path: Path | None = None,
    progress: Progress = lambda _text, _done, _total: None,
) -> Tokens:
    """Return the tokens of the corpus ``data``, made now if the cache does not hold them.

    The tokenizer is read from ``tokenizer_path``, or trained. Raises JobError where the corpus or
    the tokenizer is wrong, RunError where the cache cannot be written. Any number of processes may
    ask for one corpus at once, and any may be killed.
    """
    corpus = open_corpus(data)
    folder = cache_folder() / _key(corpus, vocabulary, tokenizer_path)
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder.parent)
            _build(corpus, vocabulary, tokenizer_path, folder, progress)
        except OSError as error:
            problem = f"token files cannot be written to {folder.parent}: {error}"
            raise RunError(problem, "free some space, or set XDG_CACHE_HOME to another folder") from (
                error
            )
    return open_tokens(folder)


def open_tokens(folder: Path) -> Tokens:
    """Map the token files in ``folder``. Raises RunError where they are not whole."""
    manifest_path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(manifest_path.read_text(encoding="utf-8"))
        arrays = {}
        for split, count in manifest["tokens"].items():
            arrays[split] = np.memmap(folder / f"{split}.bin", manifest["dtype"], mode="r")
            if len(arrays[split]) != count:
                raise ValueError(f"{split}.bin holds {len(arrays[split])} of {count} tokens")
        return Tokens(
            folder=folder,
            train=arrays["train"],
            validation=arrays["validation"],
            vocabulary=manifest["vocabulary"],
            end=manifest["end"],
            digest=manifest["digest"],
        )
    except (OSError, ValueError, KeyError) as error:
        problem = f"the token files in {folder} are damaged: {error}"
        raise RunError(problem, "delete the folder: it is made anew") from error


def cache_folder() -> Path:
    """Return where token files are kept, by the XDG rules."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = home if home.is_absolute() else Path.home() / ".cache"
    return base / "antiphon" / "corpora"


def _key(corpus: Corpus, vocabulary: int, tokenizer_path: Path | None) -> str:
    given = None if tokenizer_path is None else hashlib.sha256(tokenizer_path.read_bytes())
    facts = [
        FORMAT,
        corpus.identity(),
        vocabulary,
        tokenizers.__version__,
        given and given.hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _build(
    corpus: Corpus, vocabulary: int, tokenizer_path: Path | None, folder: Path, progress: Progress
) -> None:
    """Make the folder beside its place and move it there whole; if another was first, keep that."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        plan = _scan(corpus, progress)
        tokenizer = _tokenizer(corpus, plan, vocabulary, tokenizer_path, progress)
        tokenizer.save(str(partial / "tokenizer.json"))
        config_path = tokenizer_path and tokenizer_path.with_name("tokenizer_config.json")
        end = end_of_text(tokenizer, config_path)
        dtype = "<u2" if vocabulary <= 1 << 16 else "<u4"
        manifest = _write(corpus, plan, tokenizer, end, dtype, partial, progress)
        manifest |= {"format": FORMAT, "dtype": dtype, "vocabulary": vocabulary, "end": end}
        manifest |= {"corpus": corpus.name, "documents": plan.documents}
        text = json.dumps(manifest, indent=2)
        (partial / "manifest.json").write_text(text, encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@dataclass(frozen=True)
class _Plan:
    """What a first reading of the corpus says of how to split it.

    A document is kept from training, or not, as a whole; where there are too few for that, the text
    is cut into pieces, and each is.
    """

    documents: int
    characters: int
    smallest_hash: int  # of what is kept or not: the one that has it is kept in any case
    by_piece: bool

    @property
    def piece_characters(self) -> int:
        if not self.by_piece:
            return _PIECE_CHARACTERS_MAX
        share = self.characters // VALIDATION_SHARE
        return min(max(share, _PIECE_CHARACTERS_MIN), _PIECE_CHARACTERS_MAX)

    def pieces(self, corpus: Corpus) -> Iterator[tuple[Split, str, bool]]:
        """Yield the split, the text, and whether a document ends there."""
        for document in corpus.documents():
            pieces = cut(document.text, self.piece_characters)
            split = self._split(document.name)
            for number, piece in enumerate(pieces):
                if self.by_piece:
                    split = self._split(_piece_name(document.name, number))
                yield split, piece, number == len(pieces) - 1

    def _split(self, name: str) -> Split:
        drawn = document_hash(name)
        is_kept = drawn % VALIDATION_SHARE == 0 or drawn == self.smallest_hash
        return "validation" if is_kept else "train"


def cut(text: str, characters: int) -> list[str]:
    """Cut ``text`` into pieces of at most ``characters``, after the end of a line where it can."""
    pieces, start = [], 0
    while start < len(text):
        end = start + characters
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        pieces.append(text[start:end])
        start = end
    return pieces


def _piece_name(document: str, number: int) -> str:
    return f"{document}#{number}"


def _scan(corpus: Corpus, progress: Progress) -> _Plan:
    """Read everything once, so that each mistake in it is found before anything else is done."""
    progress("reading text", 0, len(corpus.files))
    documents = characters = 0
    hashes = []
    for document in corpus.documents():
        documents += 1
        characters += len(document.text)
        hashes.append(document_hash(document.name))
    if not documents:
        raise JobError(Mistake(KEY, f"`{corpus.name}` holds no text", "name a folder with some"))
    plan = _Plan(documents, characters, min(hashes), by_piece=documents < VALIDATION_SHARE)
    if plan.by_piece:
        names = (
            _piece_name(document.name, number)
            for document in corpus.documents()
            for number in range(len(cut(document.text, plan.piece_characters)))
        )
        smallest = min(map(document_hash, names))
        plan = _Plan(documents, characters, smallest, by_piece=True)
    progress("reading text", len(corpus.files), len(corpus.files))
    return plan
