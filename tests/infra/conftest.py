"""Rendered overlays, and the pods, limits and versions that manifest tests ask for."""

import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra"
OVERLAYS = ("kind", "aws-gpu", "gke-gpu")
Document = dict[str, Any]


def tool(name: str) -> str:
    """A program that the environment brings, such as kubectl."""
    return str(Path(sys.executable).parent / name)


@functools.cache
def rendered_text(folder: str) -> str:
    """`kubectl kustomize` of a folder below infra/kuberay."""
    done = subprocess.run([tool("kubectl"), "kustomize", INFRA / "kuberay" / folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(overlay: str) -> list[Document]:
    """The objects of an overlay."""
    return list(yaml.load_all(rendered_text(f"overlays/{overlay}"), yaml.CSafeLoader))


def find_object(documents: list[Document], kind: str, name: str) -> Document:
    """The object of a kind with a name."""
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def cluster_of(document: Document) -> Document | None:
    """The Ray cluster that an object makes."""
    spec = document.get("spec", {})
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig")


@dataclass
class Pod:
    """One kind of pod, as the cluster would make it.

    Args:
        role: head, worker, submitter, or other.
        max_count: the largest number of such pods. labels: with those that KubeRay adds.
    """

    owner: str
    role: str
    group: str
    max_count: int
    labels: dict[str, str]
    spec: Document = field(repr=False)

    @property
    def containers(self) -> list[Document]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def main(self) -> Document:
        return self.spec["containers"][0]


def pods(documents: list[Document]) -> Iterator[Pod]:
    """Every pod that the objects lead to, KubeRay's own helpers excepted."""
    for document in documents:
        owner = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in ("StatefulSet", "Deployment"):
            spec = document["spec"]
            yield _pod(owner, "other", "", spec["replicas"], spec["template"])
        if template := document.get("spec", {}).get("submitterPodTemplate"):
            yield _pod(owner, "submitter", "", 1, template)
        if cluster := cluster_of(document):
            yield _pod(owner, "head", "head", 1, cluster["headGroupSpec"]["template"])
            for group in cluster["workerGroupSpecs"]:
                yield _pod(owner, "worker", group["groupName"], group["maxReplicas"], group["template"])


def _pod(owner: str, role: str, group: str, max_count: int, template: Document) -> Pod:
    labels = dict(template["metadata"]["labels"])
    if role in ("head", "worker"):
        labels |= {"ray.io/cluster": owner, "ray.io/node-type": role, "ray.io/group": group}
    return Pod(owner, role, group, max_count, labels, template["spec"])


def quantity(value: str | int) -> float:
    """A Kubernetes quantity as a number: 500m, 16Gi, 4."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|[KMGT]i)?", str(value)).groups()
    return float(number) * {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, None: 1}[unit]


@functools.cache
def pinned() -> dict[str, str]:
    """constraints.txt: package -> version."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    """Normalise a package name: `kubernetes_validate[x]==1` and `Kubernetes-Validate` are equal."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>]", name)[0]).lower()


@functools.cache
def project() -> Document:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
