"""`dfine bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dfine_lib.errors import DfineError
from dfine_tools.cli.options import check_figure, image_size_of, names, write_figure


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what measures how fast a detector is."""
    bench = commands.add_parser(
        "bench",
        help="parameters, operations, milliseconds, images/s, peak memory",
        description="Each MODEL is weights, an exported .onnx or .xml file, or a published size (n, s, m, l, x) with "
        "random weights. Parameters and FLOPs are counted as in the published table. Model only: pixels in memory to "
        "boxes; end to end: from the image's file. Median and interquartile range of repeated calls after a warm-up.",
        epilog="example: dfine bench model.safetensors detector.onnx detector.xml --batch 1,4 --json bench.json "
        "--figure bench.png",
    )
    bench.add_argument("models", nargs="+", metavar="MODEL")
    bench.add_argument(
        "--backend", type=names, default="auto", metavar="B,…", help="auto, torch, onnxruntime, openvino"
    )
    bench.add_argument("--batch", default="1", metavar="N,…", help="images a call, several by commas (default: 1)")
    bench.add_argument("--image-size", metavar="S", help="side of the input, or HEIGHT,WIDTH (default: the file's)")
    bench.add_argument("--images", metavar="DIR", help="images to read (default: two that scikit-learn brings)")
    bench.add_argument("--seconds", type=float, default=3.0, metavar="T", help="each kind of call (default: 3)")
    bench.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, gpu (OpenVINO)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, with the machine")
    bench.add_argument("--figure", type=Path, metavar="FILE", help="draw AP by latency: .png, .svg or .pdf")
    bench.add_argument(
        "--as-authors", action="store_true",
        help="also the mean over 1000 images of --images after 1000 runs, batch 1, as the authors time TensorRT",
    )  # fmt: skip
    bench.set_defaults(call=_bench, after_interrupt=" Nothing was written.")


def _bench(arguments: argparse.Namespace) -> None:
    from dfine_tools.deploy.backends import DeviceError, open_backend
    from dfine_tools.deploy.bench import bench
    from dfine_tools.deploy.timing import authors_latency

    if arguments.as_authors and arguments.images is None:
        raise DfineError("--as-authors needs --images: the folder of COCO's val2017, say")
    check_figure("--figure", arguments.figure)
    for name, file in (("--json", arguments.json), ("--figure", arguments.figure)):
        if file is not None and file.is_dir():  # said before the work
            raise DfineError(f"{name} {file}: is a folder; give the name of a file")
    image_size = image_size_of(arguments.image_size)
    report = bench(
        arguments.models, backends=arguments.backend, batches=_numbers(arguments.batch),
        image_size=image_size, images=arguments.images, device=arguments.device, seconds=arguments.seconds,
    )  # fmt: skip
    print(report)
    content = report.to_dict()
    if arguments.as_authors:
        content["as_authors_ms"] = {}
        for model in arguments.models:
            try:
                backend = open_backend(model, device=arguments.device, image_size=image_size)
            except DeviceError:  # named in the report
                continue
            content["as_authors_ms"][model] = authors_latency(backend, arguments.images)
            print(f"{model}, {backend.name}, as the authors time it: {content['as_authors_ms'][model]:.2f} ms")
    if arguments.json is not None:
        from dfine_tools.pages.report import write_metrics

        print(write_metrics(arguments.json, content))
    if arguments.figure is not None:
        from dfine_tools.figures.latency import accuracy_by_latency

        write_figure(accuracy_by_latency(content), arguments.figure)
        print(arguments.figure)


def _numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError as error:
        raise DfineError(f"--batch {words}: numbers with commas between them, such as 1,4") from error
