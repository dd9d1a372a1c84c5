"""The stream between two nodes, as rules without sockets: what either side may say when."""
