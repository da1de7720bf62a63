"""List, open and cache input files."""
