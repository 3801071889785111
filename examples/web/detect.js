// An exported D-FINE file in the page itself: the picture does not leave the machine. README.md says how to start it.
const $ = id => document.getElementById(id), photo = $("photo");
let ort, about, session, objects = null, milliseconds = 0, latest = 0;

async function load() {
  const missing = (what, how) => { throw new Error(`${what} is missing or damaged. ${how} README.md has the steps.`) };
  ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs")
    .catch(() => missing("onnxruntime-web", "Run npm install."));
  ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
  ort.env.wasm.numThreads = 1;  // more need a server that sends the headers of an isolated page
  about = await fetch("detector.json").then(reply => reply.json())  // image_size [height, width] and names
    .catch(() => missing("detector.json", "Run python about.py detector.onnx."));
  session = await ort.InferenceSession.create("detector.onnx", { executionProviders: ["wasm"] })
    .catch(() => missing("detector.onnx", "Run dfine export."));
  const [height, width] = about.image_size;
  await run(new Float32Array(3 * height * width), 1, 1);  // the first run is slow
}

// The whole picture stretched to the network's input: float RGB in 0..1, plane after plane.
function networkInput() {
  const [height, width] = about.image_size;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";  // behind a transparent picture, as on the page
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, width, height);  // upright, as EXIF says
  const { data } = context.getImageData(0, 0, width, height);  // RGBA
  const planes = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) planes[c * width * height + i] = data[4 * i + c] / 255;
  return planes;
}

function run(planes, width, height) {
  const size = BigInt64Array.from([BigInt(width), BigInt(height)]);
  return session.run({
    images: new ort.Tensor("float32", planes, [1, 3, ...about.image_size]),
    orig_target_sizes: new ort.Tensor("int64", size, [1, 2]),
  });
}

async function detect(file) {
  const mine = ++latest;  // the last picture chosen counts
  objects = null;
  $("stage").hidden = true;
  $("error").textContent = "";
  $("said").textContent = `${file.name}: looking …`;
  draw();
  try {
    URL.revokeObjectURL(photo.src);
    photo.src = URL.createObjectURL(file);
    await photo.decode().catch(() => { throw new Error("not a picture that this browser can read.") });
    if (mine !== latest) return;
    photo.alt = file.name;
    $("stage").style.setProperty("--w", photo.naturalWidth);
    $("stage").style.setProperty("--h", photo.naturalHeight);
    $("stage").hidden = false;
    await new Promise(painted => setTimeout(painted, 50));  // the page stands still while the network runs
    if (mine !== latest) return;
    const planes = networkInput(), start = performance.now();
    const { labels, boxes, scores } = await run(planes, photo.naturalWidth, photo.naturalHeight);
    if (mine !== latest) return;
    milliseconds = performance.now() - start;
    objects = Array.from(scores.data, (score, k) => ({
      score, name: about.names[Number(labels.data[k])] ?? String(labels.data[k]),
      box: Array.from(boxes.data.slice(4 * k, 4 * k + 4)),
    }));
    draw();
  } catch (error) {
    if (mine !== latest) return;
    $("stage").hidden = true;
    $("said").textContent = "";
    $("error").textContent = `${file.name}: ${error.message}`;
  }
}

function draw() {
  const least = Number($("score").value), shown = (objects ?? []).filter(one => one.score >= least);
  $("shown").textContent = least.toFixed(2);
  $("found").replaceChildren(...shown.map(one => {
    const line = document.createElement("li");
    line.textContent = `${one.name} ${one.score.toFixed(2)}`;
    line.dataset.box = one.box.map(side => side.toFixed(1)).join(" ");
    return line;
  }));
  const { naturalWidth: width, naturalHeight: height } = photo, scale = $("stage").clientWidth / width;
  $("boxes").replaceChildren(...shown.toReversed().map(({ box: [x1, y1, x2, y2], name, score }) => {
    const box = document.createElement("div");
    Object.assign(box.style, { left: `${100 * x1 / width}%`, top: `${100 * y1 / height}%`,
      width: `${100 * (x2 - x1) / width}%`, height: `${100 * (y2 - y1) / height}%` });
    box.classList.toggle("low", y1 * scale < 18);  // its name has no room above
    box.classList.toggle("far", x1 > width * 0.6);
    box.appendChild(document.createElement("span")).textContent = `${name} ${score.toFixed(2)}`;
    return box;
  }));
  if (!objects) return;
  const [first] = objects;  // scores fall
  const best = first && !shown.length ? `; the best has ${first.score.toFixed(2)} (${first.name})` : "";
  $("said").textContent = `${shown.length} object${shown.length === 1 ? "" : "s"} of score ${least.toFixed(2)} or more`
    + `${best}. The network took ${milliseconds.toFixed(0)} ms.`;
}

$("file").onclick = () => { $("file").value = "" };  // the same file again is a change, too
$("file").onchange = () => { if ($("file").files.length) detect($("file").files[0]) };
$("score").oninput = draw;
$("shown").textContent = Number($("score").value).toFixed(2);  // a reload may keep the slider
document.forms[0].onsubmit = event => event.preventDefault();
document.body.ondragover = event => event.preventDefault();
document.body.ondrop = event => {
  event.preventDefault();
  if (session && event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
};

try {
  await load();
  $("file").disabled = false;
  $("said").textContent = "Choose a picture, or drop one here.";
  const some = about.names.slice(0, 12).join(", "), more = about.names.length - 12;
  const knows = some && `The detector knows ${some}${more > 0 ? ` and ${more} more` : ""}. `;
  $("about").textContent = `${knows}The picture does not leave this machine.`;
} catch (error) {
  $("said").textContent = "";
  $("error").textContent = error.message;
}
