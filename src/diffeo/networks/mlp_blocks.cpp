// Linear layers with ReLU between them, and their gradients, for a block of rows after another: what
// these rows become stays in the first cache. mlp_blocks.py says what the operations compute.
//
// All that depends on rows lies feature by feature, (features, ROWS) for a block, so that products
// multiply weights by vectors of rows.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mlp_tiles.h"

namespace {

using at::Tensor;

constexpr int64_t ROWS = 64;                 // of a block; a multiple of LANES * ACROSS
constexpr int64_t GRAIN = int64_t(1) << 21;  // multiplications that are worth another thread

int64_t blocks_of(int64_t rows) { return (rows + ROWS - 1) / ROWS; }

// to[j * down + r] = from[r * stride + j].
void transpose(const float* from, int64_t rows, int64_t columns, int64_t stride, float* to,
               int64_t down) {
  for (int64_t j = 0; j < columns; j += LANES)
    for (int64_t r = 0; r < rows; r += LANES)
      at::vec::transpose_mxn<float>(from + r * stride + j, stride, to + j * down + r, down,
                                    std::min(LANES, rows - r), std::min(LANES, columns - j));
}

// Columns `at` to `at + count` of a matrix as a block, with zeros for the columns that are not there.
void read_block(const Tensor& from, int64_t at, int64_t count, float* to) {
  const int64_t size = from.size(0), down = from.stride(0), across = from.stride(1);
  const float* start = from.const_data_ptr<float>() + at * across;
  if (count < ROWS) std::fill(to, to + size * ROWS, 0.0f);
  if (down == 1 && across != 1) return transpose(start, count, size, across, to, ROWS);
  for (int64_t j = 0; j < size; j++, start += down, to += ROWS)
    if (across == 1)
      std::memcpy(to, start, count * sizeof(float));
    else
      for (int64_t r = 0; r < count; r++) to[r] = start[r * across];
}

void write_block(const float* from, int64_t at, int64_t count, Tensor& to) {
  float* start = to.mutable_data_ptr<float>() + at;
  for (int64_t j = 0; j < to.size(0); j++)
    std::memcpy(start + j * to.size(1), from + j * ROWS, count * sizeof(float));
}

// Memory of a thread, whose numbers are any.
float* scratch(int64_t size) {
  static thread_local std::vector<float> space;
  if ((int64_t)space.size() < size) space.resize(size);
  return space.data();
}

struct Layer {
  Tensor weight, bias;
  int64_t outputs, inputs;
  Bounds bounds;  // of the weight, or of its transpose

  Layer(const Tensor& w, bool transposed)
      : weight(w.contiguous()), outputs(w.size(0)), inputs(w.size(1)),
        bounds(data(), transposed ? inputs : outputs, transposed ? outputs : inputs,
               transposed ? 1 : inputs, transposed ? inputs : 1) {}

  const float* data() const { return weight.const_data_ptr<float>(); }

  // The weight, or its transpose, of which the bounds are.
  Left left(bool transposed) const {
    Left found = {data(), inputs, inputs, 1};
    if (transposed) found = {data(), outputs, 1, inputs};
    if (bounds.any) found.begins = bounds.begins.data(), found.ends = bounds.ends.data();
    return found;
  }
};

struct Layers : std::vector<Layer> {
  int64_t widest = 0, count = 0;  // of outputs or inputs; of weights

  Layers(at::TensorList weights, bool transposed) {
    reserve(weights.size());
    for (const Tensor& w : weights) {
      emplace_back(w, transposed);
      widest = std::max({widest, w.size(0), w.size(1)});
      count += w.numel();
    }
  }
};

// All layers; of the hidden ones, what they give (blocks, width, ROWS) is a result if it is stored.
std::vector<Tensor> run(const Tensor& x, at::TensorList weights, at::TensorList biases, bool store) {
  Layers layers(weights, false);
  const int64_t rows = x.size(1), blocks = blocks_of(rows), last = layers.size() - 1;
  std::vector<Tensor> results;
  std::vector<float*> stored;
  for (int64_t i = 0; i <= last; i++) {
    layers[i].bias = biases[i].contiguous();
    if (i == last || !store) continue;
    results.push_back(at::empty({blocks, layers[i].outputs, ROWS}, x.options()));
    stored.push_back(results[i].mutable_data_ptr<float>());
  }
  Tensor out = at::empty({layers[last].outputs, rows}, x.options());
  at::parallel_for(0, blocks, 1 + GRAIN / (1 + ROWS * layers.count), [&](int64_t from, int64_t end) {
    const int64_t room = layers.widest * ROWS;
    float* space = scratch(2 * room);
    for (int64_t block = from; block < end; block++) {
      const int64_t row = block * ROWS, count = std::min(ROWS, rows - row);
      // All that is stored is defined, since zeros of a gradient multiply it.
      const int64_t vectors = (store ? ROWS : padded(count)) / LANES;
      read_block(x, row, count, space + room);
      const float* h = space + room;
      for (int64_t i = 0; i <= last; i++) {
        const Layer& layer = layers[i];
        float* next = store && i < last ? stored[i] + block * layer.outputs * ROWS
                                       : space + i % 2 * room;
        multiply(layer.outputs, vectors, layer.left(false), h, ROWS,
                 {layer.bias.const_data_ptr<float>(), false, i < last}, next);
        h = next;
      }
      write_block(h, row, count, out);
    }
  });
  results.push_back(out);
  return results;
}

Tensor output(const Tensor& x, at::TensorList weights, at::TensorList biases) {
  return run(x, weights, biases, false)[0];
}

std::vector<Tensor> layers(const Tensor& x, at::TensorList weights, at::TensorList biases) {
  return run(x, weights, biases, true);
}

// The gradients of a layer, as rows add up: of its weights (more, padded fewer), where these are its
// inputs and outputs or the other way round; of its biases in LANES parts.
struct Sums {
  std::vector<float> weight, bias;

  explicit Sums(const Layer& layer)
      : weight(std::max(layer.inputs, layer.outputs) *
               padded(std::min(layer.inputs, layer.outputs))),
        bias(layer.outputs * LANES) {}

  // Adds a block of inputs, and of gradients of outputs; `space` has room for another block.
  void add(const Layer& layer, const float* h, const float* g, float* space) {
    const bool flip = layer.outputs < layer.inputs;
    const int64_t fewer = flip ? layer.outputs : layer.inputs, stride = padded(fewer);
    const int64_t more = flip ? layer.inputs : layer.outputs;
    transpose(flip ? g : h, fewer, ROWS, ROWS, space, stride);
    multiply(more, stride / LANES, {flip ? h : g, ROWS, ROWS, 1}, space, stride,
             {nullptr, true}, weight.data());
    for (int64_t j = 0; j < layer.outputs; j++) {
      Vector sum = *(Vector*)(&bias[j * LANES]);
      for (int64_t r = 0; r < ROWS; r += LANES) sum += *(const Vector*)(g + j * ROWS + r);
      *(Vector*)(&bias[j * LANES]) = sum;
    }
  }

  // Adds the sums to those of all threads.
  void add_to(const Layer& layer, float* weights, float* biases) const {
    const bool flip = layer.outputs < layer.inputs;
    const int64_t stride = padded(std::min(layer.inputs, layer.outputs));
    const int64_t down = flip ? 1 : stride, across = flip ? stride : 1;
    for (int64_t a = 0; a < layer.outputs; a++)
      for (int64_t b = 0; b < layer.inputs; b++)
        weights[a * layer.inputs + b] += weight[a * down + b * across];
    for (int64_t j = 0; j < layer.outputs * LANES; j++) biases[j / LANES] += bias[j];
  }
};

// The gradients of x, of all weights and of all biases, from that of the output.
std::vector<Tensor> gradients(const Tensor& grad, const Tensor& x, at::TensorList hidden,
                              at::TensorList weights, bool of_x) {
  const Layers layers(weights, true);
  const int64_t rows = x.size(1), blocks = blocks_of(rows), last = layers.size() - 1;
  const int64_t most = rows * layers.count / GRAIN;
  const int64_t parts = std::max<int64_t>(1, std::min({at::get_num_threads() + 0L, blocks, most}));
  const std::vector<Sums> none(layers.begin(), layers.end());
  std::vector<std::vector<Sums>> found(parts, none);
  Tensor dx = at::empty({of_x ? x.size(0) : 0, rows}, x.options());
  at::parallel_for(0, parts, 1, [&](int64_t from, int64_t end) {
    const int64_t room = padded(layers.widest) * ROWS;
    float *space = scratch(4 * room), *first = space + room;
    for (int64_t part = from; part < end; part++)
      for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++) {
        const int64_t row = block * ROWS, count = std::min(ROWS, rows - row);
        read_block(x, row, count, first);
        float *g = space + 2 * room, *next = space + 3 * room;
        read_block(grad, row, count, g);
        for (int64_t i = last; i >= 0; i--) {
          const Layer& layer = layers[i];
          const float* h = i ? hidden[i - 1].const_data_ptr<float>() + block * layer.inputs * ROWS
                             : first;
          found[part][i].add(layer, h, g, space);
          if (i == 0 && !of_x) break;
          multiply(layer.inputs, ROWS / LANES, layer.left(true), g, ROWS,
                   {nullptr, false, false, i ? h : nullptr}, next);
          std::swap(g, next);
        }
        if (of_x) write_block(g, row, count, dx);
      }
  });
  std::vector<Tensor> results = {dx}, of_biases;
  for (int64_t i = 0; i <= last; i++) {
    results.push_back(at::zeros(weights[i].sizes(), x.options()));
    of_biases.push_back(at::zeros({layers[i].outputs}, x.options()));
    for (const std::vector<Sums>& part : found)
      part[i].add_to(layers[i], results.back().mutable_data_ptr<float>(),
                     of_biases.back().mutable_data_ptr<float>());
  }
  results.insert(results.end(), of_biases.begin(), of_biases.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(diffeo, library) {
  library.def("mlp_output(Tensor x, Tensor[] weights, Tensor[] biases) -> Tensor");
  library.def("mlp_layers(Tensor x, Tensor[] weights, Tensor[] biases) -> Tensor[]");
  library.def(
      "mlp_gradients(Tensor grad, Tensor x, Tensor[] hidden, Tensor[] weights, bool of_x) "
      "-> Tensor[]");
}

TORCH_LIBRARY_IMPL(diffeo, CPU, library) {
  library.impl("mlp_output", output);
  library.impl("mlp_layers", layers);
  library.impl("mlp_gradients", gradients);
}
