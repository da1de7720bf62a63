"""Read, decode, write and join video files."""
