"""What is public says what it is, and what the documents show runs."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxflow"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", [name_of(file) for file in sorted(PACKAGE.rglob("*.py"))])
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert hasattr(module, "__all__"), f"{name} does not say what is public"
    for public in module.__all__:
        value = getattr(module, public)
        if getattr(value, "__module__", "").startswith("jaxflow") and callable(value):
            doc = (value.__doc__ or "").strip()
            assert doc, f"{name}.{public} has no docstring"
            assert not doc.startswith(f"{public}("), f"{name}.{public} has no docstring of its own"


def blocks(text: str) -> list[str]:
    """The fenced Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_blocks_are_found():
    assert blocks("a\n```python\nx = 1\n```\n```bash\nls\n```\n") == ["x = 1\n"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_runs(document, tmp_path, monkeypatch):
    """The blocks of a document run in order, as one script, in an empty folder."""
    found = blocks(document.read_text())
    if not found:
        pytest.skip("no Python block")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__document__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for i, block in enumerate(found):
            exec(compile(block, f"{document.name}, block {i + 1}", "exec"), space)
