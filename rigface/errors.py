"""Errors that this project raises on purpose, as a tree.

RigFaceError
├── BadInput            a user's input cannot be used; always a row or a 4xx, never the end of a job
│   ├── BadImage        not a picture, truncated, too many pixels
│   ├── BadVideo        not a container, no video stream, nothing decodes
│   │   └── Truncated   good frames came, then the data ended (`video/decode.py`)
│   └── NoFace          a picture or video without a face
├── BadEdit             an edit, or its sampling, needs what this head or model does not have (a ValueError, too)
├── MissingAsset        a weight or licensed file is not on this machine; the message says how to get it
├── MissingExtra        an optional package is not installed; the message names the extra (an ImportError, too)
├── UnsafeFile          a file would execute code while it is read, or be written outside its folder; refused
├── BadCheckpoint       a folder of weights does not fit the network its config describes; the message names the keys
├── PlanError           stages or settings that do not fit together, found before any work was done
├── OutputBusy          another run is writing to the same output
├── NoCluster           no Ray cluster answers at an address, or it refuses the token
├── StorageGone         a storage is away, full, or rejects the credentials; no input is to blame
└── JobBroken           the job stops because it is at fault itself, not its inputs; finished work is kept

`ValueError` stays what it is in Python: a programmer's mistake.
"""


class RigFaceError(Exception):
    """Base of all errors raised on purpose. The text names what was expected, what came, and what to do."""


class BadInput(RigFaceError):
    """An input that cannot be used; `reason` (a sentence without its name) and `stage` are columns of the dataset."""

    def __init__(self, reason: str, stage: str = "decode") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # survives the way back from a child process
        return type(self), (self.reason, self.stage)


class BadImage(BadInput):
    """Not a picture that can be decoded, or one that is too large."""


class BadVideo(BadInput):
    """Not a video that can be decoded."""


class NoFace(BadInput):
    """No face was found in the picture or video."""


class BadEdit(RigFaceError, ValueError):
    """This head or model has no such expression, scheduler ... The message names the field."""


class MissingAsset(RigFaceError):
    """A file that this feature needs is not there; the message names it and says how to get it."""


class MissingExtra(RigFaceError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


class UnsafeFile(RigFaceError):
    """A file would execute code while it is read, or be written outside its folder."""


class BadCheckpoint(RigFaceError):
    """Not a checkpoint folder, or its weights do not fit its own config."""


class PlanError(RigFaceError):
    """Stages or settings that cannot work together."""


class OutputBusy(RigFaceError):
    """Another run holds this output."""


class NoCluster(RigFaceError):
    """No Ray cluster answers at an address, or it refuses the token."""


class StorageGone(RigFaceError):
    """A storage did not answer for too long, rejects this machine's credentials, or has no room left."""


class JobBroken(RigFaceError):
    """The job cannot go on: all of its units crash, or nothing moves. What is finished is kept."""
