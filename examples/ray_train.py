"""Train on the machines of a Ray cluster: Ray Train starts the processes, Lightning trains in them.

    python examples/ray_train.py --workers 8 --nodes 2 -- --dataset ucf101 --root UCF-101

What follows -- are the flags of `actionrec train`. --workers is the number of processes on all
nodes together, one for each GPU; data and --output lie on a disk that all nodes share.
"""

import argparse

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def train_here(settings: dict) -> None:
    """Run in each process, which Ray Train has given its rank and has made meet the others."""
    from actionrec.cli.main import main

    flags = [*settings["flags"], "--devices", str(settings["devices"])]
    code = main(["train", *flags, "--nodes", str(settings["nodes"])])
    if code:
        raise RuntimeError(f"actionrec train ended with exit code {code}; it said why above.")


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--nodes", type=int, default=1)
parser.add_argument("--address", help="of the cluster; by default Ray is started here")
parser.add_argument("--gpu", action="store_true", help="give each process a GPU")
parser.add_argument("flags", nargs="*", help="of `actionrec train`")
options = parser.parse_args()

ray.init(options.address or "local")
settings = {
    "flags": options.flags,
    "nodes": options.nodes,
    "devices": options.workers // options.nodes,
}
scaling = ScalingConfig(num_workers=options.workers, use_gpu=options.gpu)
TorchTrainer(train_here, train_loop_config=settings, scaling_config=scaling).fit()
