"""core/members.py: a new member is down until a link is entered."""

from __future__ import annotations

from drupelet.core.members import Member, MemberLink, PeerInfo

PEER = PeerInfo(key=b"b" * 32, name="bob", incarnation=1, host="10.0.0.2", port=4370)


def test_a_member_begins_without_links() -> None:
    member = Member(PEER, 3.0)
    assert (member.key, member.name, member.since, member.links) == (PEER.key, "bob", 3.0, [])
    assert member.declared is None


def test_a_link_is_due_for_gossip_at_once() -> None:
    link = MemberLink(7, PEER, True, 3.0)
    assert (link.link_id, link.since, link.gossip_at, link.initiated) == (7, 3.0, 3.0, True)
