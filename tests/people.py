"""The people of the tests: Alice and Bob keep to the rules, Mallory does not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """A name and the 32 bytes that its Ed25519 key is made from; the same in every run."""

    name: str

    @property
    def key_seed(self) -> bytes:
        return hashlib.sha256(f"drupelet test person {self.name}".encode()).digest()


ALICE = Person("alice")
BOB = Person("bob")
MALLORY = Person("mallory")
