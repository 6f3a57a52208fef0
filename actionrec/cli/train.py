"""`actionrec train` and `actionrec tune`: networks for your own classes."""

from pathlib import Path

from actionrec.cli.parser import complain
from actionrec.config import TrainConfig


def train(config: TrainConfig) -> int:
    """Train a video classifier.

    For UCF-101 the defaults are those that the paper states; batch size, jitter and flips are ours.
    For few videos of your own they are those of a measured recipe, which is told.

    Examples:
        actionrec train --config demo.yaml
        actionrec train --dataset ucf101 --root UCF-101 --split 1
        actionrec train --dataset folder --root my_videos
        actionrec train --dataset folder --root my_videos --train-from head
        actionrec train --config runs/mine/config.yaml --output runs/again
    """
    from actionrec.devices import is_first
    from actionrec.training.run import train as run

    results = run(config)
    if not is_first():
        return 0
    output = results["output"]
    head_alone = "cross_validation" in results
    for name in ("last",) if head_alone else ("best", "last"):
        result = results[name]
        clip = result["clip"]
        # Runs of earlier versions have none.
        mean = f", mean class accuracy {clip['mean_class']:.1%}" if "mean_class" in clip else ""
        title = "fitted head" if head_alone else f"{name} epoch ({result['epoch']})"
        precision = f"mAP {clip['map']:.1%}, " if "map" in clip else ""
        print(
            f"{title}: {precision}clip-level Top-1 {clip['top1']:.1%}, "
            f"Top-5 {clip['top5']:.1%}{mean}, one clip of each of {clip['n']} validation videos"
        )
    print(f"model: {output}/model.safetensors")
    # A run that was killed after its last epoch has none.
    if Path(output, "report.html").is_file():
        print(f"report: {output}/report.html")
    if bad := len(results["bad_videos"]):
        complain(f"{bad} videos could not be read and were left out: see {output}/bad_videos.json.")
    return 0


def tune(what: str, config: TrainConfig) -> int:
    """Find a learning rate or batch size for a training run.

    Takes the flags of `train`. lr: trains for 100 steps with a learning rate that rises from 1e-5
    to 1, prints the rate at which the loss falls fastest, and draws the curve beside the --output
    folder. batch_size: doubles the batch size until the memory is full. Both are starting points
    (Lightning's tuner).

    Examples:
        actionrec tune lr --config demo.yaml
        actionrec tune batch_size --dataset ucf101 --root UCF-101 --block snl
    """
    from actionrec.training.tuning import find_batch_size, find_learning_rate

    if what == "batch_size":
        print(f"batch_size: {find_batch_size(config)}")
        return 0
    suggestion, curve = find_learning_rate(config)
    print(f"lr: {suggestion:.2g}")
    print(f"curve: {curve}")
    return 0
