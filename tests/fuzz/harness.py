"""What the fuzz targets share: one loop, one invariant.

The invariant: whatever bytes come, nothing but `RemoteProtocolError` escapes (for the
configuration: `ConfigError`). A target also asserts what must hold of input that was accepted.

    python tests/fuzz/fuzz_codec.py -runs=1000000            libFuzzer's options; Ctrl-C to stop
    python tests/fuzz/fuzz_codec.py crash-1234...            one input again
    python tests/fuzz/run_all.py --runs 1000000              all of them (`make fuzz`)

New inputs go to a temporary folder, never into the seeds of `corpus/`. What is found is kept as
`crash-*` in `$FUZZ_FINDINGS`, or the temporary folder; make a unit test of it before the mend.

atheris measures our own Python; cbor2 is Rust and libsodium C, which it cannot see into.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

INPUT_BYTES_MAX = 4_096  # more explores nothing new: limits have unit tests
INPUT_S = 10  # one input that takes longer is a finding: something is not linear
RSS_MB_MAX = 1_024  # the same for memory
SEED = 17

CORPUS = Path(__file__).parent / "corpus"


def instrumented() -> object:
    """``with instrumented(): import drupelet...``: what atheris measures the coverage of."""
    return atheris.instrument_imports(include=["drupelet"])


def chunks(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """`data` cut into pieces as a network might, from 1 to 256 bytes each."""
    position = 0
    for size in sizes:
        yield data[position : position + size + 1]
        position += size + 1
        if position >= len(data):
            return
    yield data[position:]


def fuzz(target: str, one_input: Callable[[bytes], None]) -> None:
    """Run `one_input` on seeds and what libFuzzer makes of them; ends the process."""
    own = any(not argument.startswith("-") for argument in sys.argv[1:])
    arguments = [
        sys.argv[0],
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S}",
        f"-rss_limit_mb={RSS_MB_MAX}",
        f"-seed={SEED}",
    ]
    findings = os.environ.get("FUZZ_FINDINGS") or tempfile.mkdtemp(prefix="drupelet-fuzz-")
    arguments.append(f"-artifact_prefix={findings}/{target}-")
    arguments += sys.argv[1:]
    if not own:
        found = tempfile.mkdtemp(prefix=f"drupelet-fuzz-{target}-")
        arguments += [found, str(CORPUS / target)]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()
