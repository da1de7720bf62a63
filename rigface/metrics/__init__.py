"""Metrics of edits: pure functions of arrays. `rigface/evaluation` applies them to pictures.

Path: pictures -> `FaceEstimator` -> `measure_edits` (a row per edit) -> `make_card` (a row per model and edit) ->
`report` (Markdown, JSON, Parquet, HTML).

Rules of the evaluation protocol:

* failures count: an output without a face is in the failure rate, and every mean is also given with failures at
  their worst value;
* intervals are drawn over source identities, paired where two models share pairs;
* every table has its control rows (`controls`), and every number names the extractor it came from;
* two tracks: *in loop*, the estimator that the model was conditioned on, and *independent*, another one.
"""
