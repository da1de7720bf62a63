"""Find and track faces in pictures and videos."""
