"""Datasets of faces, read as one table: whatever objects, row groups and side tables they lie in."""
