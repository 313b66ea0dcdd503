"""Hostile bytes by the million at the front door: `make fuzz`."""
