"""Macaroon tokens: format, caveats, verification. Pure: no files, no clocks, no sockets."""
