"""`rigface pair` and `rigface encode`: make training examples from a dataset of faces."""
