"""Convert a dataset of faces to the coefficients of another reconstructor, from its stored crops."""
