"""Which cluster a job is on."""

from pipelines.cluster import session


def test_a_cluster_of_our_own_is_our_own_even_beside_somebody_elses(monkeypatch):
    """Ray joins whatever `ray start` left running on this machine unless it is told not to, and then refuses `num_cpus`."""
    import ray

    asked = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with session.connected(cpus=2):
        pass
    assert [options["address"] for options in asked] == ["local"]
