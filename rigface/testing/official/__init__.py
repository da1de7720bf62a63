"""Stand-ins for the official downloads: their layouts, key names, shapes and quirks with seeded numbers of our own."""
