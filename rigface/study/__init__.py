"""Measurements for the study of faces, derived from the stored columns of a dataset."""
