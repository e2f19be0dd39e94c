"""Test continuous kernels at other resolutions than that of the training, with and without set_resolution.

python benchmarks/ck_resolution.py images                      a small network on outlines of shapes, trained at 32 x 32
python benchmarks/ck_resolution.py sequences CHECKPOINT DATA   CKCNN on MNIST's sequences at half and double rate

CHECKPOINT is a checkpoint of configs/sequences/ckcnn_smnist.py, DATA the folder of MNIST's test files. Both commands
print a table and write JSON.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

RATIOS = (0.5, 1.0, 2.0)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=['images', 'sequences'])
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('data', nargs='?', type=Path)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--images', type=int, default=2000, help='training images, or test sequences')
    parser.add_argument('--omega-0', type=float, default=10.0)
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/ck_resolution'))
    args = parser.parse_args()
    if args.kind == 'sequences' and args.data is None:
        parser.error('sequences needs CHECKPOINT and DATA')
    return args


def shapes(count: int, seed: int, side: int):
    """Return silhouettes of single built-in shapes (count, 1, side, side) and their classes."""
    import numpy as np
    import torch

    from mmkerv.datasets.scenes import CLASSES, draw_single

    rng = np.random.default_rng(seed)
    labels = torch.arange(count) % len(CLASSES)
    drawn = np.stack([draw_single(rng, side, int(label)).instances for label in labels])
    return torch.from_numpy(drawn).float()[:, None] - 0.5, labels


def network(omega_0: float):
    """Build a network of three 9 x 9 continuous kernels and a global average pooling."""
    from torch import nn

    from mmkerv.ops import CKConv2d

    options = {'padding': 4, 'bias': False, 'omega_0': omega_0}
    return nn.Sequential(
        *(CKConv2d(1, 16, 9, **options), nn.BatchNorm2d(16), nn.ReLU()),
        *(CKConv2d(16, 32, 9, separable=True, **options), nn.BatchNorm2d(32), nn.ReLU()),
        *(CKConv2d(32, 32, 9, separable=True, **options), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)),
    )


def accuracy(model, images, labels, resolution: float) -> float:
    """Return the test accuracy in percent, with the kernels sampled at a resolution."""
    import torch

    from mmkerv.ops import frozen_kernels, set_resolution

    set_resolution(model, resolution)
    with torch.no_grad(), frozen_kernels(model):
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(100), labels.split(100)))
    set_resolution(model, 1.0)
    return 100 * right / len(labels)


def images_study(args: argparse.Namespace) -> list[dict]:
    """Train at 32 x 32, test at 16, 32 and 64."""
    import torch
    import torch.nn.functional as F

    coarse = {ratio: int(2 / ratio) for ratio in RATIOS}
    tests = {ratio: (F.avg_pool2d(x, coarse[ratio]), y) for x, y in [shapes(900, 1, 64)] for ratio in RATIOS}
    images, labels = shapes(args.images, 0, 64)
    images = F.avg_pool2d(images, 2)
    rows = []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        model = network(args.omega_0)
        optimizer = torch.optim.Adam(model.parameters(), args.lr)
        steps = args.epochs * (len(images) // 50)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, steps)
        for _ in range(args.epochs):
            for batch in torch.randperm(len(images)).split(50)[: len(images) // 50]:
                optimizer.zero_grad()
                x = images[batch].flip(3) if torch.rand(()) < 0.5 else images[batch]
                F.cross_entropy(model(x), labels[batch]).backward()
                optimizer.step()
                schedule.step()
        model.eval()
        for ratio in RATIOS:
            set_, unset = (accuracy(model, *tests[ratio], resolution) for resolution in (ratio, 1.0))
            rows.append({'seed': seed, 'ratio': ratio, 'set_resolution': set_, 'without': unset})
            print(
                f'seed {seed}, {int(32 * ratio)} x {int(32 * ratio)}: {set_:.1f} % (without {unset:.1f} %)', flush=True
            )
    return rows


def sequences_study(args: argparse.Namespace) -> list[dict]:
    """Test a CKCNN at half the rate (every other pixel) and at double (linear interpolation)."""
    import torch
    import torch.nn.functional as F
    from mmengine.config import Config
    from torchvision.datasets.mnist import read_image_file, read_label_file

    from mmkerv.deploy.trained_model import build_model
    from mmkerv.engine import safe_load

    root = Path(__file__).resolve().parents[1]
    cfg = Config.fromfile(root / 'configs' / 'sequences' / 'ckcnn_smnist.py')
    model = build_model(cfg, safe_load(args.checkpoint)['state_dict'], args.checkpoint)

    class FirstOutput(torch.nn.Module):
        def forward(self, features: tuple):
            return features[0]

    network = torch.nn.Sequential(model.backbone, FirstOutput(), model.head.fc)
    images = read_image_file(str(args.data / 't10k-images-idx3-ubyte'))[: args.images]
    labels = read_label_file(str(args.data / 't10k-labels-idx1-ubyte'))[: args.images]
    steps = ((images.flatten(1)[:, None] / 255) - 0.1307) / 0.3081
    # The last sample, which the classifier reads, must be among those that are kept.
    rates = {
        0.5: steps[..., 1::2],
        1.0: steps,
        2.0: F.interpolate(steps, size=2 * 784 - 1, mode='linear', align_corners=True),
    }
    rows = []
    for ratio, x in rates.items():
        set_, unset = (accuracy(network.eval(), x, labels, resolution) for resolution in (ratio, 1.0))
        rows.append({'ratio': ratio, 'set_resolution': set_, 'without': unset})
        print(f'rate {ratio:g}, {x.shape[-1]} samples: {set_:.2f} % (without {unset:.2f} %)', flush=True)
    return rows


def main() -> None:
    """Run one study."""
    args = parse_args()

    import torch

    rows = images_study(args) if args.kind == 'images' else sequences_study(args)
    args.out.mkdir(parents=True, exist_ok=True)
    options = {key: str(value) for key, value in vars(args).items() if key != 'out'}
    record = {'date': str(date.today()), 'machine': platform.processor(), 'torch': torch.__version__}
    (args.out / f'{args.kind}.json').write_text(json.dumps({**record, 'options': options, 'rows': rows}, indent=1))


if __name__ == '__main__':
    main()
