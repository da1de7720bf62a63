"""Connect to Ray, submit jobs and pool actors."""
