"""MOON-14: the same scenarios on real Erlang and on ours give the same, or a listed difference.

A case of one node runs in a runtime of its own (`drupelet.process.run`). Cases of several nodes are
in test_nodes.py, the list of differences in test_document.py.
"""

from __future__ import annotations

import pytest

from tests.oracle.cases import SEVERAL_NODES
from tests.oracle.conftest import TEST_S, Outcomes
from tests.oracle.normal import CASES, SAME, Case, run_case

pytestmark = [pytest.mark.erlang, pytest.mark.timeout(TEST_S)]

LOCAL = [
    case for name, group in CASES.items() if name not in SEVERAL_NODES for case in group.values()
]


@pytest.mark.parametrize("case", LOCAL, ids=lambda case: case.name)
def test_case(case: Case, otp: Outcomes) -> None:
    assert case.name in otp, f"erlang/*.erl has no case {case.name}"
    erlangs, ours = otp[case.name], run_case(case.body)
    if case.ours is SAME:
        assert ours == erlangs
    else:
        assert (erlangs, ours) == (case.otp, case.ours)


def test_every_case_of_erlang_has_its_twin(otp: Outcomes) -> None:
    assert sorted(set(otp) - {case.name for case in LOCAL}) == []
