"""The peer port: node to node, always mutual TLS with the cluster's own certificates."""
