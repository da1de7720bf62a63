"""The command `assets`: recognise, link, list and check weights and licensed files."""

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


COMMANDS = {"assets": AssetsCommand}
