"""`make reference`: write all pages, and the tables of task types on others."""

from pathlib import Path

from scripts.reference import PAGES, task_types

FOLDER = Path(__file__).parents[2] / "docs" / "reference"

for name, page in PAGES.items():
    (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")

for name in task_types.TABLES:
    (task_types.ROOT / name).write_text(task_types.renewed(name), encoding="utf-8")
