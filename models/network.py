"""The networks of the models that ship, and their files: plain textbook shapes whose settings travel with the weights.

A file of weights is safetensors: a table of named tensors and a few words of text, never a pickle. Its text says which
network it is, with which settings, and the facts of its training, so that a file explains itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers import CONV, POOL, SLOPE, UP, bent, block, continued, cut, step
from models.sampling import HIGHEST, LOWEST

#: Ways in which a picture may lie otherwise than its header says; the axes x, y and the row of slices are reversed.
TURNS = ("left-right", "front-back", "head-feet")

#: The signs of answers where a picture is seen turned, in the order in which WholeSeries turns it.
_EIGHT_WAYS = tuple((x, y, z) for z in (1.0, -1.0) for y in (1.0, -1.0) for x in (1.0, -1.0))
_FIELDS = 12  # a side, of a slice as WholeSeries keeps it
_SOFT = (75.0, 225.0)  # HU, middle and half width of soft tissue with and without contrast
_FORMAT = "pacs-ai-node network 1"


class WeightsError(ValueError):
    """A file is not what it should be; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetSettings:
    """The shape of a U-Net."""

    dims: int = 2  # 2: pictures (y, x); 3: volumes (z, y, x)
    in_channels: int = 5
    classes: int = 4
    channels: int = 16  # of the finest level; each coarser level has twice as many
    levels: int = 5

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ValueError(f"dims is {self.dims}, not 2 or 3")
        _at_least_one(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceClassifierSettings:
    """The shape of a slice and series classifier, and the names of what it tells apart."""

    regions: tuple[str, ...]  # what one slice may show
    kinds: tuple[str, ...]  # what a whole series may be
    phases: tuple[str, ...]  # of contrast in its vessels
    channels: int = 16  # of the finest level; each of the three coarser ones has twice as many
    hidden: int = 48  # of the GRU, each way
    whole_channels: int = 8  # of the part that tells phase and turns
    whole_hidden: int = 32  # of its GRU, each way

    def __post_init__(self) -> None:
        if min(map(len, (self.regions, self.kinds, self.phases))) < 2:
            raise ValueError(
                f"regions {self.regions}, kinds {self.kinds} and phases {self.phases} need two names each at least"
            )
        _at_least_one(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoduleCNNSettings:
    """The shape of a classifier of small cubes."""

    channels: int = 16  # of the finest level; each coarser level has twice as many
    levels: int = 4

    def __post_init__(self) -> None:
        _at_least_one(self)


Settings = UNetSettings | SliceClassifierSettings | NoduleCNNSettings


def _at_least_one(settings: Settings) -> None:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{field.name} is {value}, not at least 1")


class UNet(nn.Module):
    """A U-Net (Ronneberger 2015, 10.1007/978-3-319-24574-4_28; in 3-D Cicek 2016, 10.1007/978-3-319-46723-8_49).

    With group normalisation, since batches are small, and same-size convolutions. Takes (n, in_channels, [z,] y, x) of
    any size and returns logits (n, classes, [z,] y, x) of that size: what is no multiple of 2 ** (levels - 1) is
    continued at its ends and cut again.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.channels * 2**level for level in range(settings.levels)]
        sides = zip([settings.in_channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(block(settings.dims, before, width) for before, width in sides)
        self.up = nn.ModuleList(
            UP[settings.dims - 2](coarse, fine, kernel_size=2, stride=2)
            for fine, coarse in pairwise(widths)
        )
        self.join = nn.ModuleList(block(settings.dims, 2 * width, width) for width in widths[:-1])
        self.pool = POOL[settings.dims - 2](2)
        self.head = CONV[settings.dims - 2](widths[0], settings.classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of *images*."""
        values = continued(images, 2 ** (self.settings.levels - 1))
        kept: list[Tensor] = []
        for level, down in enumerate(self.down):
            values = down(values if level == 0 else self.pool(values))
            kept.append(values)
        for level in range(self.settings.levels - 2, -1, -1):
            values = self.join[level](torch.cat([kept[level], self.up[level](values)], dim=1))
        logits: Tensor = self.head(values)
        return cut(logits, images.shape[2:])


class SliceClassifier(nn.Module):
    """A small CNN looks at each slice, a GRU at the row of them (Cho 2014, 10.3115/v1/D14-1179).

    Takes (n, slices, y, x) and, where series are of different lengths, how many *lengths* (n,) of their slices are
    real; returns logits of the region of each slice (n, slices, regions) and of the kind of each series (n, kinds).
    A part with weights of its own (`whole`) tells the phase of its contrast and whether it lies as its header says.
    With batch normalisation: group normalisation takes away how dark a slice is on the whole, which tells a lung, and
    it hardly learnt (a mean loss of 3.7 in place of 1.7 after 80 steps). It also keeps where the features of each
    region lay in training, and how they scattered there (`strangeness`): nought until `remember` is called.
    """

    centres: Tensor  # (regions, features)
    whitening: Tensor  # (features, features)

    def __init__(self, settings: SliceClassifierSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.channels * 2**level for level in range(4)]
        self.look = nn.Sequential(
            *(step(2, before, width, nn.BatchNorm2d) for before, width in zip([1, *widths], widths, strict=False)),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.level = nn.LayerNorm(widths[-1])
        self.along = nn.GRU(widths[-1], settings.hidden, batch_first=True, bidirectional=True)
        self.region = nn.Linear(2 * settings.hidden + widths[-1], len(settings.regions))
        self.kind = nn.Linear(2 * settings.hidden + widths[-1], len(settings.kinds))
        self.whole = WholeSeries(settings)
        self.register_buffer("centres", torch.zeros(len(settings.regions), widths[-1]))
        self.register_buffer("whitening", torch.zeros(widths[-1], widths[-1]))

    def features(self, slices: Tensor) -> Tensor:
        """Return what the CNN sees in each of *slices* (n, slices, y, x): (n, slices, features)."""
        seen: Tensor = self.look(slices.flatten(0, 1)[:, None])
        return seen.reshape(*slices.shape[:2], -1)

    def remember(self, features: Tensor, regions: Tensor) -> None:
        """Keep where *features* (n, features) of slices of known *regions* (n,) lie and how they scatter about it.

        One Gaussian a region, all of the same covariance. A hundredth of its mean variance is added in every direction:
        features that hardly ever vary would make everything strange. ValueError where a region has no slice.
        """
        there = [regions == number for number in range(len(self.settings.regions))]
        if not all(bool(one.any()) for one in there):
            raise ValueError(f"each of {', '.join(self.settings.regions)} needs a slice")
        self.centres = torch.stack([features[one].mean(dim=0) for one in there])
        off = (features - self.centres[regions]).double()
        scatter = off.T @ off / len(off)
        scatter += 0.01 * scatter.diagonal().mean() * torch.eye(len(scatter), dtype=scatter.dtype, device=off.device)
        self.whitening = torch.linalg.inv(torch.linalg.cholesky(scatter)).T.float().contiguous()

    def strangeness(self, features: Tensor) -> Tensor:
        """Return how far *features* (..., features) lie from all that was remembered: about 1 for the like of it.

        The Mahalanobis distance to the nearest region over the root of the number of features (Lee 2018,
        1807.03888).
        """
        off = (features[..., None, :] - self.centres) @ self.whitening  # (..., regions, features)
        return off.square().mean(dim=-1).sqrt().amin(dim=-1)

    def judge(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits of regions and kinds of slices' *features* (n, slices, features)."""
        count = features.shape[1]
        if lengths is None:
            lengths = torch.full((features.shape[0],), count)
        level = self.level(features)
        packed = pack_padded_sequence(level, lengths.cpu(), batch_first=True, enforce_sorted=False)
        along, _ = pad_packed_sequence(self.along(packed)[0], batch_first=True, total_length=count)
        real = torch.arange(count, device=features.device) < lengths.to(features.device)[:, None]  # (n, slices)
        both = torch.cat([along, level * real[..., None]], dim=-1)  # beyond a series' length the GRU gives noughts
        return self.region(both), self.kind(both.sum(dim=1) / lengths.to(both)[:, None])

    def forward(self, slices: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits of regions and kinds; what lies behind a series' length changes nothing."""
        return self.judge(self.features(slices), lengths)


class WholeSeries(nn.Module):
    """One convolution, a coarse picture of each slice and a GRU: what is true of a series as a whole.

    Takes (n, slices, y, x); returns logits of the phase of its contrast (n, phases), and of whether each axis lies the
    other way round (n, 3), in the order of TURNS. It looks at each series turned all eight ways, with each answer
    turned back: so a series and the same series turned get opposite answers exactly, and learning needs no turned ones.
    A slice is kept as 12 x 12 fields, not pooled to one: which side is which must not get lost.
    """

    def __init__(self, settings: SliceClassifierSettings) -> None:
        super().__init__()
        channels, features = settings.whole_channels, 2 * settings.whole_hidden
        self.look = nn.Sequential(
            nn.BatchNorm2d(3), *bent(2, 3, channels, nn.BatchNorm2d), nn.AdaptiveAvgPool2d(_FIELDS), nn.Flatten(),
            nn.BatchNorm1d(channels * _FIELDS**2), nn.Linear(channels * _FIELDS**2, features),
            nn.BatchNorm1d(features), nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.along = nn.GRU(features, settings.whole_hidden, batch_first=True, bidirectional=True)
        self.phase = nn.Linear(features, len(settings.phases))
        self.turned = nn.Linear(features, len(TURNS))

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of phases and turns."""
        count = slices.shape[0]
        coarse = _coarse(slices.flatten(0, 1)[:, None])
        views = torch.cat([coarse, coarse.flip(-1), coarse.flip(-2), coarse.flip(-1, -2)])
        features = self.look(views).reshape(4 * count, slices.shape[1], -1)
        along = self.along(torch.cat([features, features.flip(1)]))[0].mean(dim=1)
        signs = torch.tensor(_EIGHT_WAYS, device=slices.device)[:, None]  # (8, 1, 3)
        of_phase, of_turns = (head(along).reshape(8, count, -1) for head in (self.phase, self.turned))
        return of_phase.mean(dim=0), (of_turns * signs).mean(dim=0)


def _coarse(slices: Tensor) -> Tensor:
    """Return of *slices* (n, 1, y, x) a quarter of the samples: as they are, in a window of soft tissue, and its most.

    Blood with contrast differs from muscle by a tenth of what the whole range holds.
    """
    half = functional.avg_pool2d(slices, 2)
    hounsfield = (half + 1.0) * (HIGHEST - LOWEST) / 2.0 + LOWEST
    soft = ((hounsfield - _SOFT[0]) / _SOFT[1]).clamp(-1.0, 1.0)
    pooled = (functional.avg_pool2d(half, 2), functional.avg_pool2d(soft, 2), functional.max_pool2d(soft, 2))
    return torch.cat(pooled, dim=1)


class NoduleCNN(nn.Module):
    """A small 3-D CNN on cubes of lung, with global pooling, so that class activation maps can be drawn of it.

    Takes (n, 1, z, y, x), 32 voxels a side by habit, and returns one logit each (n,): how much the middle looks like
    a nodule. `forward` is `judge(features(cubes))`.
    """

    def __init__(self, settings: NoduleCNNSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.channels * 2**level for level in range(settings.levels)]
        self.look = nn.Sequential(
            block(3, 1, widths[0]), *(step(3, before, width) for before, width in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], 1)

    def features(self, cubes: Tensor) -> Tensor:
        """Return the last feature maps (n, features, z, y, x): of 32 voxels a side 4 are left at four levels."""
        maps: Tensor = self.look(cubes)
        return maps

    def judge(self, features: Tensor) -> Tensor:
        """Return the logits (n,) of feature maps."""
        logits: Tensor = self.head(features.mean(dim=(2, 3, 4)))
        return logits[:, 0]

    def forward(self, cubes: Tensor) -> Tensor:
        """Return the logits (n,) of *cubes*."""
        return self.judge(self.features(cubes))


Network = UNet | SliceClassifier | NoduleCNN
N = TypeVar("N", UNet, SliceClassifier, NoduleCNN)


_KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "unet": (UNet, UNetSettings),
    "slice-classifier": (SliceClassifier, SliceClassifierSettings),
    "nodule-cnn": (NoduleCNN, NoduleCNNSettings),
}


def build(settings: Settings) -> Network:
    """Return a fresh network of *settings*, its weights drawn from torch's own generator."""
    ((network, _),) = [pair for pair in _KINDS.values() if pair[1] is type(settings)]
    built: Network = network(settings)
    return built


def save(network: Network, file: Path, facts: Mapping[str, Any], *, half: bool = False) -> None:
    """Write *network* to *file* with the *facts* of its training (what JSON can hold); *half*: as float16.

    The file is written whole beside its place and then moved there: an interrupted run leaves the old one.
    """
    ((kind, _),) = [(name, pair) for name, pair in _KINDS.items() if pair[0] is type(network)]
    tensors = {
        name: (value.half() if half else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    text = {
        "format": _FORMAT, "network": kind, "settings": json.dumps(asdict(network.settings)),
        "facts": json.dumps(dict(facts)),
    }  # fmt: skip
    part = file.with_name(f"{file.name}.part")
    save_file(tensors, part, metadata=text)
    part.replace(file)


@overload
def load_network(file: Path, device: str) -> Network: ...
@overload
def load_network(file: Path, device: str, kind: type[N]) -> N: ...
def load_network(file: Path, device: str, kind: type[Any] | None = None) -> Network:
    """Return the network of *file* as float32 on *device*, ready to run; WeightsError where it is none or no *kind*."""
    text, tensors = _read(file)
    network, settings = _KINDS[text["network"]]
    if kind is not None and network is not kind:
        raise WeightsError(f"{file}: holds a {network.__name__}, not a {kind.__name__}")
    built: Network = network(_settings(settings, text["settings"], file))
    try:
        built.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as why:
        raise WeightsError(f"{file}: its tensors do not fit its own settings: {why}") from why
    return built.to(device).eval()


def read_facts(file: Path) -> dict[str, Any]:
    """Return the facts of training that *file* carries; WeightsError where it is no network's."""
    facts: dict[str, Any] = json.loads(_text(file)["facts"])
    return facts


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of *file* by name, as they are stored; WeightsError where it is no network's."""
    return _read(file)[1]


def _settings(kind: type[Any], text: str, file: Path) -> Settings:
    try:
        values = {name: tuple(one) if isinstance(one, list) else one for name, one in json.loads(text).items()}
        settings: Settings = kind(**values)
    except (TypeError, ValueError) as why:
        raise WeightsError(f"{file}: its settings are not those of a {kind.__name__}: {why}") from why
    return settings


def _text(file: Path) -> dict[str, str]:
    return _read(file, tensors=False)[0]


def _read(file: Path, *, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            text: dict[str, str] = opened.metadata() or {}
            values = {name: opened.get_tensor(name) for name in opened.keys()} if tensors else {}  # noqa: SIM118  # no mapping
    except FileNotFoundError as why:
        raise WeightsError(f"{file}: there is no such file") from why
    except (SafetensorError, OSError) as why:
        raise WeightsError(f"{file}: is no readable safetensors file: {why}") from why
    if text.get("format") != _FORMAT:
        raise WeightsError(f"{file}: its format is {text.get('format')!r}, not {_FORMAT!r}")
    if text.get("network") not in _KINDS or "settings" not in text or "facts" not in text:
        raise WeightsError(f"{file}: names no network known here, but {text.get('network')!r}")
    return text, values
