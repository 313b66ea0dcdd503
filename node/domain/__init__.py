"""What the node knows, as frozen facts and legal moves; standard library only."""
