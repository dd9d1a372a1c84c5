"""The boot client."""
