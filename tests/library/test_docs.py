"""The code blocks of the pages in docs run, one after the other."""

import importlib
import pkgutil
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


# --- what the pages name -------------------------------------------------------------------------

ROOT = DOCS.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/tutorials", "experiments", "experiments/*", "results")
    for path in ROOT.glob(f"{folder}/*.md")
)
CHOICES = {path.parent.name + path.stem for path in ROOT.glob("configs/*/*.yaml")}


def slugs(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / page).read_text("utf-8")):
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in slugs(path), link


@pytest.mark.parametrize("page", PAGES)
def test_the_files_tests_and_choices_that_a_page_names_exist(page):
    text = (ROOT / page).read_text("utf-8")
    tests = "\n".join(path.read_text("utf-8") for path in ROOT.glob("tests/*/test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", text)) - {"test_best"}:  # a value of a key
        assert f"def {name}(" in tests, name
    written = set(re.findall(r"^cat > (\S+)", text, re.M))  # by a command of the page itself
    names = re.findall(r"\b((?:pdoe|scripts|configs|tests|experiments)/[\w/.*-]*\w)", text)
    for name in set(names) - written:
        assert any(any(ROOT.glob(path)) for path in (name, f"{name}.py")), name
    for choice, names in re.findall(r"\b(experiment|model|recipe|data)=([a-z][\w,]+)", text):
        assert all(choice + name in CHOICES for name in names.split(",")), names


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("pdoe/**/*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_the_names_that_docstrings_refer_to_exist(module):
    text = (ROOT / module).read_text("utf-8")
    for name in re.findall(r":(?:class|func|mod|data):`~?(pdoe[\w.]*)`", text):
        assert pkgutil.resolve_name(name) is not None, name


API = "\n".join(path.read_text("utf-8") for path in DOCS.glob("api/*.rst"))


@pytest.mark.parametrize("package", ["pdoe", "pdoe.data", "pdoe.models", "pdoe.conversion"])
def test_every_public_name_has_a_place_in_the_library_pages(package):
    listed = set(re.findall(r"^\.\. auto\w+:: pdoe(?:\.\w+)*\.(\w+)$", API, re.M))
    listed |= {name for line in re.findall(r":members: (.*)", API) for name in line.split(", ")}
    assert not sorted(set(importlib.import_module(package).__all__) - listed)


def test_the_version_is_that_of_the_newest_changes_and_of_the_citation():
    import pdoe

    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[1]
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)[1]
    assert pdoe.__version__ == newest == cited
