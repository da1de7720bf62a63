"""Verify the provenance of files: the job of `rigface verify`."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.edit.inputs import errors_named
from rigface.errors import PlanError
from rigface.provenance.signer import C2paSigner

MAX_BYTES = 1 << 30  # of a file; it is read whole
MANIFESTS = {
    "trusted": "signed with this key",
    "foreign": "signed with another key",
    "invalid": "damaged or changed",
    "none": "none",
}


def verify(files: Sequence[Path], signing_folder: str = "") -> int:
    """Print the provenance of each file; 0 if all were made here, else 1. PlanError if one cannot be read."""
    signer = C2paSigner(signing_folder)
    all_ours = True
    for path in files:
        with errors_named(path):
            if path.stat().st_size > MAX_BYTES:
                raise PlanError(f"{path}: larger than {MAX_BYTES >> 20} MiB, more than `rigface verify` reads")
            found = signer.verify(path.read_bytes())
        rows = {
            "made here": "yes" if found.made_here else "no",
            "manifest": MANIFESTS[found.manifest],
            "watermark": found.mark or "none",
            **({"edit": json.dumps(found.record.get("faces") or found.record.get("edit", {}))} if found.record else {}),
        }
        print(path, *(f"  {name:10} {value}" for name, value in rows.items()), sep="\n")
        all_ours = all_ours and found.made_here
    return 0 if all_ours else 1
