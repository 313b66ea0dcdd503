"""`python -m node.cli`: how the supervisor starts a role."""

from node.cli import main

main()
