"""Every manifest against the schema of its kind, offline; and our small schemas against KubeRay's own, where those are at hand."""

import copy
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import SHARED
from tests.infra.conftest import INFRA, OVERLAYS, ROOT, cluster_of, one, pods, rendered, rendered_text, tool

KUBERNETES = "1.37"
SCHEMAS = ROOT / "tests" / "infra" / "schemas"
KUBERAY = yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text())
SECRETS = yaml.safe_load((SCHEMAS / "secretproviderclass.yaml").read_text())
OURS = sorted(p for p in INFRA.rglob("*.yaml") if "observability" not in p.parts)
CRDS = SHARED / "schemas" / "kuberay"


def complaints(document):
    """What is wrong with an object, as sentences."""
    kind = document["kind"]
    if document["apiVersion"] == "ray.io/v1":
        schema = {"$ref": f"#/$defs/{kind}", **KUBERAY}
        found = jsonschema.Draft202012Validator(schema).iter_errors(document)
        return [f"{kind} {error.json_path}: {error.message}" for error in found]
    if kind == "SecretProviderClass":
        found = jsonschema.Draft202012Validator(SECRETS).iter_errors(document)
        return [f"{kind} {error.json_path}: {error.message}" for error in found]
    return _by_kubernetes(document)


def _by_kubernetes(document):
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{document['kind']}: {error.message}"]
    return []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay):
    documents = rendered(overlay)
    assert {"RayJob", "RayService", "NetworkPolicy", "PodDisruptionBudget"} <= {d["kind"] for d in documents}
    assert [c for document in documents for c in complaints(document)] == []
    for pod in pods(documents):
        if pod.role != "other":
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod.spec}
            assert [f"{pod}: {c}" for c in _by_kubernetes(made)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backoffLimt"), 3),
        (("spec", "rayClusterSpec", "rayVersion"), 2.6),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "disabled"),
        (("metadata", "name"), "Extract"),
    ],
)
def test_a_slip_in_a_ray_job_is_found(path, value):
    document = copy.deepcopy(one(rendered("aws-gpu"), "RayJob", "extract"))
    assert complaints(document) == []
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert complaints(document)


def test_a_slip_in_a_pod_is_found():
    pod = next(p for p in pods(rendered("aws-gpu")) if p.role == "worker")
    spec = copy.deepcopy(pod.spec)
    spec["containers"][0]["ports"][0]["containerPort"] = "8080"
    assert _by_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})


def test_monitor_fits_its_schema_and_finds_every_ray_pod():
    made = yaml.safe_load_all(rendered_text("../observability"))
    (monitor,) = [document for document in made if document["kind"] == "PodMonitor"]
    jsonschema.validate(monitor, yaml.safe_load((SCHEMAS / "podmonitor.yaml").read_text()))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods(rendered("aws-gpu")):
        if pod.role in ("head", "worker"):
            assert {"name": endpoint["port"], "containerPort": 8080} in pod.main["ports"], pod
            for wanted in monitor["spec"]["selector"]["matchExpressions"]:
                assert wanted["key"] in pod.labels
                assert pod.labels[wanted["key"]] in wanted.get("values", [pod.labels[wanted["key"]]])


@pytest.mark.parametrize(("kind", "file"), [("RayJob", "rayjobs"), ("RayService", "rayservices")])
def test_our_schemas_are_a_part_of_kuberays(kind, file):
    if not CRDS.is_dir():
        pytest.skip(f"needs KubeRay's CRDs at {CRDS}")
    crd = yaml.load((CRDS / f"{file}.yaml").read_text(), yaml.CSafeLoader)
    (theirs,) = [v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1"]
    assert list(_strangers(KUBERAY["$defs"][kind], theirs, kind)) == []


def _strangers(ours, theirs, path):
    """Where ours allows what theirs does not know, or forgets what theirs requires."""
    while "$ref" in ours:
        ours = KUBERAY["$defs"][ours["$ref"].rpartition("/")[2]]
    if path.endswith((".metadata", ".template.spec", ".submitterPodTemplate.spec", ".resources", ".securityContext")):
        return  # Kubernetes' own
    if ours.get("type") != theirs.get("type"):
        yield f"{path}: {ours.get('type')} here, {theirs.get('type')} there"
    if "enum" in theirs and not set(ours.get("enum", [None])) <= set(theirs["enum"]):
        yield f"{path}: {ours.get('enum')} here, {theirs['enum']} there"
    if missing := set(theirs.get("required", ())) - set(ours.get("required", ())):
        yield f"{path}: does not require {sorted(missing)}"
    for name, schema in ours.get("properties", {}).items():
        if name not in theirs["properties"]:
            yield f"{path}.{name}: unknown there"
        else:
            yield from _strangers(schema, theirs["properties"][name], f"{path}.{name}")
    if "items" in ours:
        yield from _strangers(ours["items"], theirs["items"], f"{path}[]")


def test_yaml_is_written_as_agreed():
    done = subprocess.run(
        [tool("yamllint"), "--strict", "--format", "parsable", "--config-file", INFRA / ".yamllint.yaml", *OURS],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_yaml_says_what_it_is():
    assert len(OURS) > 12
    assert [str(p) for p in OURS if not p.read_text().startswith("# ")] == []


def test_clusters_are_found():
    assert [d["metadata"]["name"] for d in rendered("kind") if cluster_of(d)] == ["extract", "train", "serve"]
