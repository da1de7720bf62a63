"""Networks of published face models, to be filled with their authors' weights."""
