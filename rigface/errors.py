"""Errors that this project raises on purpose, as a tree.

`ValueError` stays what it is in Python: a programmer's mistake.
"""


class RigFaceError(Exception):
    """Base of all errors raised on purpose. The text names what was expected, what came, and what to do."""


class BadInput(RigFaceError):
    """A user's input that cannot be used; always a row or a 4xx, never the end of a job.

    `reason` (a sentence without its name) and `stage` are columns of the dataset.
    """

    def __init__(self, reason: str, stage: str = "decode") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # survives the way back from a child process
        return type(self), (self.reason, self.stage)


class BadImage(BadInput):
    """Not a picture, truncated, or with too many pixels."""


class BadVideo(BadInput):
    """Not a container, no video stream, or nothing decodes."""


class NoFace(BadInput):
    """No face was found in the picture or video."""


class BadEdit(RigFaceError, ValueError):
    """An edit, or its sampling, needs what this head or model does not have; the message names the field."""


class MissingAsset(RigFaceError):
    """A weight or licensed file is not on this machine; the message says how to get it."""


class MissingExtra(RigFaceError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


class UnsafeFile(RigFaceError):
    """A file would execute code while it is read, or be written outside its folder; refused."""


class BadCheckpoint(RigFaceError):
    """Not a folder of weights, or they do not fit the network that its config describes; the message names the keys."""


class PlanError(RigFaceError):
    """Stages or settings that do not fit together, found before any work was done."""


class OutputBusy(RigFaceError):
    """Another run is writing to the same output."""


class NoCluster(RigFaceError):
    """No Ray cluster answers at an address, or it refuses the token."""


class StorageGone(RigFaceError):
    """A storage is away, full, or rejects the credentials; no input is to blame."""


class JobBroken(RigFaceError):
    """The job stops because it is at fault itself, not its inputs; finished work is kept."""
