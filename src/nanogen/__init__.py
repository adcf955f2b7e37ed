"""NanoGen trains and samples diffusion transformers."""
