"""The network-free editor: warp, relight, fill in and composite."""
