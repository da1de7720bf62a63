"""The jobs, on Ray: videos in, a dataset out. `rigface` does the seeing; this package cuts the work and keeps count."""
