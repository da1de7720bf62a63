"""The page of `rigface inspect`: numbers (`statistics`, `inputs`), pictures (`gallery`), drawings (`charts`),
and its text."""
