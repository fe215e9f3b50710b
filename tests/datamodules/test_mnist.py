import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from datamodules import MNIST
from datamodules.deskewing import deskewed
from datamodules.mnist import BatchLoader, EpochSampler, ImageSet, ShuffledLoader


@pytest.fixture(scope="module")
def digits(mnist_root: str) -> MNIST:
    data = MNIST(root=mnist_root, seed=0)
    data.setup()
    return data


@pytest.fixture
def numbered() -> ImageSet:
    """103 images of noise, with margin, whose labels are their numbers."""
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(256, (103, 28, 28), dtype=torch.uint8, generator=noise)
    return ImageSet(F.pad(images, [4] * 4), torch.arange(103))


def loader(
    data: ImageSet, seed: int = 0, epoch: int = 0, rank: int = 0, ranks: int = 1
) -> ShuffledLoader:
    share = slice(rank * 20 // ranks, (rank + 1) * 20 // ranks)
    batches = ShuffledLoader(data, 20, EpochSampler(data, seed), share)
    batches.sampler.set_epoch(epoch)
    return batches


def order(batches: ShuffledLoader) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


def test_an_epoch_has_468_batches_of_scaled_floats(digits: MNIST) -> None:
    batches = digits.train_dataloader()
    assert len(batches) == 468
    assert sum(1 for _ in batches) == 468
    images, labels = next(iter(batches))
    assert images.shape == (128, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert images.max() == 1
    assert labels.shape == (128,)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("size", [1000, 768])
def test_every_test_image_comes_once_in_order(digits: MNIST, size: int) -> None:
    from torchvision import datasets

    raw = datasets.MNIST(digits.root, train=False)
    data = MNIST(root=str(digits.root), test_batch_size=size)
    batches = list(data.test_dataloader())
    assert len(batches) == len(data.test_dataloader()) == -(-10_000 // size)
    assert torch.equal(torch.cat([labels for _, labels in batches]), raw.targets)
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(images[:, 0].mul(255).round().to(torch.uint8), raw.data)


def test_without_augmentation_images_and_labels_stay_together(mnist_root: str) -> None:
    from torchvision import datasets

    raw = datasets.MNIST(mnist_root, train=True)
    data = MNIST(root=mnist_root, augment=False, seed=0)
    batches = data.train_dataloader()
    chosen = batches.sampler.order()[:128]
    images, labels = next(iter(batches))
    assert torch.equal(images[:, 0], raw.data[chosen] / 255)
    assert torch.equal(labels, raw.targets[chosen])


def test_a_crop_equals_padding_and_slicing_image_by_image(numbered: ImageSet) -> None:
    batches = loader(numbered)
    offsets = batches.sampler.offsets()
    assert offsets.unique().tolist() == list(range(9))
    for images, labels in batches:
        for image, number in zip(images, labels.tolist(), strict=True):
            top, left = offsets[number].tolist()
            padded = F.pad(numbered.images[number, 4:32, 4:32], [4] * 4)
            assert torch.equal(image[0], padded[top : top + 28, left : left + 28] / 255)


def test_an_incomplete_last_batch_is_dropped_in_training_alone(numbered: ImageSet) -> None:
    assert [len(labels) for _, labels in loader(numbered)] == [20] * 5
    assert [len(labels) for _, labels in BatchLoader(numbered, 20)] == [20] * 5 + [3]


@pytest.mark.parametrize("ranks", [2, 4, 5])
def test_a_global_batch_does_not_depend_on_the_number_of_devices(
    numbered: ImageSet, ranks: int
) -> None:
    shares = [loader(numbered, epoch=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    for (images, labels), *parts in zip(loader(numbered, epoch=3), *shares, strict=True):
        assert {len(part[1]) for part in parts} == {20 // ranks}
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[1] for part in parts]))


def test_order_and_crops_depend_on_seed_and_epoch_alone(numbered: ImageSet) -> None:
    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    orders = [order(loader(numbered, *key)) for key in keys]
    crops = [loader(numbered, *key).sampler.offsets().tolist() for key in keys]
    for draws in (orders, crops):
        assert all(draws[i] != draws[j] for i in range(4) for j in range(i))
    torch.manual_seed(99)
    assert orders == [order(loader(numbered, *key)) for key in keys]


def test_a_loader_can_be_iterated_again(numbered: ImageSet) -> None:
    batches = loader(numbered)
    assert order(batches) == order(batches)


def test_the_seed_defaults_to_that_of_seed_everything(
    digits: MNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(seed: int | None) -> Tensor:
        data = MNIST(root=str(digits.root), seed=seed)
        data._train = digits._train
        return next(iter(data.train_dataloader()))[0]

    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert torch.equal(first(None), first(7))
    assert not torch.equal(first(None), first(0))
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert torch.equal(first(None), first(0))


def test_the_folder_comes_from_the_argument_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPRODUCE_DATA", "elsewhere")
    assert MNIST(root="here").root == Path("here")
    assert MNIST().root == Path("elsewhere")
    monkeypatch.delenv("REPRODUCE_DATA")
    assert MNIST().root == Path("data")


def test_impossible_sizes_are_refused_with_a_remedy(digits: MNIST) -> None:
    with pytest.raises(ValueError, match="from 1 to 60000"):
        MNIST(batch_size=0)
    with pytest.raises(ValueError, match=r"is 10001\. Choose a number from 1 to 10000"):
        MNIST(test_batch_size=10_001)
    data = MNIST(root=str(digits.root), batch_size=100)
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"--data\.batch_size to a multiple of 3"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="devices=1"):
        data.test_dataloader()


class Recorder(pl.LightningModule):
    """Trains one number and notes the sum of every batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[float]] = {}
        self.tested = 0

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch[0].sum().item())
        return self.weight

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.tested += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    quiet |= {"limit_train_batches": 3, "max_epochs": 2, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", devices=1, **{**quiet, **options})


@pytest.fixture(scope="module")
def two_epochs(digits: MNIST) -> dict[int, list[float]]:
    model = Recorder()
    trainer().fit(model, digits)
    return model.seen


def test_the_trainer_gives_every_epoch_its_own_order(
    digits: MNIST, two_epochs: dict[int, list[float]]
) -> None:
    for epoch in (0, 1):
        batches = digits.train_dataloader()
        batches.sampler.set_epoch(epoch)
        expected = [images.sum().item() for (images, _), _ in zip(batches, range(3), strict=False)]
        assert two_epochs[epoch] == expected
    assert two_epochs[0] != two_epochs[1]


def test_resuming_after_an_epoch_goes_on_with_the_next_order(
    digits: MNIST, two_epochs: dict[int, list[float]], tmp_path: Path
) -> None:
    first = trainer(max_epochs=1)
    first.fit(Recorder(), digits)
    first.save_checkpoint(tmp_path / "one.ckpt")
    model = Recorder()
    trainer().fit(model, digits, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert model.seen == {1: two_epochs[1]}


@pytest.mark.parametrize("epoch", [0, 1])
def test_resuming_inside_an_epoch_repeats_and_skips_nothing(
    digits: MNIST, two_epochs: dict[int, list[float]], tmp_path: Path, epoch: int
) -> None:
    step = 3 * epoch + 2
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    trainer(enable_checkpointing=True, callbacks=[save]).fit(Recorder(), digits)
    model = Recorder()
    checkpoint = tmp_path / f"step={step}.ckpt"
    trainer().fit(model, digits, ckpt_path=checkpoint, weights_only=True)
    rest = {epoch: two_epochs[epoch][2:]}
    assert model.seen == rest | {later: two_epochs[later] for later in range(epoch + 1, 2)}


def test_the_trainer_limits_batches_and_does_not_ask_for_workers(digits: MNIST) -> None:
    model = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lightning = trainer(limit_train_batches=0.01, limit_test_batches=2, max_epochs=1)
        lightning.fit(model, digits)
        lightning.test(model, digits, verbose=False)
    assert len(model.seen[0]) == 4
    assert model.tested == 2000
    messages = [str(warning.message) for warning in caught]
    assert not [m for m in messages if "worker" in m or "sampler" in m or "dataloader" in m]


def test_testing_sees_every_image(digits: MNIST) -> None:
    model = Recorder()
    trainer().test(model, digits, verbose=False)
    assert model.tested == 10_000


def moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of the centre of mass, and slant E[xy] / E[y²], each ``(size,)``."""
    weights = images / images.sum((1, 2), keepdim=True, dtype=torch.float32)
    pixels = torch.arange(28.0)
    y0, x0 = weights.sum(2) @ pixels, weights.sum(1) @ pixels
    y, x = (pixels - y0[:, None])[:, :, None], (pixels - x0[:, None])[:, None]
    return y0, x0, (weights * x * y).sum((1, 2)) / (weights * y**2).sum((1, 2))


@pytest.mark.parametrize("slant", [-0.7, -0.2, 0.3, 0.6])
def test_deskewing_sets_a_slanted_bar_upright(slant: float) -> None:
    y, x = torch.meshgrid(torch.arange(28) - 13.0, torch.arange(28) - 15.0, indexing="ij")
    bar = 255 * torch.exp(-((x - slant * y) ** 2) / 4) * (y.abs() <= 8)
    before = bar.round().to(torch.uint8)[None]
    after = deskewed(before)
    assert moments(before)[2].item() == pytest.approx(slant, abs=0.02)
    assert [m.item() for m in moments(after)] == pytest.approx([14, 14, 0], abs=0.03)
    assert after.sum() == pytest.approx(before.sum().item(), rel=0.01)


def test_deskewing_removes_the_slant_of_real_digits_and_keeps_their_labels(digits: MNIST) -> None:
    upright = MNIST(root=str(digits.root), deskew=True)
    upright.setup("test")
    assert upright._test is not None
    assert digits._test is not None
    assert upright._test.images.dtype == torch.uint8
    assert torch.equal(upright._test.labels, digits._test.labels)
    y0, x0, slant = moments(upright._test.images)
    assert slant.abs().max() < 0.05
    assert slant.abs().mean() < 0.01 * moments(digits._test.images)[2].abs().mean()
    assert (torch.stack([y0, x0]) - 14).abs().max() < 0.1


def test_deskewing_leaves_an_empty_image_empty() -> None:
    assert deskewed(torch.zeros(2, 28, 28, dtype=torch.uint8)).sum() == 0


def test_an_unverified_file_of_old_torchvision_is_not_read(
    mnist_root: str, tmp_path: Path
) -> None:
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    (tmp_path / "MNIST" / "raw").symlink_to(Path(mnist_root).absolute() / "MNIST" / "raw")
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"not a tensor")
    data = MNIST(root=str(tmp_path))
    data.setup("test")
    assert data._test is not None
    assert len(data._test.labels) == 10_000
