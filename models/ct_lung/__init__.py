"""See card.toml."""
