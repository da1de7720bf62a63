"""The page of `rigface inspect`: statistics, gallery, cards and their layout."""
