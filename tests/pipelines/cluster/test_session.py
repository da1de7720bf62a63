"""Choice of the cluster of a job."""

from pipelines.cluster import session


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
