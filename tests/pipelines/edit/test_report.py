"""Notes of an edit's report."""

from pipelines.edit.report import warning_notes
from rigface.edits import EditWarning


def test_warnings_become_lines_with_their_ranges_and_the_number_of_the_face():
    turned = EditWarning("unseen-side", "It hides.", {"yaw_deg": (-2.0, 40.0)})
    covered = EditWarning("uncertain-face", "It is covered.")
    assert warning_notes([[turned]]) == ("It hides. It would hold for yaw -2 to 40.",)
    assert warning_notes([[], [turned, covered]])[1] == "face 1: It is covered."
