"""The code blocks of the pages in docs run, one after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_code_blocks_of_a_page_run(page):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S
    )
    assert blocks
    names = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
