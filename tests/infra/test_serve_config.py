"""The Ray Serve configurations against the schema of Serve, `ServiceConfig` and the deployments of the application."""

import importlib
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from serve.config import ServiceConfig
from tests.infra.conftest import INFRA, OVERLAYS, find_object, rendered


def configuration(where):
    """`infra/serve.yaml`, or what an overlay's RayService hands to Serve."""
    if where == "serve.yaml":
        return yaml.safe_load((INFRA / where).read_text())
    return yaml.safe_load(find_object(rendered(where), "RayService", "serve")["spec"]["serveConfigV2"])


@pytest.fixture(params=["serve.yaml", *OVERLAYS])
def config(request, monkeypatch):
    """With the environment that its nodes have."""
    if request.param in OVERLAYS:
        for name, value in find_object(rendered(request.param), "ConfigMap", "rigface-settings")["data"].items():
            if name.startswith("RIGFACE_"):
                monkeypatch.setenv(name, value)
    return configuration(request.param)


def unknown_keys(value, model, path="") -> list[str]:
    """Keys that a model would silently drop: Serve's own schema lets them pass."""
    found = []
    for key, inner in value.items():
        field = model.model_fields.get(key)
        if field is None:
            found.append(f"{path}{key}")
            continue
        models = [
            m
            for m in (field.annotation, *_arguments(field.annotation))
            if isinstance(m, type) and issubclass(m, BaseModel)
        ]
        for part in inner if isinstance(inner, list) else [inner]:
            if models and isinstance(part, dict):
                found += min((unknown_keys(part, m, f"{path}{key}.") for m in models), key=len)
    return found


def _arguments(annotation):
    for inner in get_args(annotation):
        yield inner
        yield from _arguments(inner)


def test_serve_schema_accepts_config(config):
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, ServeDeploySchema) == []


def test_unknown_key_is_found():
    from ray.serve.schema import ServeDeploySchema

    config = {"applications": [{"import_path": "a:b", "deployments": [{"name": "Gateway", "max_ongoing_request": 1}]}]}
    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, ServeDeploySchema) == ["applications.deployments.max_ongoing_request"]


def test_config_names_application_and_deployments(config):
    (application,) = config["applications"]
    module, name = application["import_path"].split(":")
    build = getattr(importlib.import_module(module), name)
    args = ServiceConfig(**application["args"])  # forbids what it does not know
    assert args.keys, "a service on a network wants keys"
    assert args.signing_folder, "replicas share a signing key"
    named = {d["name"]: d for d in application["deployments"]}
    assert named.keys() == _names(build(args)), "every deployment has its size in the file, and no other is named"
    device = named["DiffusionWorker"]["ray_actor_options"].get("num_gpus", 0)
    assert (args.device == "cuda") == (device > 0)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_service_has_audit_log_lists_and_webhook_secret(overlay):
    """On mounts of the pods: the log on a disk that outlives them, the lists and the secret from Secrets."""
    args = ServiceConfig(**configuration(overlay)["applications"][0]["args"])
    (group,) = find_object(rendered(overlay), "RayService", "serve")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    volumes = {v["name"]: v for v in pod["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in pod["containers"][0]["volumeMounts"]}
    assert "persistentVolumeClaim" in mounts[args.audit_log.rstrip("/")]
    for file in (args.consent, args.deny):
        assert mounts[file.rpartition("/")[0]]["secret"]["secretName"] == "rigface-lists"
    env = {v["name"]: v for v in pod["containers"][0]["env"]}
    assert env["RIGFACE_WEBHOOK_SECRET"]["valueFrom"]["secretKeyRef"]["name"] == "rigface-webhook"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_job_store_outlives_pod(overlay):
    """A bucket, or a folder that each node of the service mounts from the shared disk."""
    place = find_object(rendered(overlay), "ConfigMap", "rigface-settings")["data"]["RIGFACE_JOBS"]
    (group,) = find_object(rendered(overlay), "RayService", "serve")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    claims = {v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    mounted = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims}
    assert place in mounted or place.startswith("s3://")


def _names(application) -> set[str]:
    """The deployments of an application."""
    from ray.serve._private.build_app import build_app

    return {d.name for d in build_app(application, name="rigface").deployments}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_replicas_fit_nodes(overlay):
    (application,) = configuration(overlay)["applications"]
    (group,) = find_object(rendered(overlay), "RayService", "serve")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for size, nodes in (("min_replicas", group["minReplicas"]), ("max_replicas", group["maxReplicas"])):
        for resource, option in (("cpu", "num_cpus"), ("nvidia.com/gpu", "num_gpus")):
            wanted = sum(
                d.get("autoscaling_config", {size: 1})[size] * d["ray_actor_options"].get(option, 0)
                for d in application["deployments"]
            )
            assert wanted <= nodes * int(has.get(resource, 0)), f"{size}: {wanted} of {resource}"
