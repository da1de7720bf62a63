"""Imports of MediaPipe."""

import subprocess
import sys


def test_detector_imports_no_plots_and_no_torch_and_leaves_the_real_module_to_others():
    code = """
import sys
from rigface.face.detection.mediapipe import MediapipeDetector
MediapipeDetector()
from rigface.face.identity.dlib_embedding import DlibIdentity
DlibIdentity()  # both are in each process that detects: torch comes with the first vector, in another one
assert "torch" not in sys.modules
assert not {"matplotlib", "sounddevice"} & sys.modules.keys()
from mediapipe.tasks.python.vision import drawing_utils
assert drawing_utils.plt.figure is sys.modules["matplotlib.pyplot"].figure
"""
    subprocess.run([sys.executable, "-c", code], check=True)
