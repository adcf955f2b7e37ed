"""The learning rate as a function of the step, and updates by one or more optimizers that must be finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusionbench.errors import ConfigError, RunError
from nanogen import parallel


class NonFiniteLoss(RunError):  # noqa: N818
    """A loss or gradient is not finite; the step and the term are named, and no update was made."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: constant until `decay_start`, then linear to `final_factor` times it at `decay_end`.

    The warmup is a factor of it, also where it overlaps the decay.

    Attributes:
        lr: the peak rate.
        warmup: steps of the linear warmup, (k + 1) / warmup at step k; 0 and 1 are none.
        decay_start: first step of the decay, which still has the peak rate.
        decay_end: first step with the final rate; not after `decay_start`: the rate drops there at once.
        final_factor: share of `lr` that stays.
    """

    lr: float
    warmup: int
    decay_start: int
    decay_end: int
    final_factor: float

    def __call__(self, step: int) -> float:
        """Rate of the update that follows `step` finished updates."""
        lr = self.lr * min(1.0, (step + 1) / max(1, self.warmup))
        if step < self.decay_start:
            return lr
        if step >= self.decay_end:
            return lr * self.final_factor
        done = (step - self.decay_start) / (self.decay_end - self.decay_start)
        return lr * (1 - (1 - self.final_factor) * done)


class Updater:
    """Makes updates and refuses those that are not finite, without waiting for the device.

    A torch optimizer that takes `found_inf` skips an update on the device where that is 1. In mode "stop" the flag is
    sticky: after a refused update nothing moves until the host, one step later at most, reads it and raises. In mode
    "skip" only the update at hand is skipped, and counted.

    Args:
        optimizers: each parameter is in one of them.
        grad_clip: largest global L2 norm of the gradient; inf is off.
        stop: whether a non-finite update ends training.

    Raises:
        ConfigError: if an optimizer cannot skip an update.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], grad_clip: float, stop: bool) -> None:
        for optimizer in optimizers:
            if not getattr(optimizer, "_step_supports_amp_scaling", False):
                raise ConfigError(
                    f"optimizer {type(optimizer).__name__} takes no `found_inf`, so it would make updates that are not "
                    "finite. Use one of torch's fused optimizers."
                )
        self.optimizers = optimizers
        self.parameters = [
            weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]
        ]
        self.grad_clip = grad_clip
        self.stop = stop
        self.skipped = torch.zeros((), device=self.parameters[0].device)
        self._refused = torch.zeros_like(self.skipped)
        # Step, flag on its way to the host, the event that says when it is there (None: it is), terms.
        self._pending: tuple[int, Tensor, torch.cuda.Event | None, dict[str, Tensor]] | None = None

    def step(self, step: int, lr: float, terms: dict[str, Tensor]) -> Tensor:
        """Clip, then update unless something is not finite; gradients are freed.

        Args:
            step: finished updates before this one.
            lr: learning rate.
            terms: name -> mean loss of this step, for the check and the message.

        Returns:
            The gradient's norm before clipping, on the device.

        Raises:
            NonFiniteLoss: in mode "stop", for this step (CPU) or the one before (CUDA).
        """
        self.check()
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        # Of all processes together where each holds a part.
        norm = parallel.full(nn.utils.get_total_norm(gradients, foreach=True))
        nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm, foreach=True)
        finite = torch.isfinite(norm)
        for term in terms.values():
            finite = finite & torch.isfinite(term)
        refused = parallel.all_max((~finite).float())
        self.skipped = self.skipped + refused
        self._refused = torch.maximum(self._refused, refused) if self.stop else refused
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            # The protocol by which torch's gradient scaler tells an optimizer to leave everything as it is.
            optimizer.found_inf = self._refused  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.stop:
            flag, event = self._refused, None
            if flag.device.type == "cuda":
                flag = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
            self._pending = step, flag, event, terms
            if event is None:
                self.check()
        return norm

    def check(self) -> None:
        """Read the flag of the last step that was not read yet; NonFiniteLoss if that step's update was refused."""
        if self._pending is None:
            return
        (step, flag, event, terms), self._pending = self._pending, None
        if event is not None:
            event.synchronize()
        if flag.item():
            named = [f"term '{name}' is {value.item():g}" for name, value in terms.items() if not value.isfinite()]
            raise NonFiniteLoss(
                f"{', '.join(named) or 'the norm of the gradient is not finite'} at step {step} "
                f"(rank {parallel.rank()}). No update was made."
            )
