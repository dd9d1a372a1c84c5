"""The node: database, writer, services and their doors (HTTP, gRPC, Connect)."""
