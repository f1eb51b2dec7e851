"""mp4 to anomaly scores: ``alertclip.score`` against what one would otherwise run.

plain       open_clip's own loop: cv2 decoding, PIL preprocessing, batches of 32, fp32
encode      the scheme of clip-video-encode: all frames of all videos read into one array at the
            model's size, a DataLoader of 6 workers with ToPILImage and normalisation, batches of
            256; its autocast is CUDA's, hence fp32 on a CPU
crops       features as VadCLIP's users extract them: every 16th frame, ten crops, one at a time
ours        score_videos;  ours_crops  the library's own ten-crop extraction, against crops

All take the same frames, squashed to the model's size, and random weights of the same seed.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
from harness import answer, compare, cosines, interleave, parser, save
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from videos import write_videos

from alertclip.anomaly_curve import embed_prompts, has_bf16, score_videos
from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from companion.profiles import PROFILES
from detectors.features import MARGIN, SnippetRule, extract_features, feature_file, read_features

Work = Callable[[], np.ndarray]

STRIDE = 16  # frames of a snippet in the field
CROPPED = 800  # frames of the video for ten crops: each is ten images to embed
PROMPTS = load_prompts(PROFILES / "prompts.yaml")
PAIRS = {"plain": "ours", "encode": "ours", "crops": "ours_crops"}


def stock(name: str) -> tuple[nn.Module, transforms.Compose]:
    """The open_clip model that a user has, with its preprocessing; frames are squashed."""
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(name, image_resize_mode="squash")
    return model.eval(), preprocess


def own(name: str) -> AlertCLIP:
    """Ours with the same weights."""
    torch.manual_seed(0)
    return AlertCLIP(load_backbone(name)).eval()


def every_nth(path: Path, first: int = 0) -> Iterator[np.ndarray]:
    """Every 16th frame, RGB, decoded by cv2 as it comes."""
    capture, number = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        if number % STRIDE == first:
            yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        number += 1
    capture.release()


def text_direction(model: nn.Module, tokenizer: open_clip.SimpleTokenizer) -> Tensor:
    """Mean abnormal minus mean normal prompt: (D,)."""
    sets = [list(PROMPTS.sets.abnormal), list(PROMPTS.sets.normal)]
    vectors = [normalize(model.encode_text(tokenizer(texts)), dim=-1).mean(0) for texts in sets]
    return vectors[0] - vectors[1]


def to_scores(model: nn.Module, features: Tensor, direction: Tensor) -> np.ndarray:
    """The library's score of frame features (F, D): (F,)."""
    margin = normalize(features, dim=-1) @ direction
    return torch.sigmoid(model.logit_scale.exp() * margin).numpy()


@torch.no_grad()
def plain(name: str, videos: Sequence[Path]) -> Work:
    """open_clip's README in a loop."""
    model, preprocess = stock(name)
    direction = text_direction(model, open_clip.get_tokenizer(name))

    @torch.no_grad()
    def work() -> np.ndarray:
        scores = []
        for path in videos:
            images = torch.stack([preprocess(Image.fromarray(f)) for f in every_nth(path)])
            features = torch.cat([model.encode_image(batch) for batch in images.split(32)])
            scores.append(to_scores(model, features, direction))
        return np.concatenate(scores)

    return work


class Block(Dataset):
    """Frames of one array, each through PIL."""

    def __init__(self, frames: np.ndarray, transform: transforms.Compose) -> None:
        self.frames, self.transform = frames, transform

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> Tensor:
        return self.transform(self.frames[number])


@torch.no_grad()
def encode(name: str, videos: Sequence[Path]) -> Work:
    """All frames of all videos in one array, then a DataLoader."""
    model, preprocess = stock(name)
    direction = text_direction(model, open_clip.get_tokenizer(name))
    tail = transforms.Compose([transforms.ToPILImage(), *preprocess.transforms[-3:]])
    size = model.visual.image_size[::-1]

    @torch.no_grad()
    def work() -> np.ndarray:
        block = np.stack([cv2.resize(f, size) for path in videos for f in every_nth(path)])
        loader = DataLoader(Block(block, tail), batch_size=256, num_workers=6)
        features = torch.cat([model.encode_image(batch) for batch in loader])
        return to_scores(model, features, direction)

    return work


def ours(name: str, videos: Sequence[Path]) -> Work:
    """The library's scores at the frames it samples."""
    model = own(name)
    prompts = embed_prompts(model, PROMPTS)

    def work() -> np.ndarray:
        curves = dict(score_videos(model, videos, prompts, num_frames=256, stride=STRIDE))
        return np.concatenate([curves[path].scores for path in videos])

    return work


@torch.no_grad()
def crops(name: str, videos: Sequence[Path]) -> Work:
    """Ten crops of the middle frame of every snippet, each alone through PIL and the model."""
    model, preprocess = stock(name)
    tail = transforms.Compose(preprocess.transforms[-3:])
    height, width = model.visual.image_size
    big = round(width * MARGIN), round(height * MARGIN)
    rest = big[1] - height, big[0] - width
    corners = [(rest[0] // 2, rest[1] // 2), (0, 0), (0, rest[1]), (rest[0], 0), rest]

    @torch.no_grad()
    def work() -> np.ndarray:
        features = []
        for frame in (cv2.resize(f, big) for f in every_nth(videos[0], STRIDE // 2)):
            parts = [frame[y : y + height, x : x + width] for y, x in corners]
            parts += [part[:, ::-1] for part in parts]
            images = [tail(Image.fromarray(np.ascontiguousarray(part))) for part in parts]
            features.append(torch.cat([model.encode_image(image[None]) for image in images]))
        return torch.stack(features, dim=1).numpy()  # (10, n, D)

    return work


def ours_crops(name: str, videos: Sequence[Path]) -> Work:
    """The same features by the library, from counting the frames to the files."""
    model, rule = own(name), SnippetRule(STRIDE, 1, 10)
    precision = "bf16" if has_bf16("cpu") else "fp32"

    def work() -> np.ndarray:
        with tempfile.TemporaryDirectory() as made:
            root, wanted = Path(made), {videos[0]: range(10)}
            [folder] = extract_features([model], wanted, rule, root, root, 1, precision)
            files = [feature_file(folder, videos[0], crop) for crop in range(rule.crops)]
            return np.stack([read_features(file) for file in files])

    return work


CONTENDERS = {f.__name__: f for f in (ours, plain, encode, ours_crops, crops)}


def agreement(outputs: dict[str, np.ndarray]) -> dict[str, str]:
    """How far each peer's output is from ours."""
    found = {}
    for peer, mine in PAIRS.items():
        a, b = outputs[mine], outputs[peer]
        if a.ndim == 1:
            found[peer] = f"scores differ by at most {np.abs(a - b).max():.2g}"
        else:
            found[peer] = f"cosine of features at least {cosines(a, b).min():.6f}"
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="ViT-B-32-quickgelu")
    options.add_argument("--videos", type=int, default=3)
    options.add_argument("--frames", type=int, default=2400, help="native frames per video")
    options.add_argument("--folder", type=Path, help="where the videos are (set by the script)")
    o = options.parse_args()
    if o.contender:
        crops = "crops" in o.contender
        paths = sorted((o.folder / "crops" if crops else o.folder).glob("*.mp4"))
        work = CONTENDERS[o.contender](o.backbone, paths)
        answer(o.answer, work, len(paths) * ((CROPPED if crops else o.frames) // STRIDE))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder), o.videos, o.frames)
        (Path(folder) / "crops").mkdir()
        write_videos(Path(folder) / "crops", 1, CROPPED)
        arguments = ["--folder", folder, "--backbone", o.backbone, "--frames", str(o.frames)]
        table, outputs = interleave(__file__, list(CONTENDERS), o.repeats, arguments)
    save(table.assign(backbone=o.backbone), "score", o.out)
    ratios = compare(table, PAIRS)
    save(ratios.assign(agreement=ratios["peer"].map(agreement(outputs))), "score_ratio", o.out)


if __name__ == "__main__":
    main()
