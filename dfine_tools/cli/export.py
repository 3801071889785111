"""`dfine export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dfine_tools.cli.options import image_size_of, old_name, parameters

NOT_RUN = 3


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what writes files that other programs run."""
    export = commands.add_parser(
        "export",
        help="write a file that other programs run, and validate that it detects the same",
        description="Export validation compares the file with the weights: the same objects on photographs, in batches "
        "of 1, 2 and 7, the same output for a repeated image, and with --data the same AP. The report is written next "
        "to the file as FILE.gate.json. "  # old name
        "Exit code 1: the file was written and failed validation; 3: a TensorRT engine was built, but not run, "
        "because there is no GPU.",
        epilog="example: dfine export --weights runs/mine/model.safetensors --to onnx --out detector.onnx "
        "--data my_set",
    )
    export.add_argument("--weights", required=True, metavar="FILE", help="or the name of a published file")
    export.add_argument("--to", required=True, choices=("onnx", "openvino", "tensorrt"), help="file format")
    export.add_argument(
        "--out", required=True, type=Path, metavar="FILE",
        help="NAME.onnx, NAME.xml for openvino, NAME.engine for tensorrt",
    )  # fmt: skip
    export.add_argument("--image-size", metavar="S", help="side of the input, or HEIGHT,WIDTH (default: the weights')")
    export.add_argument("--data", type=Path, metavar="DIR", help="folder with a val split: compare AP too")
    export.add_argument(
        "--precision",
        dest="number_format",
        default="fp32",
        choices=("fp32", "fp16", "int8"),
        help="number format; int8 needs --data",
    )
    dynamic = export.add_argument(
        "--dynamic-shapes", action="store_true", help="dynamic input shapes: any height and width, multiples of 32"
    )
    old_name(export, "--dynamic-sides", dynamic)
    export.add_argument("--raw", action="store_true", help="without post-processing: logits and boxes of all queries")
    export.set_defaults(call=_export, after_interrupt=" A file that was not validated is not finished.")


def _export(arguments: argparse.Namespace) -> int:
    from dfine_tools.deploy.export_file import export_file
    from dfine_tools.deploy.validation import report_path

    report = export_file(**parameters(arguments) | {"image_size": image_size_of(arguments.image_size)})
    print(report)
    about = report_path(arguments.out)
    if report.passed:
        print(f"done: {arguments.out}\n  report: {about}")
        return 0
    if report.not_run:
        print(f"built, not run: {arguments.out} was not validated.\n  report: {about}")
        return NOT_RUN
    print(f"validation failed: {arguments.out} does not detect what its weights do; it stays there.\n  report: {about}")
    return 1
