"""The first stage: training of autoencoders. `first_stage.py` is the training, the other files its losses."""
