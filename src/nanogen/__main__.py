"""`python -m nanogen` and `torchrun -m nanogen`."""

from nanogen.cli import main

main()
