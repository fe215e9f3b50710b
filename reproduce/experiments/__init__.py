"""One module per table, figure or demonstration."""
