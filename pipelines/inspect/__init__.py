"""The page of `rigface inspect`: numbers (`census`, `inputs`), pictures (`gallery`), drawings (`charts`), and its text."""
