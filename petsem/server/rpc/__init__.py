"""The gRPC and Connect doors over the services."""
