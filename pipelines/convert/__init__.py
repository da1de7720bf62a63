"""Convert a dataset of faces: other coefficients from its stored crops, relative uris, or the present layout."""
