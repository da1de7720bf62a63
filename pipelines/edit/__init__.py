"""`rigface edit|animate|sliders|strip`: edit pictures and videos from the command line."""
