"""The network: six convolutions without batch norm and one linear layer, named as torchvision names VGG's."""

from torch import nn

# Output channels of the convolutions, in torchvision's writing: "M" halves the image by its greatest values.
LAYERS = [32, 32, "M", 64, 64, "M", 128, 128]
CLASSES = 10


class Vgg(nn.Module):
    """Images [n, 1, 28, 28], normalized, to class logits [n, 10]."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 1
        for width in LAYERS:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, CLASSES)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, images):
        """The mean over the last feature map goes into the classifier."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
