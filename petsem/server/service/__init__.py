"""What the node does, whichever door a request came through."""
