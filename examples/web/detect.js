// An exported D-FINE file in the page itself: the picture does not leave the machine. README.md says how to start it.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1;  // more need a server that sends the headers of an isolated page

const $ = id => document.getElementById(id);
const about = await (await fetch("detector.json")).json();  // image_size [height, width] and names, as in the file
const session = await ort.InferenceSession.create("detector.onnx", { executionProviders: ["wasm"] });
let picture = null, objects = [];

// The whole picture stretched to the network's input: float RGB in 0..1, plane after plane.
function networkInput(bitmap) {
  const [height, width] = about.image_size;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);  // RGBA
  const planes = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) planes[c * width * height + i] = data[4 * i + c] / 255;
  return new ort.Tensor("float32", planes, [1, 3, height, width]);
}

async function detect(file) {
  $("error").textContent = "";
  try {
    picture = await createImageBitmap(file);  // upright, as EXIF says
    const size = BigInt64Array.from([BigInt(picture.width), BigInt(picture.height)]);
    const start = performance.now();
    const { labels, boxes, scores } = await session.run({
      images: networkInput(picture), orig_target_sizes: new ort.Tensor("int64", size, [1, 2]),
    });
    const milliseconds = performance.now() - start;
    objects = Array.from(scores.data, (score, k) => ({
      score, name: about.names[Number(labels.data[k])] ?? String(labels.data[k]),
      box: Array.from(boxes.data.slice(4 * k, 4 * k + 4)),
    }));
    draw();
    $("said").textContent = `${milliseconds.toFixed(0)} ms`;
  } catch (error) {
    picture = null;
    draw();
    $("said").textContent = "";
    $("error").textContent = `${file.name}: not a picture that this browser can read.`;
  }
}

function draw() {
  const shown = picture ? objects.filter(one => one.score >= Number($("score").value)) : [];
  $("found").replaceChildren(...shown.map(one => {
    const line = document.createElement("li");
    line.textContent = `${one.name} ${one.score.toFixed(2)}`;
    line.dataset.box = one.box.map(side => side.toFixed(1)).join(" ");
    return line;
  }));
  const canvas = $("canvas"), context = canvas.getContext("2d");
  canvas.width = picture?.width ?? 1;
  canvas.height = picture?.height ?? 1;
  if (!picture) return;
  context.drawImage(picture, 0, 0);
  context.lineWidth = Math.max(2, canvas.width / 300);
  context.font = `${Math.max(12, canvas.width / 45)}px sans-serif`;
  for (const { box: [x1, y1, x2, y2], name, score } of shown.toReversed()) {
    context.strokeStyle = context.fillStyle = "#d1495b";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillText(`${name} ${score.toFixed(2)}`, x1, Math.max(12, y1 - 4));
  }
}

$("file").onchange = () => { if ($("file").files.length) detect($("file").files[0]) };
$("score").oninput = draw;
$("file").disabled = false;
$("said").textContent = "Ready.";
