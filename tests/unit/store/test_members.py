"""Members' names on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.store.members import MembersStore
from drupelet.wire.codec import dumps
from drupelet.wire.limits import MEMBERS_KEPT_MAX

ANNE, SAM = b"a" * 32, b"s" * 32


def test_what_was_kept_is_there_again_in_its_order(tmp_path: Path) -> None:
    store = MembersStore(tmp_path / "state" / "members")
    assert store.load() == {}
    for members in ({"anne": ANNE}, {"sam@shire": SAM, "anne": ANNE}, {}):
        store.save(members)
        assert list(store.load().items()) == list(members.items())


def test_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    store = MembersStore(tmp_path / "members")
    many = {f"{'n' * 50}{number}": ANNE for number in range(MEMBERS_KEPT_MAX + 1)}
    store.save(many)
    assert list(store.load()) == list(many)[1:]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", dumps({}), dumps([1]), dumps([["anne"]]), dumps([["anne", b"short"]]),
        dumps([[b"anne", ANNE]]), dumps([["an/ne", ANNE]]), dumps([["anne", ANNE, 1]]),
        dumps([["anne", ANNE]])[:-1], dumps([["anne", ANNE]] * (MEMBERS_KEPT_MAX + 1)),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "members"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="members"):
        MembersStore(path).load()
