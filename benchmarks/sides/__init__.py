"""The sides of the comparison, a module each with a class `Side`; see `benchmarks.side.SideProtocol`."""
