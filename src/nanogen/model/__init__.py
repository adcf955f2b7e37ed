"""The one backbone: `dit.py` is the network, `shape.py` its numbers (without torch), `released.py` other layouts."""
