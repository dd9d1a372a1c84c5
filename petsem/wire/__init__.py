"""Messages on the wire: protobuf for gRPC and Connect, msgspec structs for HTTP."""
