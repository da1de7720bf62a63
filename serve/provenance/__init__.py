"""Mark, sign and encode edited images."""
