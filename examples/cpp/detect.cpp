// Find objects in a picture with an exported D-FINE file and ONNX Runtime, and nothing else.
//
//   dfine export --weights model.safetensors --to onnx --out detector.onnx
//   g++ -std=c++17 -O2 detect.cpp -I INCLUDE -L LIB -lonnxruntime -o detect     (INCLUDE: onnxruntime_cxx_api.h)
//   ./detect detector.onnx photo.ppm 0.4
//
// Pictures are binary PPM (P6, 8 bits), which any program writes: `magick photo.jpg photo.ppm`. A line an object:
// name, score, left, top, right, bottom in pixels. Input size and names of the classes come from the file's metadata.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // row by row, three bytes a pixel
};

static Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": no such file");
  auto word = [&] {  // the next word of the head; comments are passed over
    std::string text;
    while (file >> text && text[0] == '#') std::getline(file, text);
    return text;
  };
  Picture picture;
  const bool is_ppm = word() == "P6";
  if (is_ppm) picture.width = std::atoi(word().c_str()), picture.height = std::atoi(word().c_str());
  if (!is_ppm || picture.width < 1 || picture.height < 1 || word() != "255")
    throw std::runtime_error(path + ": not a binary PPM with 8 bits");
  file.get();  // the one blank after the head
  if (int64_t(picture.width) * picture.height > 500'000'000) throw std::runtime_error(path + ": too many pixels");
  picture.rgb.resize(size_t(3) * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.rgb.data()), picture.rgb.size()))
    throw std::runtime_error(path + ": cut off");
  return picture;
}

// Stretch along one side to `to` pixels, as in training: a triangle as wide as the pixels it gathers (antialias).
// A line has `from` pixels, `step` bytes apart; lines are given by their first byte, in and out.
static void stretch(const uint8_t* in, int from, int in_step, uint8_t* out, int to, int out_step) {
  const double scale = double(from) / to, reach = std::max(scale, 1.0);
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, int(centre - reach + 0.5)), last = std::min(from, int(centre + reach + 0.5));
    double sum = 0, weights = 0;
    for (int j = first; j < last; ++j) {
      const double weight = std::max(0.0, 1 - std::abs((j + 0.5 - centre) / reach));
      sum += weight * in[size_t(j) * in_step], weights += weight;
    }
    out[size_t(i) * out_step] = uint8_t(std::clamp(std::floor(sum / weights + 0.5), 0.0, 255.0));
  }
}

static std::vector<float> network_input(const Picture& picture, int height, int width) {
  std::vector<uint8_t> wide(size_t(3) * width * picture.height), both(size_t(3) * width * height);
  for (int y = 0; y < picture.height; ++y)
    for (int c = 0; c < 3; ++c)
      stretch(&picture.rgb[size_t(3) * picture.width * y + c], picture.width, 3, &wide[size_t(3) * width * y + c], width, 3);
  for (int x = 0; x < 3 * width; ++x) stretch(&wide[x], picture.height, 3 * width, &both[x], height, 3 * width);
  std::vector<float> planes(both.size());
  for (size_t pixel = 0; pixel < size_t(width) * height; ++pixel)
    for (int c = 0; c < 3; ++c) planes[size_t(c) * width * height + pixel] = both[3 * pixel + c] / 255.0f;
  return planes;
}

static std::string metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  auto value = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
  return value ? value.get() : "";
}

static std::vector<std::string> strings(const std::string& json) {  // of a JSON list of plain strings
  std::vector<std::string> found;
  for (size_t i = 0; (i = json.find('"', i)) != std::string::npos; ++i) {
    std::string text;
    for (++i; i < json.size() && json[i] != '"'; ++i) text += json[i] == '\\' ? json[++i] : json[i];
    found.push_back(text);
  }
  return found;
}

int main(int count, char** words) try {
  char* rest = nullptr;
  const float least = count > 3 ? std::strtof(words[3], &rest) : 0.4f;
  if (count < 3 || count > 4 || (rest && (rest == words[3] || *rest || std::isnan(least))))
    return std::fprintf(stderr, "usage: detect DETECTOR.onnx PICTURE.ppm [SCORE]   (SCORE: a number, 0.4)\n"), 2;
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "detect");
  Ort::Session session(env, words[1], Ort::SessionOptions{});
  int height = 640, width = 640;  // where the file says nothing
  std::sscanf(metadata(session, "image_size").c_str(), "[%d, %d]", &height, &width);
  const auto names = strings(metadata(session, "names"));

  const Picture picture = read_ppm(words[2]);
  auto pixels = network_input(picture, height, width);
  std::array<int64_t, 2> size{picture.width, picture.height};
  const std::array<int64_t, 4> shape{1, 3, height, width};
  const std::array<int64_t, 2> size_shape{1, 2};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<Ort::Value> values;
  values.push_back(Ort::Value::CreateTensor<float>(memory, pixels.data(), pixels.size(), shape.data(), shape.size()));
  values.push_back(Ort::Value::CreateTensor<int64_t>(memory, size.data(), 2, size_shape.data(), size_shape.size()));
  const char* inputs[] = {"images", "orig_target_sizes"};
  const char* outputs[] = {"labels", "boxes", "scores"};
  const auto found = session.Run(Ort::RunOptions{}, inputs, values.data(), 2, outputs, 3);

  const auto* labels = found[0].GetTensorData<int64_t>();
  const auto *boxes = found[1].GetTensorData<float>(), *scores = found[2].GetTensorData<float>();
  const size_t objects = found[2].GetTensorTypeAndShapeInfo().GetElementCount();
  for (size_t k = 0; k < objects && scores[k] >= least; ++k) {  // scores fall
    const bool named = labels[k] >= 0 && size_t(labels[k]) < names.size();
    std::cout << (named ? names[labels[k]] : std::to_string(labels[k])) << '\t' << scores[k];
    for (int side = 0; side < 4; ++side) std::cout << '\t' << boxes[4 * k + side];
    std::cout << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "detect: %s\n", error.what());
  return 1;
}
