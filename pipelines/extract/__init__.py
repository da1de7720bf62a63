"""`rigface extract`: videos and pictures in, a Parquet dataset of faces out."""
