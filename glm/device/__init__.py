"""The device to compute on: the choice of it, what it can do, and the settings that it is fast with."""
