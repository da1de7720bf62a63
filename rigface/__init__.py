"""RigFace on Ray: change the pose, expression and light of a face and keep the person.

The library under `pipelines/` and `serve/`. It uses neither Ray nor HTTP, and importing it is cheap: numpy and the
standard library, no torch.
"""

__version__ = "0.1.0"
