"""The `rigface` command line."""
