"""Runs that even out the load of experts (glm/model/balance.py), where the flags ask for it."""

import paddle
from paddlenlp.trainer import TrainerCallback

from glm.errors import UsageError
from glm.model.balance import Balance
from glm.model.lora import GLMLoRAModel


class BiasCallback(TrainerCallback):
    """Moves the routers' biases at the end of each step, by what all processes have counted.

    Args:
        rate: see `Balance.move_biases`.
    """

    def __init__(self, balance: Balance, rate: float):
        self.balance, self.rate = balance, rate

    def on_step_end(self, args, state, control, **kwargs) -> None:
        loads = self.balance.loads
        if args.world_size > 1:  # tensor-parallel ranks have counted the same tokens, which changes no sign
            loads = [load.clone() for load in loads]
            for load in loads:
                paddle.distributed.all_reduce(load)
        self.balance.move_biases(self.rate, loads)


def watch_routers(trainer, options) -> None:
    """Raises UsageError where the flags ask for what a model without experts, or an adapter, cannot have."""
    rate, weight = options.router_bias_update_rate, options.router_balance_loss
    for name, value in (("router_bias_update_rate", rate), ("router_balance_loss", weight)):
        if value < 0:
            raise UsageError(f"{name} is {value}, and must be at least 0")
        if value and not trainer.model.config.n_routed_experts:
            raise UsageError(f"{name} is {value}, and this model has no experts: leave it out")
    lora = isinstance(trainer.model, GLMLoRAModel)
    if rate and lora:
        raise UsageError(f"router_bias_update_rate is {rate}, and LoRA leaves the routers alone: leave it out")
    if rate or weight:
        balance = Balance(trainer.model.model if lora else trainer.model, weight)
        if rate:
            trainer.add_callback(BiasCallback(balance, rate))
