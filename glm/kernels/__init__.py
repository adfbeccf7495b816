"""Own kernels of a CPU: what Paddle computes there with one thread, or in many passes over memory.

`sources/` has them in C++, the modules beside it their gradients and names. They are compiled once, for the processor
of the machine (build.py), and take float32 tensors of a CPU; whatever asks for them asks `serves` first, and has the
plain operators of Paddle for all else: other devices and dtypes, graphs that are traced, a machine without a compiler.
"""

from glm.kernels.library import applied, empty, fault, is_chosen_off, run, serves

__all__ = ["applied", "empty", "fault", "is_chosen_off", "run", "serves"]
