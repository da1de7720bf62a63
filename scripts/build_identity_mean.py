"""Build `rigface/data/dlib_identity_mean.npy`: the mean of dlib's identity vector over people.

Each person counts once, whatever the number of their pictures. Only pictures marked `ship = 1` in the manifest
(permissive licence, no research-set origin) take part: 78 people.

    python scripts/build_identity_mean.py ../shared/data
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import av
import numpy as np

from rigface import image
from rigface.face.detection.factory import load_detector
from rigface.face.identity.dlib_embedding import DlibIdentity

OUT = Path(__file__).parent.parent / "rigface" / "data" / "dlib_identity_mean.npy"
FRAMES = 3  # of a clip


def pictures(path: Path, kind: str) -> list[np.ndarray]:
    """The portrait, or a few frames spread over a clip."""
    if kind == "image":
        return [image.decode(path.read_bytes())]
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for k, f in enumerate(container.decode(video=0)) if k % 10 == 0]
    return [frames[k] for k in np.linspace(0, len(frames) - 1, FRAMES).astype(int)]


def main(data: Path) -> None:
    detector, identity = load_detector(), DlibIdentity()
    vectors = defaultdict(list)
    for row in csv.DictReader((data / "manifest.csv").open()):
        one_person = row["person"].startswith("p") and ";" not in row["person"]
        if row["ship"] != "1" or not one_person:
            continue
        for picture in pictures(data / row["file"], row["kind"]):
            found = detector(picture, second_look=False)
            if len(found) == 1 and (vector := identity(picture, found[0])) is not None:
                vectors[row["person"]].append(vector)
    mean = np.mean([np.mean(v, axis=0) for v in vectors.values()], axis=0)
    OUT.parent.mkdir(exist_ok=True)
    np.save(OUT, mean.astype(np.float32))
    print(f"{len(vectors)} people -> {OUT}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
