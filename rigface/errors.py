"""Every error this project raises on purpose, drawn as a tree.

RigFaceError
├── BadInput            something a user gave us cannot be used; always a row or a 4xx, never the end of a job
│   ├── BadImage        not a picture, truncated, too many pixels
│   ├── BadVideo        not a container, no video stream, nothing decodes
│   │   └── Truncated   good frames came, then the data ended (`face/reader.py`)
│   └── NoFace          a picture in which nobody was found
├── BadEdit             an edit or its sampling asks for what this head or model does not have (a ValueError, too)
├── MissingAsset        a weight or licensed file is not on this machine; the message says how to get it
├── MissingExtra        an optional package is not installed; the message names the extra (an ImportError, too)
├── UnsafeFile          a file asks to execute code while it is read; refused, nothing was run
├── BadCheckpoint       a folder of weights does not fit the network its config describes; the message names the keys
├── PlanError           stages or settings that do not fit together, found before any work was done
├── OutputBusy          another run is writing to the same output
├── NoCluster           no Ray cluster answers at an address, or it does not let us in
├── StorageGone         where things are kept is away, full, or does not know us; no input is to blame
└── JobBroken           the job stops because it is at fault itself, not its inputs; finished work is kept

`ValueError` stays what it is in Python: a programmer's mistake.
"""


class RigFaceError(Exception):
    """Base of all errors raised on purpose. Its text says what was wanted, what came, and what to do."""


class BadInput(RigFaceError):
    """An input that cannot be used.

    Args:
        reason: one sentence for a person, without the input's name; it ends up in the `reason` column.
        stage: the stage that refused it, for the `stage` column.
    """

    def __init__(self, reason: str, stage: str = "decode") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # survives the way back from a child process
        return type(self), (self.reason, self.stage)


class BadImage(BadInput):
    """Not a picture we can decode, or one that is too large to be let in."""


class BadVideo(BadInput):
    """Not a video we can decode."""


class NoFace(BadInput):
    """Nobody was found in the picture."""


class BadEdit(RigFaceError, ValueError):
    """What is asked for is not there on this head or in this model: an expression, a scheduler.

    The message names the field.
    """


class MissingAsset(RigFaceError):
    """A file that this feature needs is not there; the message names it and says how to get it."""


class MissingExtra(RigFaceError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


class UnsafeFile(RigFaceError):
    """Reading the file would execute code from it."""


class BadCheckpoint(RigFaceError):
    """A folder that is no checkpoint of ours, or whose weights do not fit its own config."""


class PlanError(RigFaceError):
    """Stages or settings that cannot work together."""


class OutputBusy(RigFaceError):
    """Another run holds this output."""


class NoCluster(RigFaceError):
    """Nobody answers where a Ray cluster should be, or we are not let in."""


class StorageGone(RigFaceError):
    """A storage that did not answer for longer than we are patient, does not accept this machine, or has no room
    left.
    """


class JobBroken(RigFaceError):
    """The job cannot go on: its units crash one like the other, or nothing moves. What is finished is kept."""
