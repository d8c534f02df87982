"""The models of ``keras.applications``, as far as they are known before Keras is loaded."""

from collections.abc import Mapping
from typing import NamedTuple


class Application(NamedTuple):
    """What is known of a ``keras.applications`` model before Keras is loaded.

    ``image_size`` is its native input in pixels, ``cut`` the layer it is cut at when none is asked
    for, ``features`` the channels of that layer's map.
    """

    module: str
    function: str
    image_size: int
    cut: str
    features: int


# Held against Keras itself by tests/test_trunks_trunk.py.
TRUNKS: Mapping[str, Application] = {
    "convnext_base": Application("convnext", "ConvNeXtBase", 224, "layer_normalization", 1024),
    "convnext_large": Application("convnext", "ConvNeXtLarge", 224, "layer_normalization", 1536),
    "convnext_small": Application("convnext", "ConvNeXtSmall", 224, "layer_normalization", 768),
    "convnext_tiny": Application("convnext", "ConvNeXtTiny", 224, "layer_normalization", 768),
    "convnext_xlarge": Application("convnext", "ConvNeXtXLarge", 224, "layer_normalization", 2048),
    "densenet121": Application("densenet", "DenseNet121", 224, "relu", 1024),
    "densenet169": Application("densenet", "DenseNet169", 224, "relu", 1664),
    "densenet201": Application("densenet", "DenseNet201", 224, "relu", 1920),
    "efficientnet_b0": Application("efficientnet", "EfficientNetB0", 224, "top_activation", 1280),
    "efficientnet_b1": Application("efficientnet", "EfficientNetB1", 240, "top_activation", 1280),
    "efficientnet_b2": Application("efficientnet", "EfficientNetB2", 260, "top_activation", 1408),
    "efficientnet_b3": Application("efficientnet", "EfficientNetB3", 300, "top_activation", 1536),
    "efficientnet_b4": Application("efficientnet", "EfficientNetB4", 380, "top_activation", 1792),
    "efficientnet_b5": Application("efficientnet", "EfficientNetB5", 456, "top_activation", 2048),
    "efficientnet_b6": Application("efficientnet", "EfficientNetB6", 528, "top_activation", 2304),
    "efficientnet_b7": Application("efficientnet", "EfficientNetB7", 600, "top_activation", 2560),
    "efficientnet_v2_b0": Application(
        "efficientnet_v2", "EfficientNetV2B0", 224, "top_activation", 1280
    ),
    "efficientnet_v2_b1": Application(
        "efficientnet_v2", "EfficientNetV2B1", 240, "top_activation", 1280
    ),
    "efficientnet_v2_b2": Application(
        "efficientnet_v2", "EfficientNetV2B2", 260, "top_activation", 1408
    ),
    "efficientnet_v2_b3": Application(
        "efficientnet_v2", "EfficientNetV2B3", 300, "top_activation", 1536
    ),
    "efficientnet_v2_l": Application(
        "efficientnet_v2", "EfficientNetV2L", 480, "top_activation", 1280
    ),
    "efficientnet_v2_m": Application(
        "efficientnet_v2", "EfficientNetV2M", 480, "top_activation", 1280
    ),
    "efficientnet_v2_s": Application(
        "efficientnet_v2", "EfficientNetV2S", 384, "top_activation", 1280
    ),
    "inception_resnet_v2": Application(
        "inception_resnet_v2", "InceptionResNetV2", 299, "conv_7b_ac", 1536
    ),
    "inception_v3": Application("inception_v3", "InceptionV3", 299, "mixed7", 768),
    "mobilenet": Application("mobilenet", "MobileNet", 224, "conv_pw_13_relu", 1024),
    "mobilenet_v2": Application("mobilenet_v2", "MobileNetV2", 224, "out_relu", 1280),
    "mobilenet_v3_large": Application(
        "mobilenet_v3", "MobileNetV3Large", 224, "activation_19", 960
    ),
    "mobilenet_v3_small": Application(
        "mobilenet_v3", "MobileNetV3Small", 224, "activation_17", 576
    ),
    "nasnet_large": Application("nasnet", "NASNetLarge", 331, "activation_259", 4032),
    "nasnet_mobile": Application("nasnet", "NASNetMobile", 224, "activation_187", 1056),
    "resnet50": Application("resnet", "ResNet50", 224, "conv5_block3_out", 2048),
    "resnet50_v2": Application("resnet_v2", "ResNet50V2", 224, "post_relu", 2048),
    "resnet101": Application("resnet", "ResNet101", 224, "conv5_block3_out", 2048),
    "resnet101_v2": Application("resnet_v2", "ResNet101V2", 224, "post_relu", 2048),
    "resnet152": Application("resnet", "ResNet152", 224, "conv5_block3_out", 2048),
    "resnet152_v2": Application("resnet_v2", "ResNet152V2", 224, "post_relu", 2048),
    "vgg16": Application("vgg16", "VGG16", 224, "block5_pool", 512),
    "vgg19": Application("vgg19", "VGG19", 224, "block5_pool", 512),
    "xception": Application("xception", "Xception", 299, "block14_sepconv2_act", 2048),
}

# What a trunk that is a model of one's own ends with, and where its weights are.
