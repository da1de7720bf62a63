"""Errors of Ray as errors of this project, in one sentence; those of a program's fault stay as they are.

Path: any use of Ray inside `session.connected` -> `translated` -> the expected error of a worker, or JobBroken.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rigface.errors import JobBroken, RigFaceError, StorageGone
from rigface.terminal import is_out_of_memory, os_error_sentence

RAY_ADVICE = "\nFailed to apply UDF transform after"  # Ray appends this to the text of any exception of a stage
RESUME = "What is finished is kept; run the same command again to continue."
CLUSTER_ERRORS = {  # class of `ray.exceptions`, itself or a base -> what happened, and what to do
    "OutOfMemoryError": "a node of the Ray cluster has no memory left, and a worker was ended for it: start fewer "
    "workers or larger nodes.",
    "OutOfDiskError": "a node of the Ray cluster has no room on its disk: make room in Ray's folder (/tmp/ray).",
    "ObjectStoreFullError": "Ray's object store is full: start fewer workers, or give it more memory.",
    "RuntimeEnvSetupError": "a node of the Ray cluster cannot prepare the job's environment: see Ray's logs.",
    "AuthenticationError": "the Ray cluster refuses the token: set RAY_AUTH_TOKEN.",
    "NodeDiedError": "a node of the Ray cluster died.",
    "LocalRayletDiedError": "the Ray node on this machine died: see Ray's logs, and start it again.",
    "RayActorError": "a worker of the Ray cluster died, or lost its connection: see Ray's logs.",
    "WorkerCrashedError": "a worker of the Ray cluster crashed: see Ray's logs.",
    "ObjectLostError": "data on a node of the Ray cluster was lost with it.",
    "ActorUnschedulableError": "the Ray cluster has no room for a worker: start fewer, or add nodes.",
    "TaskUnschedulableError": "the Ray cluster has no room for a task: add nodes.",
    "GetTimeoutError": "the Ray cluster did not answer in time.",
    "RpcError": "the Ray cluster does not answer any more.",
    "RaySystemError": "the Ray cluster has an error of its own: see Ray's logs.",
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of Ray inside as what caused them.

    Raises:
        RigFaceError: the expected error of a worker; JobBroken if the cluster is at fault.
        ray.exceptions.RayError: a worker has a bug; its traceback is inside.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as e:
        if (cause := cause_of(e)) is not None:
            raise cause from e
        raise


def cause_of(error: BaseException | None) -> RigFaceError | None:
    """The error for a user inside an exception of Ray; None for a bug."""
    from ray.exceptions import RayTaskError

    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if not isinstance(error, RayTaskError):  # Ray's wrapper is of the wrapped class, too, with a page of text
            if isinstance(error, RigFaceError):
                error.args = (str(error).partition(RAY_ADVICE)[0],)
                return error
            if type(error).__module__ == "ray.exceptions":
                bases = (kind.__name__ for kind in type(error).__mro__)
                text = next((CLUSTER_ERRORS[name] for name in bases if name in CLUSTER_ERRORS), None)
                is_of_worker = "creation task" in str(error)  # of its code, not of the cluster
                if text is not None and not is_of_worker:
                    return JobBroken(f"{text} {RESUME}")
            elif isinstance(error, OSError) and error.errno is not None:
                return StorageGone(f"{os_error_sentence(error)}. {RESUME}")
            elif is_out_of_memory(error):
                return JobBroken(f"a worker had not enough memory: start fewer workers. {RESUME}")
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    return None
