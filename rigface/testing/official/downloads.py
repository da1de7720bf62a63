"""All official downloads as stand-ins, in the folders that the authors' instructions put them into.

Path: write_downloads -> a folder -> `rigface assets adopt`.
"""

from __future__ import annotations

from pathlib import Path

from rigface.testing.official import basel, diffusion, flame, networks


def write_downloads(folder: str | Path, texture: bool = True) -> Path:
    """Write what RigFace's instructions download: its networks, FLAME, DECA, Basel and d3dfr, BiSeNet and SD 1.5.

    Args:
        texture: FLAME's texture space, too (some seconds).
    """
    folder = Path(folder)
    diffusion.write_rigface(folder / "pre_trained")
    diffusion.write_sd15(folder / "stable-diffusion-v1-5")
    flame.write_flame(folder / "utils" / "decalib_data", texture=texture)
    networks.write_deca(folder / "utils" / "decalib_data" / "deca_model.tar")
    third_party = folder / "utils" / "checkpoints" / "third_party"
    networks.write_d3dfr(third_party / "d3dfr_res50_nofc.pth")
    basel.write_basel(third_party)
    networks.write_bisenet(folder / "utils" / "third_party_files" / "79999_iter.pth")
    return folder
