"""Panels and dashboards as Grafana 10 and newer read them from a file."""

from __future__ import annotations

from typing import Any, Iterable, Mapping

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
ENDED = "instance_task_type:sfworker_executions:sum"
FAILED = "instance_task_type:sfworker_executions_failed:sum"
_COLUMNS = 24


def stat(title: str, expression: str, unit: str = "none", **options: Any) -> Json:
    """One number, coloured by ``steps``; with ``text="name"`` it shows ``legend`` instead."""
    shown = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": options.pop("text", "auto"),
    }
    return _panel(
        "stat", title, {options.pop("legend", ""): expression}, unit, shown, (4, 4), **options
    )


def lines(title: str, expressions: Mapping[str, str], unit: str = "none", **options: Any) -> Json:
    """Lines over time, one query for each legend."""
    shown = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, expressions, unit, shown, (8, 8), **options)


def dashboard(name: str, title: str, panels: Iterable[Json], variable: Json | None = None) -> Json:
    """A whole dashboard; panels flow from left to right and wrap into rows."""
    placed, x, y, row_height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > _COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        placed.append({"id": number, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, row_height = x + width, max(row_height, height)
    return {
        "uid": f"sfworker-{name.replace('_', '-')}",
        "title": f"SecretFlow Worker: {title}",
        "tags": ["sfworker"],
        "schemaVersion": 38,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [_DATASOURCE_VARIABLE, *([variable] if variable else [])]},
        "annotations": {"list": [_FIRING]},
        "links": [_LINKS],
        "panels": placed,
    }


def variable(name: str, metric: str) -> Json:
    """A choice of one value of a label of a metric, which stands at the head of the dashboard."""
    query = f"label_values({metric}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": name.replace("_", " "),
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }


def per_hour(chosen: str = "") -> dict[str, str]:
    """Executions per hour by outcome, of those that ``chosen`` selects."""
    ended, failed = (f"3600 * sum(rate({metric}{{{chosen}}}[1h]))" for metric in (ENDED, FAILED))
    return {"ended": ended, "failed": failed}


def succeeded(chosen: str = "") -> str:
    """Share of the executions of an hour that succeeded."""
    return f"1 - sum(rate({FAILED}{{{chosen}}}[1h])) / sum(rate({ENDED}{{{chosen}}}[1h]))"


def steps(*colours: tuple[float, str], base: str = "green") -> list[Json]:
    """Colours from which value on."""
    return [
        {"color": base, "value": None},
        *({"color": colour, "value": value} for value, colour in colours),
    ]


def _panel(  # pylint: disable=too-many-arguments,too-many-positional-arguments
    kind: str,
    title: str,
    expressions: Mapping[str, str],
    unit: str,
    shown: Json,
    size: tuple[int, int],
    *,
    description: str = "",
    thresholds: list[Json] | None = None,
    most: float | None = None,
    width: int | None = None,
) -> Json:
    defaults: Json = {
        "unit": unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": thresholds or steps()},
    }
    if most is not None:
        defaults["max"] = most
    if kind == "timeseries":
        line = "line" if thresholds else "off"
        defaults["custom"] = {
            "fillOpacity": 10,
            "showPoints": "never",
            "thresholdsStyle": {"mode": line},
        }
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": width or size[0], "h": size[1]},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
            }
            for number, (legend, expression) in enumerate(expressions.items())
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": shown,
    }


_DATASOURCE_VARIABLE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "data source",
    "query": "prometheus",
    "refresh": 1,
    "includeAll": False,
    "multi": False,
}
_FIRING: Json = {
    "name": "alerts",
    "enable": True,
    "iconColor": "red",
    "datasource": DATASOURCE,
    "expr": 'ALERTS{alertname=~"Sfworker.*", alertstate="firing"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{instance}}",
}
_LINKS: Json = {
    "type": "dashboards",
    "title": "SecretFlow Worker",
    "tags": ["sfworker"],
    "asDropdown": True,
    "includeVars": False,
    "keepTime": True,
}
