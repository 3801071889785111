"""A page that finds objects in your picture, and shows how the edges of a clicked box were sharpened layer by layer.

    pip install -e ".[serve]"
    python examples/page/app.py runs/n_custom/model.safetensors     # then open http://127.0.0.1:8000

The browser sends the picture as the body of `POST /detect` and gets JSON back, so a program can do it too:
`curl --data-binary @photo.jpg http://127.0.0.1:8000/detect`. An error is one line: `{"error": "…"}`. Meant for yourself
and your own network: it asks for no password, and one picture is looked at after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dfine_lib.config import DataConfig
from dfine_lib.evaluate.postprocess import postprocess
from dfine_lib.model.dfine import open_model
from dfine_lib.model.weights import WeightsError
from dfine_tools.analysis.refinement import refinement_of
from dfine_tools.deploy.images import SourceError, as_image
from dfine_tools.deploy.predict import network_input
from dfine_tools.weights.sources import read

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, JSONResponse
except ImportError as error:
    raise SystemExit(f'{error}; the page needs: pip install -e ".[serve]"') from None

PAGE = Path(__file__).with_name("index.html")
LEAST_SCORE, MOST_OBJECTS = 0.05, 50  # the slider goes no lower; each object carries its distributions
MAX_PIXELS = 50_000_000  # a small file can hold a picture that fills the memory
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a picture is refused, which is enough


class Refused(Exception):
    """An upload that is not taken; the message is one line for who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Detector:
    """Weights ready to run, with all decoder layers kept."""

    def __init__(self, weights: str | Path, device: str = "cpu") -> None:
        model, stored = open_model(read(weights))
        self.model = model.to(device)
        self.device, self.names = device, stored.category_names
        self.image_hw = (stored.data or DataConfig()).image_hw
        self._one_at_a_time = threading.Lock()

    @torch.inference_mode()
    def detect(self, content: bytes) -> dict[str, Any]:
        """What is in a picture's file, with the edge distributions of every layer.

        Raises:
            Refused: no picture, or one too large.
        """
        picture = _decoded(content)
        size_wh = torch.tensor([[picture.shape[2], picture.shape[1]]], device=self.device)
        pixels = network_input(picture, self.image_hw)[None].to(self.device).float() / 255
        with self._one_at_a_time:
            outputs = self.model(pixels, keep_layers=True)
        found = postprocess(outputs, size_wh)[0].to("cpu").above(LEAST_SCORE)
        objects = [
            {
                "name": self.names[label] if label < len(self.names) else str(label),
                "score": round(score, 4),
                "box_xyxy": [round(v, 1) for v in box],
                **_edges(refinement_of(outputs, 0, query, size_wh[0].cpu())),
            }
            for label, score, box, query in list(
                zip(found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), found.queries.tolist())
            )[:MOST_OBJECTS]
        ]
        return {"width": picture.shape[2], "height": picture.shape[1], "objects": objects}


def make_app(detector: Detector, max_megabytes: float = 10) -> FastAPI:
    """The page, what it may be asked, and its one question."""
    app = FastAPI(title="D-FINE", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {"names": detector.names, "max_megabytes": max_megabytes, "max_pixels": MAX_PIXELS}

    @app.post("/detect")
    async def detect(request: Request) -> JSONResponse:
        try:
            content = await _body(request, round(max_megabytes * 2**20))
            return JSONResponse(await asyncio.to_thread(detector.detect, content))
        except Refused as error:
            return JSONResponse({"error": str(error)}, error.status)

    return app


async def _body(request: Request, most: int) -> bytes:
    """The upload, read no further than the limit."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise Refused(413, f"The picture is larger than {most / 2**20:g} MB.")
    if not content:
        raise Refused(400, "Nothing was sent; the picture is the body of the request.")
    return bytes(content)


def _decoded(content: bytes) -> torch.Tensor:
    """An upright picture, uint8 `[3, H, W]`."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Refused(413, f"The picture has {image.width} x {image.height} pixels, which is too many.")
            return as_image(image)
    except Image.DecompressionBombError as error:
        raise Refused(413, "The picture has too many pixels.") from error
    except (Image.UnidentifiedImageError, SourceError, OSError) as error:
        raise Refused(415, "This is not a picture that can be read (damaged, or of an unknown format).") from error


def _edges(steps: Any) -> dict[str, Any]:
    """Boxes and distributions layer by layer; the place of each bin in pixels of the picture."""
    x1, y1, x2, y2 = steps.boxes_by_layer_xyxy[0].tolist()
    reach = 0.5 + steps.bin_offsets  # of the initial box's side, from its centre
    centre_x, centre_y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    places = [centre_x - reach * width, centre_y - reach * height, centre_x + reach * width, centre_y + reach * height]
    return {
        "layers_xyxy": [[round(v, 1) for v in box] for box in steps.boxes_by_layer_xyxy.tolist()],
        "bins_px": [[round(v, 2) for v in edge.tolist()] for edge in places],  # left, top, right, bottom
        "probabilities": [
            [[round(v, 4) for v in edge] for edge in layer]
            for layer in steps.corner_logits_by_layer.softmax(-1).tolist()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", help="a .safetensors or .pth file, or a published name such as dfine_s_coco")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--max-megabytes", type=float, default=10, help="largest upload")
    options = parser.parse_args()
    try:
        app = make_app(Detector(options.weights, options.device), options.max_megabytes)
    except WeightsError as error:
        raise SystemExit(str(error)) from None
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
