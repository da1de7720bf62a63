"""A dataset of faces in the formats of other programs: `rigface export`."""
