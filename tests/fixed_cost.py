"""What a run costs outside of its rounds, beside a loop written by hand: CPU seconds of processes.

    python -m tests.fixed_cost [--repeats 3] [--backend inline]

A script and not a test. Each of both runs with one round and with four, in turn; what is left at no
round is fixed. It is CPU time: a busy machine changes it less. Work: 10 clients with 64 images of
32 x 32, a small CNN, batches of 32, one epoch, 260 test images.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCENARIO = """\
name: work
data: {name: isic2020, size: 32, embedded: {images: 1000}, split: {val: 0.1, test: 0.26}}
federation: {clients: 10, partition: iid}
model: cnn
strategy: fedavg
client: {name: supervised, batch_size: 32, epochs: 1, learning_rate: 0.01}
"""

LOOP = """\
import sys
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
data = np.load(sys.argv[1])
train, test = torch.from_numpy(data["train"]), torch.from_numpy(data["test"])
labels, truth = torch.from_numpy(data["labels"]), torch.from_numpy(data["truth"])
layers = []
for inner, outer in ((3, 32), (32, 64), (64, 64)):
    layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 42), nn.ReLU(), nn.Linear(42, 2))
state = {name: value.clone() for name, value in model.state_dict().items()}
for _ in range(int(sys.argv[2])):
    total = {name: torch.zeros_like(value) for name, value in state.items()}
    for client in range(10):
        model.load_state_dict(state)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in (64 * client + torch.randperm(64)).split(32):
            loss = F.cross_entropy(model(train[batch].float() / 255), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            total[name] += value / 10
    model.load_state_dict(state := total)
    model.eval()
    with torch.no_grad():
        right = model(test.float() / 255).argmax(1) == truth
    print(right.float().mean().item(), flush=True)
torch.save(state, sys.argv[1] + ".pt")
"""


def seconds(command: list[str]) -> float:
    """CPU seconds of a process and of those it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and print a line for each repeat and the medians."""
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", default="inline", choices=("auto", "inline"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenario, loop, data = (Path(folder) / name for name in ("work.yaml", "loop.py", "d.npz"))
        scenario.write_text(SCENARIO)
        loop.write_text(LOOP)
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (900, 3, 32, 32), np.uint8)
        labels = draw.integers(0, 2, 900)
        parts = {"train": images[:640], "test": images[640:]}
        np.savez(data, **parts, labels=labels[:640], truth=labels[640:])
        run = [sys.executable, "-m", "fedsim", "run", str(scenario), "--runs", folder]
        run += ["--backend", arguments.backend]
        by_hand = [sys.executable, str(loop), str(data)]
        seconds([*run, "rounds=1"])  # Prepares the images.
        found = []
        for _ in range(arguments.repeats):
            fixed = []
            for command, rounds in ((by_hand, ("1", "4")), (run, ("rounds=1", "rounds=4"))):
                one, four = (seconds([*command, word]) for word in rounds)
                fixed.append(one - (four - one) / 3)
            found.append((*fixed, fixed[1] / fixed[0]))
            print("by hand {:.2f} s, fedsim {:.2f} s: {:.2f}".format(*found[-1]), flush=True)
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        print("medians: by hand {:.2f} s, fedsim {:.2f} s: {:.2f}".format(*medians))


if __name__ == "__main__":
    main()
