"""The README's examples run, and what they show is what comes out."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_five_examples():
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS)
def test_example(block, tmp_path, monkeypatch):
    """A line `expression  # value` is compared with the value."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for line in re.sub(r"\n(?=[ )\]])", "\v", block.strip()).split("\n"):
        statement = line.replace("\v", "\n")
        shown = re.fullmatch(r"([^#=]+|[^#]*\([^#]*\))\s+# (.+)", statement)
        if shown is None:
            exec(statement, names)
            continue
        got = eval(shown[1], names)
        want = eval(shown[2], {"inf": np.inf, "nan": np.nan, "array": np.array})
        np.testing.assert_allclose(got, want, rtol=1e-3)
