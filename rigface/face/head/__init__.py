"""3D head models: the open head, FLAME, and the readers of their files."""
