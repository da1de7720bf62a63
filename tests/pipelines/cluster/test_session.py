"""Choice of the cluster of a job."""

import pytest

from pipelines.cluster import session
from rigface.errors import NoCluster


def test_private_cluster_is_started_beside_another_cluster(monkeypatch):
    """Without an address Ray joins any cluster of `ray start` on this machine, and then refuses `num_cpus`."""
    import ray

    calls = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with session.connected(cpus=2):
        pass
    assert [options["address"] for options in calls] == ["local"]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999"])
def test_dead_cluster_is_refused_at_once_with_name_of_variable(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray would try for a quarter of an hour"))
    with pytest.raises(NoCluster, match=f"^RAY_ADDRESS={address}: no Ray cluster answers there .* unset RAY_ADDRESS"):
        session.connected().__enter__()


def test_dashboard_as_address_is_refused(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(NoCluster, match=r"--address http://127\.0\.0\.1:8265 is a dashboard"):
        session.connected("http://127.0.0.1:8265").__enter__()
