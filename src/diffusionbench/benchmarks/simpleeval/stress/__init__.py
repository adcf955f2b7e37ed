"""Attacks on SimpleEval and on two small learned metrics (`diffusionbench stress`)."""
