"""HTML pages in one file each: templates, style sheet and charts that all reports share."""
