"""Make what is made of infra/observability: Grafana's dashboards and the operator's PrometheusRule

python scripts/observability.py           # write dashboards/*.json and prometheus-rule.yaml
python scripts/observability.py --check   # say what is out of date, exit 1
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "infra" / "observability"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 24, 8  # of Grafana's grid; of a panel


def dashboard(about: dict[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in about["rows"]:
        panels.append({"type": "row", "title": row["title"], "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        y += 1
        across = min(len(row["panels"]), 4 if len(row["panels"]) % 3 else 3)
        for k, one in enumerate(row["panels"]):
            place = {"x": k % across * (WIDTH // across), "y": y, "w": WIDTH // across, "h": HEIGHT}
            panels.append(panel(one, place))
            y += HEIGHT if k % across == across - 1 or k == len(row["panels"]) - 1 else 0
    for number, one in enumerate(panels, start=1):
        one["id"] = number
    return {
        "uid": f"rigface-{about['name']}",
        "title": about["title"],
        "tags": ["rigface"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [_source(), _cluster()]},
        "links": [{"type": "dashboards", "tags": ["rigface"], "title": "RigFace", "asDropdown": False}],
        "panels": panels,
    }


def panel(about: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    """One panel: lines over time, or the latest numbers."""
    kind = about.get("kind", "timeseries")
    targets = [
        {"refId": chr(65 + k), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        for k, (legend, query) in enumerate(about["queries"].items())
    ]
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
    return {
        "type": kind,
        "title": about["title"],
        "description": about.get("about", ""),
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": about["unit"], "min": 0}, "overrides": []},
        "options": options,
        "targets": targets,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _cluster() -> dict[str, Any]:
    """Which Ray cluster; all of them, and those without a name, unless one is chosen."""
    query = "label_values(ray_node_cpu_count, ray_io_cluster)"
    return {
        "name": "cluster", "type": "query", "label": "Cluster", "datasource": SOURCE, "query": query, "refresh": 2,
        "includeAll": True, "allValue": ".*", "multi": False, "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def rule(groups: dict[str, Any]) -> str:
    """The rules as the Prometheus Operator takes them."""
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "rigface", "labels": {"app.kubernetes.io/part-of": "rigface"}},
        "spec": groups,
    }
    head = "# The rules of rules.yaml for the Prometheus Operator; made by scripts/observability.py\n"
    return head + yaml.safe_dump(made, sort_keys=False, width=1000, allow_unicode=True)


def made() -> dict[Path, str]:
    """Everything that is made: path -> text."""
    boards = yaml.safe_load((FOLDER / "dashboards.yaml").read_text())
    out = {FOLDER / "dashboards" / f"{b['name']}.json": json.dumps(dashboard(b), indent=1) + "\n" for b in boards}
    return {**out, FOLDER / "prometheus-rule.yaml": rule(yaml.safe_load((FOLDER / "rules.yaml").read_text()))}


def main() -> int:
    old = [path for path, text in made().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        print("\n".join(f"{p.name} is out of date; run python scripts/observability.py" for p in old) or "all is true")
        return int(bool(old))
    for path, text in made().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
