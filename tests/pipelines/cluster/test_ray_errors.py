"""Errors of Ray: those of a cluster and of a worker's input as one sentence, bugs as they are."""

import errno

import pytest
from ray import exceptions as ray_exceptions

from pipelines.cluster.ray_errors import translated
from rigface.errors import JobBroken, MissingAsset, StorageGone


def raised(error):
    with translated():
        raise error


def of_task(cause):
    """As Ray raises an exception of a task."""
    return ray_exceptions.RayTaskError("work", "Traceback of a page", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ray_exceptions.OutOfMemoryError("Task was killed due to the node running low on memory"), "no memory left"),
        (ray_exceptions.NodeDiedError("the node died"), "a node of the Ray cluster died"),
        (ray_exceptions.ActorDiedError(), "a worker of the Ray cluster died"),
        (ray_exceptions.WorkerCrashedError(), "a worker of the Ray cluster crashed"),
        (ray_exceptions.ObjectStoreFullError("full"), "object store is full"),
        (ray_exceptions.OutOfDiskError("full"), "no room on its disk"),
        (ray_exceptions.RpcError("lost", 14), "does not answer"),
    ],
)
def test_cluster_at_fault_is_one_sentence(error, words):
    with pytest.raises(JobBroken, match=words) as found:
        raised(error)
    assert str(found.value).endswith("run the same command again to continue.")
    assert "\n" not in str(found.value)


def test_expected_error_of_a_worker_is_raised_as_it_was():
    with pytest.raises(MissingAsset) as error:
        raised(of_task(MissingAsset("no weights; run this")))
    assert type(error.value) is MissingAsset
    assert str(error.value) == "no weights; run this"


def test_full_disk_of_a_worker_names_the_file():
    with pytest.raises(StorageGone, match=r"^/scratch/a: No space left on device; make room"):
        raised(of_task(OSError(errno.ENOSPC, "No space left on device", "/scratch/a")))


def test_worker_out_of_memory_is_one_sentence():
    with pytest.raises(JobBroken, match="not enough memory"):
        raised(of_task(MemoryError()))


@pytest.mark.parametrize("error", [of_task(KeyError("nose")), ray_exceptions.RayTaskError("f", "page", KeyError("a"))])
def test_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)) as found:
        raised(error)
    assert found.value is error
