"""`python -m sweeps` is the same as the command `lagvae`."""

from sweeps.cli.app import main

main()
