"""Every manifest against the schema of its kind, offline; the shortened schemas against KubeRay's CRDs if present."""

import copy
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import SHARED
from tests.infra.conftest import INFRA, OVERLAYS, ROOT, cluster_of, find_object, pods, rendered, rendered_text, tool

KUBERNETES = "1.37"
SCHEMAS = ROOT / "tests" / "infra" / "schemas"
KUBERAY = yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text())
SECRETS = yaml.safe_load((SCHEMAS / "secretproviderclass.yaml").read_text())
FILES = sorted(p for p in INFRA.rglob("*.yaml") if "observability" not in p.parts)
CRDS = SHARED / "schemas" / "kuberay"


def complaints(document):
    """Schema violations of an object, as sentences."""
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
def test_objects_fit_schema(overlay):
    documents = rendered(overlay)
    assert {"RayJob", "RayService", "NetworkPolicy", "PodDisruptionBudget"} <= {d["kind"] for d in documents}
    assert [c for document in documents for c in complaints(document)] == []
    for pod in pods(documents):
        if pod.role != "other":
            manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod.spec}
            assert [f"{pod}: {c}" for c in _by_kubernetes(manifest)] == []


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
def test_mistake_in_ray_job_is_found(path, value):
    document = copy.deepcopy(find_object(rendered("aws-gpu"), "RayJob", "extract"))
    assert complaints(document) == []
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert complaints(document)


def test_mistake_in_pod_is_found():
    pod = next(p for p in pods(rendered("aws-gpu")) if p.role == "worker")
    spec = copy.deepcopy(pod.spec)
    spec["containers"][0]["ports"][0]["containerPort"] = "8080"
    assert _by_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})


def test_pod_monitor_selects_every_ray_pod():
    documents = yaml.safe_load_all(rendered_text("../observability"))
    (monitor,) = [document for document in documents if document["kind"] == "PodMonitor"]
    jsonschema.validate(monitor, yaml.safe_load((SCHEMAS / "podmonitor.yaml").read_text()))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods(rendered("aws-gpu")):
        if pod.role in ("head", "worker"):
            assert {"name": endpoint["port"], "containerPort": 8080} in pod.main["ports"], pod
            for wanted in monitor["spec"]["selector"]["matchExpressions"]:
                assert wanted["key"] in pod.labels
                assert pod.labels[wanted["key"]] in wanted.get("values", [pod.labels[wanted["key"]]])


@pytest.mark.parametrize(("kind", "file"), [("RayJob", "rayjobs"), ("RayService", "rayservices")])
def test_own_schema_is_subset_of_kuberay_crd(kind, file):
    if not CRDS.is_dir():
        pytest.skip(f"needs KubeRay's CRDs at {CRDS}")
    crd = yaml.load((CRDS / f"{file}.yaml").read_text(), yaml.CSafeLoader)
    (crd_schema,) = [v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1"]
    assert list(_differences(KUBERAY["$defs"][kind], crd_schema, kind)) == []


def _differences(schema, crd_schema, path):
    """Parts of the schema that the CRD does not know, and requirements of the CRD that it lacks."""
    while "$ref" in schema:
        schema = KUBERAY["$defs"][schema["$ref"].rpartition("/")[2]]
    if path.endswith((".metadata", ".template.spec", ".submitterPodTemplate.spec", ".resources", ".securityContext")):
        return  # Kubernetes' own
    if schema.get("type") != crd_schema.get("type"):
        yield f"{path}: {schema.get('type')} here, {crd_schema.get('type')} there"
    if "enum" in crd_schema and not set(schema.get("enum", [None])) <= set(crd_schema["enum"]):
        yield f"{path}: {schema.get('enum')} here, {crd_schema['enum']} there"
    if missing := set(crd_schema.get("required", ())) - set(schema.get("required", ())):
        yield f"{path}: does not require {sorted(missing)}"
    for name, inner in schema.get("properties", {}).items():
        if name not in crd_schema["properties"]:
            yield f"{path}.{name}: unknown there"
        else:
            yield from _differences(inner, crd_schema["properties"][name], f"{path}.{name}")
    if "items" in schema:
        yield from _differences(schema["items"], crd_schema["items"], f"{path}[]")


def test_yaml_passes_yamllint():
    done = subprocess.run(
        [tool("yamllint"), "--strict", "--format", "parsable", "--config-file", INFRA / ".yamllint.yaml", *FILES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_yaml_starts_with_comment():
    assert len(FILES) > 12
    assert [str(p) for p in FILES if not p.read_text().startswith("# ")] == []


def test_ray_clusters_of_overlay():
    assert [d["metadata"]["name"] for d in rendered("kind") if cluster_of(d)] == ["extract", "train", "serve"]
