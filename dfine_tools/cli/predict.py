"""`dfine predict`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from dfine_tools.cli.options import image_size_of

log = logging.getLogger(__name__)
NO_IMAGES = 1  # exit code


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what finds objects in images and videos."""
    predict = commands.add_parser(
        "predict",
        help="find objects in images, videos or a camera's view",
        description="SOURCE is an image, a folder of images (with its sub-folders), a pattern in quotes such as "
        "'photos/*.jpg', a video, an address, or a camera's number. FILE is a .safetensors or .pth file, a published "
        "name such as dfine_s_coco, or an exported .onnx or .xml. Without --out and --json each image is reported in a "
        "line. What is in a folder and cannot be opened is left out and counted by reason; with --json it is listed in "
        "NAME.ledger.json. Exit code 1 where not one image there can be read.",
        epilog="example: dfine predict photos --weights runs/mine/model.safetensors --out found --json found.json",
    )
    predict.add_argument("source", nargs="+", metavar="SOURCE", help="one of these, or several images")
    predict.add_argument("--weights", required=True, metavar="FILE", help="what detects them")
    predict.add_argument("--out", type=Path, metavar="DIR", help="write every image, or the video, with its boxes")
    predict.add_argument("--json", type=Path, metavar="FILE", help="write the detections, boxes in pixels")
    predict.add_argument("--score", type=float, default=0.4, metavar="P", help="score threshold, 0..1 (default: 0.4)")
    predict.add_argument(
        "--batch-size", type=int, metavar="N", help="images in a forward pass (default: 4; of cameras and streams 1)"
    )
    predict.add_argument("--image-size", metavar="S", help="side of the network's input, or HEIGHT,WIDTH")
    predict.add_argument("--backend", default="auto", metavar="B", help="auto, torch, onnxruntime, openvino")
    predict.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, gpu (OpenVINO)")
    predict.add_argument(
        "--follow-links", action="store_true", help="in a folder, also take what links to files and folders lead to"
    )
    predict.set_defaults(call=_predict, after_interrupt=" What was found until then is written.")


def _predict(arguments: argparse.Namespace) -> int | None:
    from dfine_tools.deploy.sources import NoImages

    try:
        _find_objects(arguments)
    except NoImages as error:
        print(f"dfine predict: {error}", file=sys.stderr)
        return NO_IMAGES
    return None


def _find_objects(arguments: argparse.Namespace) -> None:
    from dfine_tools.deploy.predict import Predictor
    from dfine_tools.deploy.predict_files import predict_files
    from dfine_tools.deploy.sources import find_source

    several = len(arguments.source) > 1  # a pattern without quotes: the shell has made a list of it
    # Before the weights are loaded: a mistyped path is reported at once.
    found = find_source(arguments.source if several else arguments.source[0], follow_links=arguments.follow_links)
    predictor = Predictor(
        arguments.weights, backend=arguments.backend, device=arguments.device,
        image_size=image_size_of(arguments.image_size),
    )  # fmt: skip
    quiet = arguments.out is not None or arguments.json is not None
    summary = predict_files(
        predictor, found, out=arguments.out, json_file=arguments.json, score=arguments.score,
        batch_size=arguments.batch_size, each=None if quiet else lambda result: _say(str(result)),
    )  # fmt: skip
    _say(str(summary))
    if summary.images and not summary.objects:
        log.info("No detection reaches the score threshold, --score %g; a lower one shows more.", arguments.score)


def _say(words: str) -> None:
    """Print; of a file name that is no Unicode, the bytes as escapes."""
    print(words.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)
