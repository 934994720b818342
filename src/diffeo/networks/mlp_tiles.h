// Products of matrices, by tiles of their results, whose sums are in registers: each number of the left
// matrix is multiplied by some vectors of the right one.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

// torch asks for rounding between a multiplication and a sum, which takes two instructions.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

namespace {

// Numbers in a register, and registers across a tile, which 16 or 32 registers leave room for.
#if defined(CPU_CAPABILITY_AVX512)  // by torch's compiler, for vec.h too
constexpr int64_t LANES = 16, ACROSS = 4;
#else  // AVX2
constexpr int64_t LANES = 8, ACROSS = 2;
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

// Keeps a vector in its register: compilers would read it from memory for each row of a tile.
#define HELD(vector) asm("" : "+v"(vector))

// Rows of a tile of so many vectors, for which there are registers.
constexpr int rows_of_tile(int vectors) {
  return vectors == 1 ? 12 : vectors == 2 ? (ACROSS == 2 ? 6 : 12) : vectors == 3 ? 8 : 6;
}

int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// The left matrix (rows, inner) of a product: number (r, i) is at data[r * down + i * across]. If there
// are bounds, it is zero but for i in begins[r] to ends[r], which spares half of a masked layer.
struct Left {
  const float* data;
  int64_t inner, down, across;
  const int64_t *begins = nullptr, *ends = nullptr;
};

// Where the numbers of each row of a matrix begin and end that are not zero, if there are zeros.
struct Bounds {
  std::vector<int64_t> begins, ends;
  bool any = false;

  Bounds(const float* data, int64_t rows, int64_t inner, int64_t down, int64_t across)
      : begins(rows), ends(rows, inner) {
    for (int64_t r = 0; r < rows; r++, data += down) {
      while (begins[r] < inner && data[begins[r] * across] == 0) begins[r]++;
      while (ends[r] > begins[r] && data[(ends[r] - 1) * across] == 0) ends[r]--;
      any |= ends[r] - begins[r] < inner;
    }
  }
};

// What happens to a product: a bias is added to each row, or the product to what is there; then comes
// ReLU, or its gradient where ReLU gave `gate`.
struct After {
  const float* bias = nullptr;
  bool adds = false, relu = false;
  const float* gate = nullptr;
};

#define EACH for (int r = 0; r < R; r++) for (int v = 0; v < V; v++)

// R rows and V vectors of a product.
template <int R, int V>
void tile(Left left, const float* right, int64_t stride, After after, float* out, int64_t down) {
  Vector sum[R][V];
  if (after.adds)
    EACH sum[r][v] = *(const Vector*)(out + r * down + v * LANES);
  else if (after.bias)
    EACH sum[r][v] = Vector{} + after.bias[r];
  else
    EACH sum[r][v] = Vector{};
  const int64_t begin = left.begins ? *std::min_element(left.begins, left.begins + R) : 0;
  const int64_t end = left.ends ? *std::max_element(left.ends, left.ends + R) : left.inner;
  for (int64_t i = begin; i < end; i++) {
    Vector across[V];
    for (int v = 0; v < V; v++) {
      across[v] = *(const Vector*)(right + i * stride + v * LANES);
      HELD(across[v]);
    }
    for (int r = 0; r < R; r++) {
      const float number = left.data[r * left.down + i * left.across];
      for (int v = 0; v < V; v++) sum[r][v] += number * across[v];
    }
  }
  if (after.relu) EACH sum[r][v] = sum[r][v] < 0 ? Vector{} : sum[r][v];  // NaN stays NaN
  if (after.gate)
    EACH {
      const Vector gate = *(const Vector*)(after.gate + r * down + v * LANES);
      sum[r][v] = gate <= 0 ? Vector{} : sum[r][v];
    }
  EACH *(Vector*)(out + r * down + v * LANES) = sum[r][v];
}

// All rows of V vectors of a product, in tiles of R rows, and of fewer at the end.
template <int V, int R = rows_of_tile(V)>
void tiles(int64_t rows, Left left, const float* right, int64_t stride, After after, float* out,
           int64_t down) {
  for (; rows >= R; rows -= R) {
    tile<R, V>(left, right, stride, after, out, down);
    left.data += R * left.down;
    if (left.begins) left.begins += R, left.ends += R;
    out += R * down;
    if (after.bias) after.bias += R;
    if (after.gate) after.gate += R * down;
  }
  if constexpr (R > 1)
    if (rows) tiles<V, R - 1>(rows, left, right, stride, after, out, down);
}

// So many rows and vectors of a product; the right matrix and the result have rows of `stride`.
void multiply(int64_t rows, int64_t vectors, Left left, const float* right, int64_t stride,
              After after, float* out) {
  for (int64_t v = 0; v < vectors; v += ACROSS) {
    const float* here = right + v * LANES;
    float* to = out + v * LANES;
    switch (std::min(ACROSS, vectors - v)) {
      case 1: tiles<1>(rows, left, here, stride, after, to, stride); break;
      case 2: tiles<2>(rows, left, here, stride, after, to, stride); break;
#if defined(CPU_CAPABILITY_AVX512)
      case 3: tiles<3>(rows, left, here, stride, after, to, stride); break;
      case 4: tiles<4>(rows, left, here, stride, after, to, stride); break;
#endif
    }
    if (after.gate) after.gate += ACROSS * LANES;
  }
}

}  // namespace
