"""Chaos: a running node whose every part is killed, cut off and lied to, and an oracle that counts what is left."""
