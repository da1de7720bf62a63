"""Measurements of a dataset's faces as tables: `rigface study`."""
