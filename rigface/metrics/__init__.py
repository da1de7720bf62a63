"""Metrics of edits: pure functions of arrays. `rigface/evaluation` applies them to pictures.

Path: pictures -> `FaceEstimator` -> `measure_edits` (a row per edit) -> `make_card` (a row per model and edit) ->
`report` (Markdown, JSON, Parquet, HTML).

Rules of the evaluation protocol:

* failures count: an output without a face is in the failure rate, and every mean is also given with failures at
  their worst value;
* intervals are drawn over source identities, paired where two models share pairs;
* every table has its control rows (`controls`), and every number names the extractor it came from;
* readings of the loop's own estimator and of strangers are told apart, and a claim needs both.
"""
