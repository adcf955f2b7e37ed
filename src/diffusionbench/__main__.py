"""`python -m diffusionbench`."""

from diffusionbench.cli import main

main()
