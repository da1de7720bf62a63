"""Settings of the workers of a job of units (`unit_job.py`); light, because every command line is parsed with it."""

from dataclasses import dataclass

from rigface.ranges import in_range


@dataclass(frozen=True)
class Workers:
    """The workers of a job."""

    workers: int = 0  # Ray actors; 0: this process alone, without Ray.
    cpus: float = 1.0  # Ray CPUs each takes.
    gpus: float = 0.0  # Ray GPUs each takes. Above 0 it computes on CUDA.
    address: str = ""  # Ray cluster to join; empty: the one in RAY_ADDRESS, else one is started here.

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "workers", "cpus", "gpus")

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"
