"""The course's notebooks, as the tests here read them."""

from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks"
COURSE = sorted(FOLDER.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))


def read(path: Path) -> list[Any]:
    """The cells of a notebook."""
    return nbformat.read(path, as_version=4).cells


def tagged(path: Path, kind: str) -> dict[str, str]:
    """Name -> source of the cells tagged kind:name, in order. Fails if two have the same name."""
    found: dict[str, str] = {}
    for cell in read(path):
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith(f"{kind}:"):
                name = tag.split(":", 1)[1]
                assert name not in found, f"{path.name}: two cells are tagged {tag}"
                found[name] = cell.source
    return found
