"""The HTTP door: Litestar routes over the services."""
