"""The commands `assets` (link, list and check weights and licensed files) and `model` (the Hugging Face Hub)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rigface.errors import PlanError


@dataclass(frozen=True)
class AssetsCommand:
    """Link the weights and licensed files that you downloaded into one folder, list them, and check them.

      rigface assets adopt downloads/ ~/RigFace/pre_trained
      rigface assets list
      rigface assets where flame
      rigface assets check rigface
      rigface assets check --reproduce ~/RigFace

    `adopt` recognises files by name and by the arrays in them, and links them; it prints each file's licence and what
    it makes possible. `check` names what a profile lacks, where to get it and which command it unlocks (exit status 1),
    or looks at every asset. Nothing is downloaded, copied or executed.
    """

    action: Positional[Literal["adopt", "list", "where", "check"]]
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR...|NAME|PROFILE")] = ()
    """Of `adopt`: folders or files; of `where`: an asset; of `check`: a profile (own, rigface)."""
    to: Path | None = None
    """Folder of links; by default RIGFACE_ASSETS, else ~/.local/share/rigface/assets."""
    reproduce: Path | None = None
    """`check`: a clone of RigFace's repository, whose own intermediates are compared with ours (exit status 1 if one
    differs)."""

    def run(self) -> int:
        from rigface.assets import ASSETS, assets_folder, find

        folder = (self.to or assets_folder()).absolute()
        if self.action == "adopt":
            if not self.words:
                raise PlanError("want adopt DIR...: the folders that hold the downloads")
            from pipelines.assets import adoption

            return adoption.report(adoption.adopt(tuple(Path(word) for word in self.words), folder), folder)
        if self.action == "where":
            if len(self.words) != 1 or self.words[0] not in ASSETS:
                raise PlanError(f"want where NAME; there are {', '.join(ASSETS)}")
            print(find(self.words[0], folder))
            return 0
        if self.reproduce is not None:
            from pipelines.assets import reproduce

            return reproduce.report(self.reproduce)
        from pipelines.assets import report

        if self.action == "list":
            return report.listed(folder)
        if len(self.words) > 1:
            raise PlanError("want check [PROFILE]: one profile, or none")
        return report.checked(self.words[0] if self.words else "", folder)


@dataclass(frozen=True)
class ModelCommand:
    """Fetch a model from the Hugging Face Hub, or upload your own.

      rigface model fetch org/name
      rigface edit photo.jpg out.png --checkpoint org/name --yaw 15
      HF_TOKEN=... rigface model push runs/mine/model org/name

    `fetch` downloads into the cache of huggingface_hub: safetensors, JSON and text, no pickles and no code. From then
    on `--checkpoint`, `--start` and `--adapter` take the name, or `org/name@revision`, without a network; they download
    nothing by themselves unless RIGFACE_HUB=1 is set. `push` uploads a folder of weights with its model card,
    README.md: complete the card first. The repository is made if there is none, and is private. The token is that of
    HF_TOKEN.
    """

    action: Positional[Literal["fetch", "push"]]
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[FOLDER] ORG/NAME")]
    """Of `fetch`: the name of a repository; of `push`: a folder of weights, such as OUT/model or OUT/adapter of
    `rigface train`, and the name."""
    public: bool = False  # `push`: a repository that is made may be read by everybody.
    pull_request: bool = False  # `push`: propose the files instead of writing them.

    def run(self) -> int:
        from rigface.model.checkpoint_folder import folder_of
        from rigface.model.hub import repository

        if len(self.words) != (1 if self.action == "fetch" else 2):
            raise PlanError("want fetch ORG/NAME, or push FOLDER ORG/NAME")
        if self.action == "fetch":
            print(repository.found(self.words[0], fetch=True))
        else:
            folder, name = folder_of(self.words[0]), self.words[1]
            print(repository.push(folder, name, private=not self.public, pull_request=self.pull_request))
        return 0


COMMANDS = {"assets": AssetsCommand, "model": ModelCommand}
