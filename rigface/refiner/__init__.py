"""The small network that corrects previews."""
