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
      rigface assets check

    `adopt` recognises files by name and by the arrays in them, and links them; it prints each file's licence and what
    it makes possible. `check` looks at every asset: what is missing or damaged, where to get it and which command it
    unlocks. Nothing is downloaded, copied or executed.
    """

    action: Positional[Literal["adopt", "list", "where", "check"]]
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR...|NAME")] = ()
    """Of `adopt`: folders or files; of `where`: an asset."""
    to: Path | None = None
    """Folder of links; by default RIGFACE_ASSETS, else ~/.local/share/rigface/assets."""

    def run(self) -> int:
        from pipelines.assets import report
        from rigface.assets import ASSETS, assets_folder, find

        folder = (self.to or assets_folder()).absolute()
        if self.action == "adopt":
            if not self.words:
                raise PlanError("want adopt DIR...: the folders that hold the downloads")
            return report.adopted(tuple(Path(word) for word in self.words), folder)
        if self.action == "where":
            if len(self.words) != 1 or self.words[0] not in ASSETS:
                raise PlanError(f"want where NAME; there are {', '.join(ASSETS)}")
            print(find(self.words[0], folder))
            return 0
        if self.action == "list":
            return report.listed(folder)
        return report.checked(folder)


COMMANDS = {"assets": AssetsCommand}
