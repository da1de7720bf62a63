"""How an edit is judged: pure functions of arrays, a judge that looks at pictures, and a report card.

Path: pictures -> `judge.Judge` -> `measure.measure` (a row per edit) -> `card.card` (a row per model and edit) ->
`report` (Markdown, JSON, Parquet, HTML). The mathematics lies in `identity`, `geometry`, `light`, `image`, `gain`,
`leakage`, `video` and `statistics`, and knows nothing of pictures' origin.

The rules every number here obeys:

* failures count: an output without a face is in the failure rate, and every mean is also given with failures at
  their worst value;
* intervals are drawn over source identities, paired where two models share pairs;
* every table has its control rows (`controls`), and every number names the extractor it came from;
* two tracks: *in loop*, the estimator that the model was conditioned on, and *independent*, another one.
"""
