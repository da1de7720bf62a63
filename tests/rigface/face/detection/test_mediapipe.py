"""Imports of MediaPipe."""

import subprocess
import sys


def test_detector_imports_no_plots_and_leaves_the_real_module_to_others():
    code = """
import sys
from rigface.face.detection.mediapipe import MediapipeDetector
MediapipeDetector()
assert not {"matplotlib", "sounddevice"} & sys.modules.keys()
from mediapipe.tasks.python.vision import drawing_utils
assert drawing_utils.plt.figure is sys.modules["matplotlib.pyplot"].figure
"""
    subprocess.run([sys.executable, "-c", code], check=True)
