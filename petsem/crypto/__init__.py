"""Keys and envelopes: pure functions over bytes, no files, no clocks."""
