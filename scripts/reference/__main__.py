"""`make reference`: write all pages."""

from pathlib import Path

from scripts.reference import PAGES

FOLDER = Path(__file__).parents[2] / "docs" / "reference"

for name, page in PAGES.items():
    (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")
