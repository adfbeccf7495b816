"""Reading what Paddle, torch and Megatron pickled, without running it. Needs no Paddle and no torch."""
