"""Lightning: what the applications need of a node, and the nodes that give it."""
