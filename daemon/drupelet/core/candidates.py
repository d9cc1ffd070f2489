"""Candidates: addresses at which some node may answer, as discovery offers them.

Decides which hints pass: none of our own instance, none twice in a row, at most
CANDIDATES_PER_WINDOW_MAX in CANDIDATE_WINDOW_S. A candidate is a hint from anybody; nothing in it
is believed before the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One address at which a node may answer.

    `source` is "mdns", "static", "gossip", "mapper" or "registry"; `host` a literal address, with
    ``%scope`` when it is link-local; `port` 1 to 65,535; `name` the node's label, may be empty;
    `key_prefix` the first 16 base32 characters of its key, empty when the source does not know it.
    """

    source: str
    host: str
    port: int
    name: str
    key_prefix: str
