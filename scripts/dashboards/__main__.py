"""`make reference`: write all dashboards."""

from pathlib import Path

from scripts.dashboards import DASHBOARDS, page

FOLDER = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards"

for name in DASHBOARDS:
    (FOLDER / f"{name}.json").write_text(page(name), encoding="utf-8")
