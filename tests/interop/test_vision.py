"""Classifiers of images beside torch and transformers: the same classes and the same loss on the same images."""

import json
import pathlib
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/demo-vision"))
import corruptions  # noqa: E402
import data  # noqa: E402
import model as demo_vision  # noqa: E402

ASSETS = ROOT / "assets/demo-vision"


def images(shape, seed=3):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normalized(pixels, mean, std):
    x = torch.from_numpy(pixels.astype(np.float32) / 255.0)
    return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


@torch.no_grad()
def check(reweight, folder, run, pixels, config, images_path):
    """Labels are torch's own answers: nearly all must be found again, with the same mean loss."""
    logits = run(normalized(pixels, config["image_mean"], config["image_std"])).double()
    labels = logits.argmax(1)
    safetensors.numpy.save_file({"images": pixels, "labels": labels.numpy()}, images_path)
    found = reweight("eval", folder, "--images", images_path, "--json")
    assert found["accuracy"] >= 0.995
    assert found["nll"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)
    return found


def test_demo_vision_answers_as_in_torch(reweight, tmp_path, measured):
    network = demo_vision.Vgg().eval()
    network.load_state_dict(safetensors.torch.load_file(ASSETS / "model.safetensors"))
    config = json.loads((ASSETS / "config.json").read_text(encoding="utf-8"))
    clean = safetensors.numpy.load_file(ASSETS / "images.safetensors")["images"]
    spoil = lambda name, severity: np.stack(  # noqa: E731
        [corruptions.corrupt(name, severity, image, index, 0) for index, image in enumerate(clean)]
    )
    sets = {"clean": clean, "impulse_noise:4": spoil("impulse_noise", 4), "contrast:4": spoil("contrast", 4)}
    for name, pixels in sets.items():
        found = check(reweight, "demo-vision", network, pixels[:, None], config, tmp_path / "i.safetensors")
        measured(f"demo-vision {name}: {100 * found['accuracy']:.2f} % of the classes are torch's")


def area_under_curve(inside, outside):
    wins = (inside[:, None] > outside[None]).mean() + 0.5 * (inside[:, None] == outside[None]).mean()
    return wins.item()


def mahalanobis(features, labels, x):
    """Minus the least squared distance to a class mean under one covariance, 1 % of its mean variance on the diagonal."""
    means = {label: features[labels == label].mean(0) for label in np.unique(labels)}
    centred = features - np.stack([means[label] for label in labels])
    covariance = centred.T @ centred / len(features)
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    return -np.min([np.einsum("ij,jk,ik->i", x - mean, inverse, x - mean) for mean in means.values()], axis=0)


def test_other_images_are_told_apart_as_in_numpy(reweight, tmp_path):
    network = demo_vision.Vgg().eval()
    network.load_state_dict(safetensors.torch.load_file(ASSETS / "model.safetensors"))
    bundled = safetensors.numpy.load_file(ASSETS / "images.safetensors")
    other = images((200, 28, 28))
    other[:100] = bundled["images"][:100, ::-1]
    safetensors.numpy.save_file({"images": other}, tmp_path / "other.safetensors")
    found = reweight("eval", "demo-vision", "--ood", tmp_path / "other.safetensors", "--json")["ood"]
    with torch.no_grad():
        features = [network.features(normalized(x[:, None], [data.MEAN], [data.STD])).mean((2, 3)) for x in (bundled["images"], other)]
        inside, outside = (network.classifier(x).double().logsumexp(1).numpy() for x in features)
    assert found["energy_auroc"] == pytest.approx(area_under_curve(inside, outside), abs=1e-4)
    ours, theirs = (x.double().numpy() for x in features)
    scores = [mahalanobis(ours[::2], bundled["labels"][::2], x) for x in (ours[1::2], theirs)]
    assert found["mahalanobis_auroc"] == pytest.approx(area_under_curve(*scores), abs=1e-4)


def randomize(network, seed):
    """Weights large enough to tell classes apart, and batch norms that do something."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0, 0.3)
    return network.eval()


@pytest.mark.parametrize("layer_type,first,inner", [("basic", False, False), ("bottleneck", True, False), ("bottleneck", False, True)])
def test_resnet(reweight, tmp_path, layer_type, first, inner):
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1], layer_type=layer_type,
        downsample_in_first_stage=first, downsample_in_bottleneck=inner, num_labels=7,
    )  # fmt: skip
    network = randomize(transformers.ResNetForImageClassification(config), 1)
    network.save_pretrained(tmp_path / "m")
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    path = tmp_path / "m/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    check(reweight, tmp_path / "m", lambda x: network(x).logits, images((40, 3, 37, 41)), settings, tmp_path / "i.safetensors")


class BasicBlock(nn.Module):
    """torchvision's, whose names it has."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        short = self.downsample(x) if hasattr(self, "downsample") else x
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + short)


class SmallResNet(nn.Module):
    """A stem for small images, two stages, one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def save(folder, network, config):
    folder.mkdir()
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def test_resnet_under_the_names_of_torchvision(reweight, tmp_path):
    network = randomize(SmallResNet(), 2)
    config = {
        "model_type": "resnet", "num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1],
        "layer_type": "basic", "stem_size": 3, "stem_stride": 1, "stem_pool": False, "image_mean": [0.5], "image_std": [0.25],
    }  # fmt: skip
    save(tmp_path / "m", network, config)
    check(reweight, tmp_path / "m", network, images((40, 1, 28, 28)), config, tmp_path / "i.safetensors")


def test_vgg_with_batch_norm_and_several_linear_layers(reweight, tmp_path):
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2, 2)]
    layers += [nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2, 2)]
    network = nn.Sequential()
    network.features = nn.Sequential(*layers)
    network.pool = nn.AdaptiveAvgPool2d(3)
    network.flat = nn.Flatten()
    network.classifier = nn.Sequential(nn.Linear(108, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 6))
    network = randomize(network, 4)
    config = {
        "model_type": "vgg", "num_channels": 3, "layers": [8, "M", 12, "M"], "batch_norm": True, "pooled_size": 3,
        "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }  # fmt: skip
    save(tmp_path / "m", network, config)
    check(reweight, tmp_path / "m", network, images((40, 3, 30, 34)), config, tmp_path / "i.safetensors")


def test_vision_transformer(reweight, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=28, patch_size=7,
        num_channels=1, num_labels=6,
    )  # fmt: skip
    network = randomize(transformers.ViTForImageClassification(config), 5)
    network.save_pretrained(tmp_path / "m")
    settings = {"image_mean": [0.5], "image_std": [0.25]}
    path = tmp_path / "m/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    check(reweight, tmp_path / "m", lambda x: network(x).logits, images((80, 1, 28, 28)), settings, tmp_path / "i.safetensors")
