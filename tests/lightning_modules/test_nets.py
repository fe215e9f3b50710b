"""Networks: the published parameter counts, and weights of the public example."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules import ImageClassifier
from lightning_modules.nets import ConcatConvField, ConvField, TimeConv2d
from lightning_modules.nets.odeblock import OdeBlock
from lightning_modules.solvers import SolverSettings

DIRECT = SolverSettings(gradient="direct")

# Counted from the layers of the authors' public example, one by one.
PARAMETERS = {
    ("ode", "conv", 6): 208_266,
    ("ode", "res", 6): 232_970,
    ("resnet", "conv", 6): 576_778,
    ("resnet", "res", 6): 601_482,
    ("resnet", "conv", 1): 206_858,
    ("resnet", "res", 1): 231_562,
    ("none", "conv", 6): 132_874,
    ("none", "res", 6): 157_578,
    ("mlp", "res", 6): 238_510,
}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("body", "stem", "blocks"), PARAMETERS)
def test_parameter_counts_are_the_published_ones(body: str, stem: str, blocks: int) -> None:
    model = ImageClassifier(body=body, stem=stem, blocks=blocks, solver=DIRECT)  # type: ignore[arg-type]
    assert _count(model) == PARAMETERS[body, stem, blocks]


def test_a_resnet_of_the_ode_nets_size_has_width_40() -> None:
    assert _count(ImageClassifier(body="resnet", width=40, groups=8)) == 235_770


class ExampleBlock(nn.Module):
    """The residual block of the public example, in its order of attributes."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, width)
        self.downsample = nn.Conv2d(width, width, 1, stride, bias=False) if stride > 1 else None
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(32, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(out)
        return self.conv2(F.relu(self.norm2(self.conv1(out)))) + shortcut


class EulerBlock(nn.Module):
    """Two Euler steps, enough to tell whether a field is called alike."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, y: Tensor) -> Tensor:
        for t in (0.0, 0.5):
            y = y + 0.5 * self.field(torch.tensor(t, dtype=y.dtype), y)
        return y


def _example(body: str, stem: str) -> nn.Sequential:
    norm_relu = (nn.GroupNorm(32, 64), nn.ReLU())
    down: list[nn.Module] = [nn.Conv2d(1, 64, 3, 1)]
    if stem == "conv":
        for _ in range(2):
            down += [nn.GroupNorm(32, 64), nn.ReLU(), nn.Conv2d(64, 64, 4, 2, 1)]
    else:
        down += [ExampleBlock(64, 2), ExampleBlock(64, 2)]
    features: list[nn.Module] = (
        [EulerBlock(ConcatConvField(64, 32))]
        if body == "ode"
        else [ExampleBlock(64) for _ in range(6)]
    )
    head = [*norm_relu, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*down, *features, *head)


@pytest.mark.parametrize("stem", ["res", "conv"])
@pytest.mark.parametrize("body", ["ode", "resnet"])
def test_weights_of_the_public_example_give_the_same_logits_and_gradients(
    body: str, stem: str
) -> None:
    torch.manual_seed(0)
    example = _example(body, stem).double()
    euler = SolverSettings(method="euler", step_size=0.5, gradient="direct")
    ours = ImageClassifier(body=body, stem=stem, solver=euler).double()  # type: ignore[arg-type]
    theirs = list(example.parameters())
    mine = list(ours.parameters())
    assert [p.shape for p in mine] == [p.shape for p in theirs]
    with torch.no_grad():
        for parameter, value in zip(mine, theirs, strict=True):
            parameter.copy_(value + 0.01 * torch.randn_like(value))
            value.copy_(parameter)
    images, labels = torch.rand(3, 1, 28, 28).double(), torch.tensor([1, 2, 3])
    losses = [F.cross_entropy(net(images), labels) for net in (ours, example)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(ours(images), example(images), rtol=1e-10, atol=1e-10)
    for parameter, value in zip(mine, theirs, strict=True):
        torch.testing.assert_close(parameter.grad, value.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((nn.Identity(), "native"), "settings is a str; pass SolverSettings"),
        ((nn.Identity(), {"backend": "native"}), "settings is a dict"),
        ((DIRECT, nn.Identity()), "settings is a Identity"),
    ],
)
def test_a_block_without_settings_is_refused_when_it_is_made(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OdeBlock(*arguments)


def test_time_enters_the_field_unless_it_is_left_out() -> None:
    torch.manual_seed(0)
    y, (early, late) = torch.randn(2, 8, 5, 5), torch.tensor([0.0, 1.0])
    timed, timeless = ConvField(8, 4), ConvField(8, 4, time_input=False)
    assert not torch.allclose(timed(early, y), timed(late, y))
    assert torch.equal(timeless(early, y), timeless(late, y))
    assert _count(timed) - _count(timeless) == 2 * 8 * 9


def test_time_gradient_of_the_split_convolution_is_that_of_the_concatenated_one() -> None:
    torch.manual_seed(0)
    conv, y = TimeConv2d(4).double(), torch.randn(2, 4, 6, 6).double()
    gradients = []
    for split in (True, False):
        t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        out = (
            conv(t, y)
            if split
            else F.conv2d(torch.cat([t.expand(2, 1, 6, 6), y], 1), conv.weight, conv.bias, 1, 1)
        )
        gradients.append(torch.autograd.grad(out.square().sum(), t)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shape", [(2, 8, 5, 3), (1, 8, 1, 1), (3, 8, 1, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_state_changes_no_value(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours, example = ConvField(8, 4).double(), ConcatConvField(8, 4).double()
    example.load_state_dict(ours.state_dict())
    y = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    t, weight = torch.tensor(0.4, dtype=torch.float64), torch.randn(shape).double()
    found = []
    for field in (ours, example):
        dy = field(t, y)
        found.append([dy, *torch.autograd.grad((dy * weight).sum(), [y, *field.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_field_works_under_vmap_and_autocast() -> None:
    field, y = ConvField(8, 4), torch.randn(3, 8, 5, 5)
    t = torch.tensor(0.3)
    alone = torch.func.vmap(lambda image: field(t, image[None])[0])(y)
    torch.testing.assert_close(alone, field(t, y), rtol=1e-4, atol=1e-5)
    assert torch.func.vmap(lambda time: field(time, y))(torch.rand(2)).shape == (2, 3, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        short = field(t, y).float()
    torch.testing.assert_close(short, field(t, y), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("setting", [{"body": "ode", "stem": "x"}, {"body": "x"}])
def test_an_unknown_part_is_refused_by_name(setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Unknown .* 'x'\. Choose one of"):
        ImageClassifier(**setting)  # type: ignore[arg-type]
