"""tests/documents.py reads documents as their readers do."""

from __future__ import annotations

import pytest

from tests import documents
from tests.documents import Command

DOCUMENT = """\
# Title

```console
$ one
first
second
$ two | three
```

<!-- not run: needs a Pi -->
```console
$ four
```

```python
# hello.py
x = 1
```

```sh
five
```
```console
$ drupelet run hello.py
```
"""


def test_commands_with_their_lines_and_output() -> None:
    assert documents.commands(DOCUMENT) == [
        Command(line=4, text="one", output="first\nsecond"),
        Command(line=7, text="two | three", output=""),
        Command(line=24, text="drupelet run hello.py", output=""),
    ]
    assert [command.stays for command in documents.commands(DOCUMENT)] == [False, False, True]


def test_files() -> None:
    assert documents.files(DOCUMENT) == {"hello.py": "# hello.py\nx = 1\n"}


@pytest.mark.parametrize(
    ("shown", "real", "expected"),
    [
        ("", "anything", True),
        ("true", "true\n", True),
        ("true", "false\n", False),
        ("true", "true\nmore", False),
        ("[node]\n...", "[node]\na\nb\n", True),
        ("pid ... up", "pid 12 up", True),
        ("a.c", "abc", False),
    ],
)
def test_matches(shown: str, real: str, expected: bool) -> None:
    assert documents.matches(shown, real) is expected
