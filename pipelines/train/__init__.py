"""`rigface train`: train the model on Ray Train or in this process."""
