"""`make reference`: write all pages, and the tables on others."""

from pathlib import Path

from scripts.reference import PAGES, tables

FOLDER = Path(__file__).parents[2] / "docs" / "reference"

for name, page in PAGES.items():
    (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")

for name in tables.TABLES:
    (tables.ROOT / name).write_text(tables.renewed(name), encoding="utf-8")
