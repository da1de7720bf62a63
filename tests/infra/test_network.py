"""Connections that the network policies allow, evaluated as Kubernetes does."""

import ipaddress
from dataclasses import dataclass, field

import pytest
import yaml

from tests.infra.conftest import INFRA, OVERLAYS, pods, rendered

NAMESPACE = "rigface"


@dataclass(frozen=True)
class Peer:
    """A pod, by its labels and its namespace."""

    labels: dict = field(hash=False)
    address: str = ""
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
            block = peer["ipBlock"]
            if other.address and _within(other.address, block["cidr"]):
                return not any(_within(other.address, hole) for hole in block.get("except", []))
            continue
        same = (
            other.namespace == NAMESPACE
            if "namespaceSelector" not in peer
            else matches(peer["namespaceSelector"], other.of_namespace)
        )
        if same and matches(peer.get("podSelector"), other.labels):
            return True
    return False


def _within(address, cidr):
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def component(name, role="worker"):
    return Peer({"app.kubernetes.io/component": name, "ray.io/node-type": role})


def at(address):
    """A machine outside of the cluster."""
    return Peer({}, address, namespace="")


OPERATOR = Peer({}, namespace="kuberay-system")
PROMETHEUS = Peer({}, namespace="monitoring")
INGRESS = Peer({}, namespace="ingress", namespace_labels={"rigface/callers": "true"})
STRANGER = Peer({}, namespace="elsewhere")
DNS = Peer({}, namespace="kube-system")
INTERNET, METADATA = at("93.184.215.14"), at("169.254.169.254")
# overlay -> an address of its storage (none on one machine), one of its Kubernetes API
OUTSIDE = {"aws-gpu": ("10.0.7.20", "10.0.9.1"), "gke-gpu": ("199.36.153.9", "172.16.0.2"), "kind": ("", "172.18.0.2")}


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
        if pod.role == "other":
            continue
        for place in (INTERNET, METADATA):
            assert not any(allowed(policies, Peer(pod.labels), place, port) for port in (80, 443, 6443)), pod


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_egress_is_to_storage_and_from_heads_to_kubernetes_api(overlay):
    policies = [d for d in rendered(overlay) if d["kind"] == "NetworkPolicy"]
    storage, api = OUTSIDE[overlay]
    for name in ("extract", "train", "serve"):
        assert not storage or allowed(policies, component(name), at(storage), 443)
        assert not storage or not allowed(policies, component(name), at(storage), 22)
        assert not allowed(policies, component(name), at(api), 6443)
        assert allowed(policies, component(name, "head"), at(api), 6443) == (name != "train")


def test_webhooks_component_opens_public_addresses_to_serving_workers():
    policies = [d for d in rendered("aws-gpu") if d["kind"] == "NetworkPolicy"]
    policies += list(yaml.safe_load_all((INFRA / "kuberay/components/webhooks/network.yaml").read_text()))
    assert allowed(policies, component("serve"), INTERNET, 443)
    assert not allowed(policies, component("serve", "head"), INTERNET, 443)
    assert not allowed(policies, component("extract"), INTERNET, 443)
    for private in ("169.254.169.254", "10.2.0.1", "172.18.0.2"):
        assert not allowed(policies, component("serve"), at(private), 443)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_closed_by_default(overlay):
    (policy,) = [d for d in rendered(overlay) if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "deny-all"]
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
