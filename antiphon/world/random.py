"""Randomness that both worlds draw alike: a stream for each purpose and key."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return a new Philox stream, the same wherever the same seed, purpose and key are given."""
    text = "/".join(map(str, (seed, purpose, *key)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
