"""How the networks that ship are trained: a recipe in TOML, one command, weights with their whole history."""
