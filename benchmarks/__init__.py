"""This project beside PaddleNLP's own GLM: the same weights, the same batches, one run.

    python -m benchmarks            # the shape of glm-large-chinese, about 12 minutes on two cores
    python -m benchmarks --quick    # a tiny shape, to see that everything works

The parent process (`__main__`, `plan`, `report`) imports no Paddle. Each measurement is a process of its own
(`worker`), so that one may start untuned beside others, and none inherits another's memory.
"""
