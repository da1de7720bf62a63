"""Connections that the network policies allow, evaluated as Kubernetes does."""

from dataclasses import dataclass, field

import pytest

from tests.infra.conftest import OVERLAYS, pods, rendered

NAMESPACE = "rigface"


@dataclass(frozen=True)
class Peer:
    """A pod, by its labels and its namespace."""

    labels: dict = field(hash=False)
    namespace: str = NAMESPACE
    namespace_labels: dict = field(default_factory=dict, hash=False)

    @property
    def of_namespace(self):
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def matches(selector, labels):
    if not (selector or {}).get("matchLabels", {}).items() <= labels.items():
        return False
    for wanted in (selector or {}).get("matchExpressions", []):
        assert wanted["operator"] == "In", "no other operator is used"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def allowed(policies, source, target, port):
    """True if the egress and ingress policies both allow a connection."""
    out = source.namespace != NAMESPACE or _one_way(policies, "Egress", source, target, port)
    return out and (target.namespace != NAMESPACE or _one_way(policies, "Ingress", target, source, port))


def _one_way(policies, way, pod, other, port):
    mine = [
        p["spec"] for p in policies if way in p["spec"]["policyTypes"] and matches(p["spec"]["podSelector"], pod.labels)
    ]
    assert mine, "a pod that no policy selects may do anything"
    rules = [rule for spec in mine for rule in spec.get(way.lower(), [])]
    return any(_lets(rule, "to" if way == "Egress" else "from", other, port) for rule in rules)


def _lets(rule, side, other, port):
    if "ports" in rule and port not in [p["port"] for p in rule["ports"]]:
        return False
    for peer in rule[side]:
        if "ipBlock" in peer:
            continue
        same = (
            other.namespace == NAMESPACE
            if "namespaceSelector" not in peer
            else matches(peer["namespaceSelector"], other.of_namespace)
        )
        if same and matches(peer.get("podSelector"), other.labels):
            return True
    return False


def component(name):
    return Peer({"app.kubernetes.io/component": name})


OPERATOR = Peer({}, "kuberay-system")
PROMETHEUS = Peer({}, "monitoring")
INGRESS = Peer({}, "ingress", {"rigface/callers": "true"})
STRANGER = Peer({}, "elsewhere")
DNS = Peer({}, "kube-system")


@pytest.mark.parametrize(
    ("source", "target", "port", "may"),
    [
        (component("extract"), component("extract"), 6379, True),
        (component("train"), component("train"), 31000, True),
        (component("extract"), component("train"), 6379, False),
        (component("extract"), component("serve"), 8000, False),
        (component("serve"), component("redis"), 6379, True),
        (component("train"), component("redis"), 6379, False),
        (component("redis"), component("serve"), 8265, False),
        (OPERATOR, component("extract"), 8265, True),
        (OPERATOR, component("serve"), 8000, True),
        (OPERATOR, component("serve"), 6379, False),
        (PROMETHEUS, component("train"), 8080, True),
        (PROMETHEUS, component("train"), 8265, False),
        (INGRESS, component("serve"), 8000, True),
        (INGRESS, component("serve"), 8265, False),
        (INGRESS, component("extract"), 8000, False),
        (STRANGER, component("serve"), 8000, False),
        (STRANGER, component("extract"), 8265, False),
        (component("serve"), DNS, 53, True),
        (component("redis"), STRANGER, 443, False),
    ],
)
def test_network_policies_allow(source, target, port, may):
    policies = [d for d in rendered("aws-gpu") if d["kind"] == "NetworkPolicy"]
    assert allowed(policies, source, target, port) is may


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_component_and_no_metadata_service(overlay):
    policies = [d for d in rendered(overlay) if d["kind"] == "NetworkPolicy"]
    for pod in pods(rendered(overlay)):
        assert pod.labels["app.kubernetes.io/component"] in ("extract", "train", "serve", "redis"), pod
    blocks = [
        peer["ipBlock"]
        for p in policies
        for rule in p["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_closed_by_default(overlay):
    (policy,) = [d for d in rendered(overlay) if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "deny-all"]
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
