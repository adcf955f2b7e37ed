"""Train under torchrun as `nanogen train` does, and count the gradient reductions of each micro-batch.

Arguments: the file for the counts (JSON, written by the main process), then those of `nanogen`.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from nanogen import parallel
from nanogen.cli import main

wrap, reductions = parallel.wrap, []


def counting(module, *sharing):
    net = wrap(module, *sharing)

    def hook(state, bucket):
        reductions[-1] += 1
        if dist.get_rank() == 0:
            Path(counts).write_text(json.dumps(reductions))
        return allreduce_hook(None, bucket)

    net.register_comm_hook(None, hook)
    net.register_forward_pre_hook(lambda module, given: reductions.append(0))
    return net


counts = sys.argv.pop(1)
parallel.wrap = counting
main()
