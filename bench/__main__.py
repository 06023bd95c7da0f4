"""`python -m recscale` is the command line."""

from recscale.cli import main

main()
