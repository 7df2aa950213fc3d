"""Floor 2: one file or folder a server; siblings that never import each other."""
