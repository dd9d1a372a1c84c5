"""The formats, sessions and rules of replication; it carries what it cannot decrypt."""
