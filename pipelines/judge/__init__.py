"""Judge the results of any editor: a table of sources, outputs and what was asked in, a report card out."""
