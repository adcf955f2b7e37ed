"""Latent spaces of variational autoencoders, as rows: shape and patch."""

from __future__ import annotations

from nanogen.latents import LatentSpec

SD_VAE_EMA = LatentSpec(
    channels=4,
    stride=8,
    patch_size=2,
    title="Stable Diffusion VAE, EMA weights (stabilityai/sd-vae-ft-ema)",
    create=None,
    unavailable="its autoencoder is not wired in yet; `nanogen show` and `nanogen bench --synthetic` know its shape",
)
