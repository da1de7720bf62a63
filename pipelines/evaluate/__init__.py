"""`rigface evaluate`: measure models on held-out examples."""
