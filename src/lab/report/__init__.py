"""Which run won, and by how much: tables and a page over recorded runs; reads neither torch nor checkpoints."""
