"""`rigface capacity`: estimate and simulate what a cluster needs."""
