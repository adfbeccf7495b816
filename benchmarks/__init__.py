"""This project beside its peers: the same weights, the same prompts, one run on one machine.

    make bench                        # both environments, then everything: about 40 minutes on two idle cores
    python -m benchmarks --quick      # tiny shapes, to see that everything works
    python -m benchmarks --rows decode-int4 start

Every side is a process of its own (`worker`), and those that are compared take turns, run by run, so that a machine
that slows down slows all of them. Peers that need torch live in an environment of their own (requirements-bench.txt).
The parent process (`__main__`, `plan`, `report`) imports no framework, and the peers' processes nothing of glm.
"""
