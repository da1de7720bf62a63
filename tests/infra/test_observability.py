"""Alert rules and dashboards: valid PromQL over exported metrics, a runbook per alert, generated files up to date."""

import importlib
import json
import mmap
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from pipelines.telemetry import metrics as jobs
from serve.telemetry import metrics as service
from tests.infra.conftest import INFRA, ROOT, rendered_text

FOLDER = INFRA / "observability"
RULES = [r for g in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for r in g["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}
METRICS = {series: m for m in (*jobs.ALL, *service.ALL) for series in m.series}
RAY_METRICS = set((FOLDER / "ray-metrics.txt").read_text().split())
TARGET = {"ray_io_cluster", "le"}  # labels that scrape and histograms add


def queries(board):
    """(panel's title, expression) of a dashboard, Grafana's variable filled in."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$cluster", ".*")


EVERY = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]
EVERY += [(f"{name}: {title}", expr) for name, board in BOARDS.items() for title, expr in queries(board)]


def selectors(expression):
    """The vector selectors of an expression, which is parsed for it."""
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def names(expressions):
    return {selector.name for expression in expressions for selector in selectors(expression)}


@pytest.mark.parametrize(("where", "expression"), EVERY, ids=lambda value: value if len(value) < 60 else "")
def test_query_is_promql_over_exported_metrics(where, expression):
    for selector in selectors(expression):
        name, asked = selector.name, {m.name for m in selector.matchers.matchers}
        if name.startswith("ray_"):
            assert name.removeprefix("ray_") in RAY_METRICS
        elif ":" in name:
            assert name in RECORDED
        elif name != "up":
            assert name in METRICS, f"{name} is not exported"
            assert asked <= {*METRICS[name].labels, *TARGET}, f"{name} has no label {asked}"


def test_every_project_metric_is_on_dashboard():
    seen = names(expression for board in BOARDS.values() for _, expression in queries(board))
    while more := names(r["expr"] for r in RULES if r.get("record") in seen) - seen:
        seen |= more
    unseen = {m.name for m in (*jobs.ALL, *service.ALL) if not seen & set(m.series)}
    assert unseen == set()


def test_listed_ray_metrics_are_used_and_exported():
    used = {n.removeprefix("ray_") for n in names(e for _, e in EVERY) if n.startswith("ray_")}
    assert used | {"node_cpu_count"} == RAY_METRICS  # the variable of the dashboards uses node_cpu_count
    ray = Path(importlib.util.find_spec("ray").origin).parent
    python = b"\n".join(
        path.read_bytes()
        for folder in ("serve/_private", "data/_internal", "dashboard/modules/reporter")
        for path in (ray / folder).rglob("*.py")
    )
    missing = {name for name in RAY_METRICS if not re.search(rf"\b{name}\b".encode(), python)}
    with open(ray / "core" / "src" / "ray" / "raylet" / "raylet", "rb") as file:
        core = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert {name for name in missing if core.find(b"\0" + name.encode() + b"\0") < 0} == set()


def test_alert_has_action_and_runbook():
    assert len(ALERTS) > 12
    for name, rule in ALERTS.items():
        annotations = rule["annotations"]
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert annotations["runbook"] == f"docs/operations.md#{name.lower()}"
        assert annotations["summary"]
        assert len(annotations["action"]) > 40, name


def test_every_alert_has_runbook_section():
    text = (ROOT / "docs" / "operations.md").read_text()
    runbook = text.partition("\n## Runbook")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)", runbook, re.M) == list(ALERTS)


def test_every_alert_has_rule_test():
    tried = yaml.safe_load((FOLDER / "rules.test.yaml").read_text())["tests"]
    fired = {c["alertname"] for t in tried for c in t["alert_rule_test"] if c.get("exp_alerts")}
    assert fired == set(ALERTS)


@pytest.mark.parametrize(
    "command", [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]], ids=" ".join
)
def test_promtool_accepts_rules(command):
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: apt-get install --yes prometheus")
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_files_are_up_to_date(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr("sys.argv", ["observability.py", "--check"])
    assert runpy.run_path(str(ROOT / "scripts" / "observability.py"))["main"]() == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", BOARDS)
def test_dashboard_panels_are_complete(name):
    board = BOARDS[name]
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len(panels) > 10
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"${source}"}
            assert all("$cluster" in t["expr"] for t in panel["targets"]), panel["title"]


def test_kustomization_holds_rules_and_dashboards():
    documents = {d["kind"]: d for d in yaml.safe_load_all(rendered_text("../observability"))}
    assert documents["PrometheusRule"]["spec"] == yaml.safe_load((FOLDER / "rules.yaml").read_text())
    assert {k: json.loads(v) for k, v in documents["ConfigMap"]["data"].items()} == {
        f"{k}.json": v for k, v in BOARDS.items()
    }
    assert documents["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}


def test_pod_monitor_and_scrape_config_relabel_alike():
    monitor = yaml.safe_load((FOLDER / "pod-monitor.yaml").read_text())["spec"]["podMetricsEndpoints"][0]
    plain = yaml.safe_load((FOLDER / "scrape.yaml").read_text())["scrape_configs"][0]
    snake = [
        {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), k): v for k, v in r.items()}
        for r in monitor["metricRelabelings"]
    ]
    assert snake == plain["metric_relabel_configs"]
    assert re.fullmatch(snake[0]["regex"], "ray_rigface_edits_total")[1] == "rigface_edits_total"
