"""Judge edits: estimators, samples, measurements and the report card."""
