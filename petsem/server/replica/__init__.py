"""How a node follows another, keeps what it gets, and feeds it to others."""
