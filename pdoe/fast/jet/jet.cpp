// The jet form of a group convolution on a CPU, one source for every width of vectors.
//
// For every tile of rows and chunk of channels:
//   1. transform: the rotations of the source become n planes, [row][pixel][channel] each;
//   2. jets: 13 derivatives of every plane, combined into the slots of the blocks;
//   3. product: slots times weights, added to the block of every output frequency;
//   4. optionally, the gradient of the weights: slots times the transformed target;
// and after the last chunk the blocks are transformed back into rotations of the result.
// Meaning of the tables: algebra.py. The gradient of the input is the same function with the
// weights of the transposed layer.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS1 = 16, ROWS2 = 12, ROWS3 = 8;
#elif defined(__AVX2__)
constexpr int BYTES = 32, ROWS1 = 8, ROWS2 = 6, ROWS3 = 4;
#else
constexpr int BYTES = 16, ROWS1 = 8, ROWS2 = 6, ROWS3 = 4;
#endif
constexpr int JETS = 13, ALIGN = 64;

// ---- Vectors ------------------------------------------------------------------------------------

template <class S>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(BYTES)));
  typedef int32_t I __attribute__((vector_size(BYTES)));
};
template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(BYTES)));
  typedef int64_t I __attribute__((vector_size(BYTES)));
};
template <class S>
using Vec = typename Lanes<S>::V;
template <class S>
constexpr int lanes = BYTES / int(sizeof(S));

template <class S>
inline Vec<S> load(const S* p) {
  Vec<S> v;
  std::memcpy(&v, p, BYTES);
  return v;
}
template <class S>
inline void store(S* p, Vec<S> v) {
  std::memcpy(p, &v, BYTES);
}
template <class S>
inline void store_first(S* p, Vec<S> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
    return;
  }
#endif
  std::memcpy(p, &v, count * sizeof(S));
}

// Elements A, A + 1, A + 2 ... steps of a pair of vectors, by a function of the lane.
template <class S, class Index, size_t... I>
inline Vec<S> pick(Vec<S> a, Vec<S> b, Index, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Index::at(I)...);
#else
  typename Lanes<S>::I mask = {Index::at(I)...};
  return __builtin_shuffle(a, b, mask);
#endif
}
template <class S, class Index>
inline Vec<S> pick(Vec<S> a, Vec<S> b) {
  return pick<S>(a, b, Index{}, std::make_index_sequence<lanes<S>>{});
}
template <int L, int ODD>
struct EveryOther {
  static constexpr int at(int i) { return 2 * i + ODD; }
};
template <int L, int HIGH>
struct Zip {
  static constexpr int at(int i) { return HIGH * (L / 2) + i / 2 + (i % 2) * L; }
};
// Three vectors hold 3 lanes + t; the first two give what they have, the third the rest.
template <int L, int T>
struct ThirdsOfTwo {
  static constexpr int at(int i) { return 3 * i + T < 2 * L ? 3 * i + T : 0; }
};
template <int L, int T>
struct ThirdsOfLast {
  static constexpr int at(int i) { return 3 * i + T < 2 * L ? i : 3 * i + T - L; }
};
template <int L, int O>
struct ZipTwo {  // output vector O of a, b, c interleaved: position O L + i
  static constexpr int at(int i) {
    return (O * L + i) % 3 == 2 ? 0 : (O * L + i) / 3 + ((O * L + i) % 3) * L;
  }
};
template <int L, int O>
struct ZipLast {
  static constexpr int at(int i) { return (O * L + i) % 3 == 2 ? (O * L + i) / 3 + L : i; }
};

// N vectors of pixels [lanes][N] into N vectors of one rotation each, in the order of `order_of`.
template <class S, int N>
inline __attribute__((always_inline)) void split(Vec<S>* v) {
  constexpr int L = lanes<S>;
  if constexpr (N % 2 == 0) {
    Vec<S> t[N];
#pragma GCC unroll 16
    for (int j = 0; j < N / 2; j++) {
      t[j] = pick<S, EveryOther<L, 0>>(v[2 * j], v[2 * j + 1]);
      t[N / 2 + j] = pick<S, EveryOther<L, 1>>(v[2 * j], v[2 * j + 1]);
    }
    split<S, N / 2>(t);
    split<S, N / 2>(t + N / 2);
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) v[j] = t[j];
  } else if constexpr (N == 3) {
    const Vec<S> a = v[0], b = v[1], c = v[2];
    v[0] = pick<S, ThirdsOfLast<L, 0>>(pick<S, ThirdsOfTwo<L, 0>>(a, b), c);
    v[1] = pick<S, ThirdsOfLast<L, 1>>(pick<S, ThirdsOfTwo<L, 1>>(a, b), c);
    v[2] = pick<S, ThirdsOfLast<L, 2>>(pick<S, ThirdsOfTwo<L, 2>>(a, b), c);
  }
}
template <class S, int N>
inline __attribute__((always_inline)) void join(Vec<S>* v) {
  constexpr int L = lanes<S>;
  if constexpr (N % 2 == 0) {
    Vec<S> t[N];
    join<S, N / 2>(v);
    join<S, N / 2>(v + N / 2);
#pragma GCC unroll 16
    for (int j = 0; j < N / 2; j++) {
      t[2 * j] = pick<S, Zip<L, 0>>(v[j], v[N / 2 + j]);
      t[2 * j + 1] = pick<S, Zip<L, 1>>(v[j], v[N / 2 + j]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) v[j] = t[j];
  } else if constexpr (N == 3) {
    const Vec<S> a = v[0], b = v[1], c = v[2];
    v[0] = pick<S, ZipLast<L, 0>>(pick<S, ZipTwo<L, 0>>(a, b), c);
    v[1] = pick<S, ZipLast<L, 1>>(pick<S, ZipTwo<L, 1>>(a, b), c);
    v[2] = pick<S, ZipLast<L, 2>>(pick<S, ZipTwo<L, 2>>(a, b), c);
  }
}
void order_of(int* order, int n, int first, int step) {
  if (n % 2 == 0) {
    order_of(order, n / 2, first, 2 * step);
    order_of(order + n / 2, n / 2, first + step, 2 * step);
  } else {
    for (int i = 0; i < n; i++) order[i] = first + i * step;
  }
}

// Where `split` leaves a rotation.
constexpr int place_of(int rotation, int n) {
  if (n % 2) return rotation;
  return rotation % 2 * (n / 2) + place_of(rotation / 2, n / 2);
}

// The orthogonal transform between n rotations [lanes][n] in memory and n vectors of planes.
// `matrix` is [rotation][plane], its rotations in the order in which `split` leaves them.
template <class S, int N>
void analyse(const S* p, const S* matrix, Vec<S>* to, int) {
  constexpr int GROUP = N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N;
  Vec<S> v[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) v[i] = load(p + i * lanes<S>);
  split<S, N>(v);
#pragma GCC unroll 16
  for (int k = 0; k < N; k += GROUP) {
    Vec<S> sum[GROUP];
#pragma GCC unroll 4
    for (int l = 0; l < GROUP; l++) sum[l] = matrix[k + l] * v[0];
#pragma GCC unroll 16
    for (int i = 1; i < N; i++)
#pragma GCC unroll 4
      for (int l = 0; l < GROUP; l++) sum[l] += matrix[i * N + k + l] * v[i];
#pragma GCC unroll 4
    for (int l = 0; l < GROUP; l++) to[k + l] = sum[l];
  }
}
template <class S, int N>
void synthesise(const Vec<S>* from, const S* matrix, Vec<S> bias, S* p, int) {
  constexpr int GROUP = N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N;
  Vec<S> v[N];
#pragma GCC unroll 16
  for (int h = 0; h < N; h += GROUP) {
    Vec<S> sum[GROUP];
#pragma GCC unroll 4
    for (int l = 0; l < GROUP; l++) sum[l] = bias;
#pragma GCC unroll 16
    for (int k = 0; k < N; k++)
#pragma GCC unroll 4
      for (int l = 0; l < GROUP; l++) sum[l] += matrix[(h + l) * N + k] * from[k];
#pragma GCC unroll 4
    for (int l = 0; l < GROUP; l++) v[h + l] = sum[l];
  }
  join<S, N>(v);
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) store(p + i * lanes<S>, v[i]);
}
// The same for a large n, with all sums in the order of `analyse_any`; rotations of `matrix` are in
// their own order.
template <class S, int N>
void analyse_large(const S* p, const S* matrix, Vec<S>* to, int) {
  Vec<S> v[N], f[N];
#pragma GCC unroll 32
  for (int i = 0; i < N; i++) v[i] = load(p + i * lanes<S>);
  split<S, N>(v);
#pragma GCC unroll 32
  for (int h = 0; h < N; h++) f[h] = v[place_of(h, N)];
  for (int k = 0; k < N; k += 8) {
    Vec<S> sum[8] = {};
    for (int h = 0; h < N; h++)
#pragma GCC unroll 8
      for (int l = 0; l < 8; l++) sum[l] += matrix[h * N + k + l] * f[h];
#pragma GCC unroll 8
    for (int l = 0; l < 8; l++) to[k + l] = sum[l];
  }
}
template <class S, int N>
void synthesise_large(const Vec<S>* from, const S* matrix, Vec<S> bias, S* p, int) {
  Vec<S> v[N], f[N];
  for (int h = 0; h < N; h += 8) {
    Vec<S> sum[8];
#pragma GCC unroll 8
    for (int l = 0; l < 8; l++) sum[l] = bias;
    for (int k = 0; k < N; k++)
#pragma GCC unroll 8
      for (int l = 0; l < 8; l++) sum[l] += matrix[(h + l) * N + k] * from[k];
#pragma GCC unroll 8
    for (int l = 0; l < 8; l++) f[h + l] = sum[l];
  }
#pragma GCC unroll 32
  for (int h = 0; h < N; h++) v[place_of(h, N)] = f[h];
  join<S, N>(v);
#pragma GCC unroll 32
  for (int i = 0; i < N; i++) store(p + i * lanes<S>, v[i]);
}
// The same for any n.
template <class S>
void analyse_any(const S* p, const S* matrix, Vec<S>* to, int n) {
  constexpr int L = lanes<S>;
  for (int k = 0; k < n; k++) to[k] = Vec<S>{};
  for (int h = 0; h < n; h++) {
    S lane[L];
    for (int l = 0; l < L; l++) lane[l] = p[l * n + h];
    const Vec<S> v = load(lane);
    for (int k = 0; k < n; k++) to[k] += matrix[h * n + k] * v;
  }
}
template <class S>
void synthesise_any(const Vec<S>* from, const S* matrix, Vec<S> bias, S* p, int n) {
  constexpr int L = lanes<S>;
  for (int h = 0; h < n; h++) {
    Vec<S> sum = bias;
    for (int k = 0; k < n; k++) sum += matrix[h * n + k] * from[k];
    for (int l = 0; l < L; l++) p[l * n + h] = sum[l];
  }
}
template <class S>
struct Transform {
  void (*analyse)(const S*, const S*, Vec<S>*, int) = analyse_any<S>;
  void (*synthesise)(const Vec<S>*, const S*, Vec<S>, S*, int) = synthesise_any<S>;
  std::vector<S> matrix;
  Transform(const double* rows, int n) : matrix(n * n) {
    std::vector<int> order(n);
    for (int i = 0; i < n; i++) order[i] = i;
    if (n == 4) take<4>(order);
    if (n == 6) take<6>(order);
    if (n == 8) take<8>(order);
    if (n == 12) take<12>(order);
    if (n == 16) take<16>(order);
    if (n == 24) take_large<24>();
    if (n == 32) take_large<32>();
    for (int k = 0; k < n; k++)
      for (int i = 0; i < n; i++) matrix[i * n + k] = S(rows[k * n + order[i]]);
  }
  template <int N>
  void take(std::vector<int>& order) {
    order_of(order.data(), N, 0, 1);
    this->analyse = ::analyse<S, N>;
    this->synthesise = ::synthesise<S, N>;
  }
  template <int N>
  void take_large() {
    this->analyse = ::analyse_large<S, N>;
    this->synthesise = ::synthesise_large<S, N>;
  }
};

// ---- Numbers of 16 bits -------------------------------------------------------------------------

typedef uint16_t Half;  // a bfloat16

inline float widen(Half h) {
  const uint32_t bits = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline Half narrow(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (f != f) return 0x7fc0;
  return Half((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
template <class S, class M>
inline void copy_in(S* to, const M* from, int64_t count) {
  if constexpr (std::is_same_v<M, Half>)
    for (int64_t i = 0; i < count; i++) to[i] = widen(from[i]);
  else
    std::memcpy(to, from, count * sizeof(S));
}
template <class S, class M>
inline void copy_out(M* to, const S* from, int64_t count) {
  if constexpr (std::is_same_v<M, Half>) {
    int64_t i = 0;
#if defined(__AVX512BF16__)
    for (; i + 16 <= count; i += 16) {
      const __m256bh h = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
      std::memcpy(to + i, &h, 32);
    }
#endif
    for (; i < count; i++) to[i] = narrow(from[i]);
  } else {
    std::memcpy(to, from, count * sizeof(S));
  }
}

// ---- Products -----------------------------------------------------------------------------------

// c[i][j] (+)= sum over slots and k of a[i, slot, k] b[slot, k][j], for `M` rows and `N` vectors.
struct Product {
  int64_t row, step, slot;   // of a, in bytes
  int64_t slots, depth;      // numbers of terms
  int64_t of_b, of_c;        // from row to row of b and c, in numbers
  bool add;                  // to what c holds
};
template <class S>
struct Plain {
  typedef S Number;
  static inline Vec<S> madd(Vec<S> c, const char* a, Vec<S> b) {
    S s;
    std::memcpy(&s, a, sizeof s);
    return c + s * b;
  }
};
#if defined(__AVX512BF16__)
struct Pairs {  // of bfloat16, two terms at a time
  typedef float Number;
  static inline Vec<float> madd(Vec<float> c, const char* a, Vec<float> b) {
    int32_t s;
    std::memcpy(&s, a, sizeof s);
    return (Vec<float>)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(s), (__m512bh)b);
  }
};
#endif

template <class T, int M, int N>
void micro(const char* a, const typename T::Number* b, typename T::Number* c, const Product& q) {
  typedef typename T::Number S;
  constexpr int L = lanes<S>;
  Vec<S> sum[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) sum[i][j] = q.add ? load(c + i * q.of_c + j * L) : Vec<S>{};
  const int64_t row = q.row, step = q.step, of_b = q.of_b, depth = q.depth;
  for (int64_t s = 0; s < q.slots; s++) {
    const char* p[(M + 2) / 3];
#pragma GCC unroll 8
    for (int i = 0; i < (M + 2) / 3; i++) p[i] = a + 3 * i * row;
    for (int64_t k = 0; k < depth; k++) {
      Vec<S> right[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) right[j] = load(b + j * L);
      b += of_b;
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) {
        const char* left = p[i / 3] + (i % 3) * row;
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) sum[i][j] = T::madd(sum[i][j], left, right[j]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < (M + 2) / 3; i++) p[i] += step;
    }
    a += q.slot;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) store(c + i * q.of_c + j * L, sum[i][j]);
}

template <class T>
using Micro = void (*)(const char*, const typename T::Number*, typename T::Number*, const Product&);
constexpr int most_rows(int vectors) { return vectors == 1 ? ROWS1 : vectors == 2 ? ROWS2 : ROWS3; }
template <class T, int N, size_t... M>
Micro<T> micro_of(int rows, std::index_sequence<M...>) {
  static const Micro<T> table[] = {micro<T, int(M) + 1, N>...};
  return table[rows - 1];
}
template <class T>
Micro<T> micro_of(int rows, int vectors) {
  if (vectors == 1) return micro_of<T, 1>(rows, std::make_index_sequence<ROWS1>{});
  if (vectors == 2) return micro_of<T, 2>(rows, std::make_index_sequence<ROWS2>{});
  return micro_of<T, 3>(rows, std::make_index_sequence<ROWS3>{});
}
// All rows, in groups as equal as can be.
template <class T>
void product(const char* a, const typename T::Number* b, typename T::Number* c, int64_t rows,
             int vectors, const Product& q) {
  const int64_t groups = (rows + most_rows(vectors) - 1) / most_rows(vectors);
  for (int64_t g = 0; g < groups; g++) {
    const int64_t first = rows * g / groups, last = rows * (g + 1) / groups;
    micro_of<T>(int(last - first), vectors)(a + first * q.row, b, c + first * q.of_c, q);
  }
}

#if defined(__AMX_BF16__)
// ---- Products by AMX ----------------------------------------------------------------------------

// The tile registers: 0 ... 5 hold c, 6 a tile of a, 7 one of b.
struct TileShape {
  int rows, pairs, columns;  // of a and c; of a and b, terms are pairs of bfloat16; of b and c
  bool operator==(const TileShape&) const = default;
};
class Tiles {
  TileShape now{0, 0, 0};

 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }
  void shape(const TileShape& wanted) {
    if (wanted == now) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } layout;
    for (int i = 0; i < 8; i++) {
      layout.bytes[i] = uint16_t(4 * (i == 6 ? wanted.pairs : wanted.columns));
      layout.rows[i] = uint8_t(i == 7 ? wanted.pairs : wanted.rows);
    }
    asm volatile("" ::"r"(&layout) : "memory");
    _tile_loadconfig(&layout);
    now = wanted;
  }
};

// c (+)= sum over steps of a b, for `M` x `N` tiles. All distances are in bytes.
struct TileProduct {
  int64_t steps;
  int64_t row_a, next_a, step_a;  // to the next row, tile and step
  int64_t row_b, next_b, step_b;
  int64_t row_c, down_c, right_c;  // to the next row, and to the tiles below and to the right
  bool add;                        // to what c holds
};
template <int M, int N>
void tile_product(const char* a, const char* b, char* c, const TileProduct& q) {
  asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
  char* below = c + q.down_c;
#define EACH_TILE_OF_C(DO)              \
  DO(0, c);                             \
  if constexpr (N > 1) DO(1, c + q.right_c);         \
  if constexpr (N > 2) DO(2, c + 2 * q.right_c);     \
  if constexpr (M > 1) DO(3, below);                 \
  if constexpr (M > 1 && N > 1) DO(4, below + q.right_c); \
  if constexpr (M > 1 && N > 2) DO(5, below + 2 * q.right_c);
#define LOAD(tile, place) _tile_loadd(tile, place, q.row_c)
#define CLEAR(tile, place) _tile_zero(tile)
#define STORE(tile, place) _tile_stored(tile, place, q.row_c)
  if (q.add) {
    EACH_TILE_OF_C(LOAD)
  } else {
    EACH_TILE_OF_C(CLEAR)
  }
  for (int64_t s = 0; s < q.steps; s++, a += q.step_a, b += q.step_b) {
    _tile_loadd(6, a, q.row_a);
    _tile_loadd(7, b, q.row_b);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (N > 1) {
      _tile_loadd(7, b + q.next_b, q.row_b);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (N > 2) {
      _tile_loadd(7, b + 2 * q.next_b, q.row_b);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (M > 1) {  // backwards: the last tile of b is there
      _tile_loadd(6, a + q.next_a, q.row_a);
      if constexpr (N > 2) {
        _tile_dpbf16ps(5, 6, 7);
        _tile_loadd(7, b + q.next_b, q.row_b);
      }
      if constexpr (N > 1) {
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(7, b, q.row_b);
      }
      _tile_dpbf16ps(3, 6, 7);
    }
  }
  EACH_TILE_OF_C(STORE)
  asm volatile("" ::: "memory");
#undef EACH_TILE_OF_C
#undef LOAD
#undef CLEAR
#undef STORE
}
void tile_product(int below, int beside, const char* a, const char* b, char* c,
                  const TileProduct& q) {
  if (below == 1 && beside == 1) tile_product<1, 1>(a, b, c, q);
  if (below == 1 && beside == 2) tile_product<1, 2>(a, b, c, q);
  if (below == 1 && beside == 3) tile_product<1, 3>(a, b, c, q);
  if (below == 2 && beside == 1) tile_product<2, 1>(a, b, c, q);
  if (below == 2 && beside == 2) tile_product<2, 2>(a, b, c, q);
  if (below == 2 && beside == 3) tile_product<2, 3>(a, b, c, q);
}
#endif

}  // namespace

// ---- The layer ----------------------------------------------------------------------------------

extern "C" struct JetCall {
  int64_t order, radius, blocks, slots;  // rotations, of the stencils, tables
  int64_t batch, inputs, outputs;        // inputs and outputs: channels of n rotations each
  int64_t source_height, source_width, source_origin, source_step;  // where the pixels lie
  int64_t height, width, origin, step;                              // where results are wanted
  int64_t numbers;                                                  // 0 float, 1 double, 2 bfloat16
  int64_t cache;                                                    // bytes for the slots of a tile
  int64_t central;  // 1: central differences, radius 2
  const int32_t* block_table;  // [blocks][2]: slots, parts
  const int32_t* slot_table;   // [slots][7]: kind, first, second, (number, sign) of two parts
  const double* transform;     // [n][n]
  const double* taps;          // [5][2 radius + 1]
  const double* mixing;        // [4], see algebra.py
  const void* source;          // [B, H, W, C, n]
  const void* weights;         // [13 n, C, C']
  const void* bias;            // [C'] or null
  void* result;                // [B, H', W', C', n] or null
  const void* target;          // [B, H', W', C', n] or null: asks for the gradient of the weights
  void* gradient;              // [13 n, C, C']
};

namespace {

struct Block {
  int slots, parts, first;     // first: its first slot
  int vectors, columns;        // of a row of the product, padded
  std::vector<int> panels;     // vectors of each panel
  int64_t at_weight, at_result, at_column;  // at_column: columns of the blocks before
};

// Memory of a thread, kept from call to call: its pages are mapped once, in large ones where the
// system has them, since the slots of a tile would take more small ones than the CPU remembers.
struct Arena {
  static constexpr size_t PAGE = size_t(1) << 21;
  char* data = nullptr;
  size_t size = 0, used = 0;
  bool measuring = false;
  Arena() = default;
  Arena(const Arena&) = delete;
  ~Arena() { std::free(data); }
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (std::max<int64_t>(count, 0) * sizeof(T) + 2 * ALIGN - 1) / ALIGN * ALIGN;
    char* here = measuring ? nullptr : data + used;
    used += bytes;
    return reinterpret_cast<T*>(here);
  }
  // `lay_out` takes all of it, once to measure and once for good.
  template <class F>
  void fill(const F& lay_out) {
    measuring = true, used = 0;
    lay_out(*this);
    measuring = false;
    if (used > size) {
      std::free(data);
      size = 0, data = nullptr;
      const size_t wanted = (used + PAGE - 1) / PAGE * PAGE;
      data = static_cast<char*>(std::aligned_alloc(PAGE, wanted));
      if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
      madvise(data, wanted, MADV_HUGEPAGE);
#endif
      std::memset(data, 0, wanted);
      size = wanted;
    }
    used = 0;
    lay_out(*this);
  }
};
thread_local Arena of_tiles, of_call;

// S: numbers of the arithmetic, M: of the maps. HALF: products of bfloat16.
template <class S, class M, bool HALF>
struct Layer {
  static constexpr int L = lanes<S>;
  static constexpr int GRAIN = HALF ? 2 : 1;  // channels of a chunk come in pairs
#if defined(__AMX_BF16__)
  static constexpr bool TILED = HALF;
#else
  static constexpr bool TILED = false;
#endif
  const JetCall& call;
  const int n, radius;
  const int64_t C, K, W;  // inputs, outputs, width of a row of slots in pixels
  std::vector<Block> blocks;
  const Transform<S> transform;
  const std::vector<S> taps, mixing;
  int64_t chunk, chunks, rows, tiles_per_image, tiles, pixels;
  int64_t weights_size = 0, result_width = 0, all_columns = 0;

  explicit Layer(const JetCall& c)
      : call(c), n(int(c.order)), radius(int(c.radius)), C(c.inputs), K(c.outputs),
        W(c.width * c.step), transform(c.transform, int(c.order)),
        taps(c.taps, c.taps + 5 * (2 * c.radius + 1)), mixing(c.mixing, c.mixing + 4) {
    plan();
    int first = 0;
    for (int i = 0; i < c.blocks; i++) {
      Block b;
      b.slots = c.block_table[2 * i], b.parts = c.block_table[2 * i + 1], b.first = first;
      first += b.slots;
      b.vectors = int((b.parts * K + L - 1) / L), b.columns = b.vectors * L;
      const int panels = (b.vectors + 2) / 3;
      for (int p = 0; p < panels; p++)
        b.panels.push_back(b.vectors * (p + 1) / panels - b.vectors * p / panels);
      b.at_weight = weights_size;
      weights_size += int64_t(b.slots) * (chunks * chunk) * b.columns;
      b.at_result = result_width, b.at_column = all_columns;
      all_columns += b.columns;
      result_width += pixels * b.columns + L;
      blocks.push_back(b);
    }
  }

  // Rows of a tile and channels of a chunk, so that the slots of both fit into the cache.
  void plan() {
    const int64_t H = call.height, size = HALF ? 2 : sizeof(S);
    for (chunks = 1;; chunks++) {
      chunk = (C + chunks - 1) / chunks;
      chunk = (chunk + GRAIN - 1) / GRAIN * GRAIN;
      const int64_t of_row = call.slots * chunk * W * size;
      rows = std::clamp<int64_t>(call.cache / std::max<int64_t>(of_row, 1), 1, std::max<int64_t>(H, 1));
      const bool enough = rows * call.width >= std::min<int64_t>(64, H * call.width);
      if ((enough || chunk <= 8) && (!TILED || chunk <= 32)) break;
    }
    chunks = (C + chunk - 1) / chunk;
    tiles_per_image = std::max<int64_t>((H + rows - 1) / rows, 1);
    // Few images: smaller tiles, so that no thread waits, down to 32 pixels.
    const int64_t wanted = (2 * at::get_num_threads() + call.batch - 1) / call.batch;
    const int64_t most = std::max<int64_t>(H * call.width / 32, 1);
    tiles_per_image = std::clamp(wanted, tiles_per_image, std::max(most, tiles_per_image));
    rows = (H + tiles_per_image - 1) / tiles_per_image;
    if (HALF && call.target && rows % 2 && rows < H) rows++, tiles_per_image = (H + rows - 1) / rows;
    tiles = call.batch * tiles_per_image;
    pixels = rows * call.width;
  }

  int64_t width_of(int64_t q) const {
    const int64_t valid = std::min(chunk, C - q * chunk);
    return (valid + GRAIN - 1) / GRAIN * GRAIN;
  }

  // Where the weights of (block, chunk) lie: [panel][slot][channel][column of the panel].
  int64_t at(const Block& b, int64_t q) const {
    return b.at_weight + int64_t(b.slots) * q * chunk * b.columns;
  }

  __attribute__((noinline)) void pack(S* packed) const {
    const S* numbers = static_cast<const S*>(call.weights);
    const int64_t count = int64_t(blocks.size()) * chunks;
    at::parallel_for(0, count, 1, [&](int64_t low, int64_t high) {
      for (int64_t i = low; i < high; i++) {
        const Block& b = blocks[i / chunks];
        const int64_t q = i % chunks, valid = std::min(chunk, C - q * chunk), wide = width_of(q);
        std::vector<S> line(b.columns);
        S* to = packed + at(b, q);
        for (int s = 0; s < b.slots; s++)
          for (int64_t c = 0; c < wide; c++) {
            const int32_t* slot = call.slot_table + 7 * (b.first + s);
            if (c == valid) line.assign(b.columns, S(0));  // the channel that makes a pair
            for (int part = 0; part < b.parts && c < valid; part++) {
              const S* from = numbers + (slot[3 + 2 * part] * C + q * chunk + c) * K;
              const S sign = S(slot[4 + 2 * part]);
              for (int64_t k = 0; k < K; k++) line[part * K + k] = sign * from[k];
            }
            int64_t panel_at = 0, column = 0;
            for (int v : b.panels) {
              const int64_t row = s * wide + c, columns = v * L;
              for (int64_t j = 0; j < columns; j++) {
                const S value = column + j < int64_t(line.size()) ? line[column + j] : S(0);
                if constexpr (HALF) {
                  Half* pairs = reinterpret_cast<Half*>(to) + panel_at +
                                ((row / 2) * columns + j) * 2 + row % 2;
                  *pairs = narrow(value);
                } else {
                  to[panel_at + row * columns + j] = value;
                }
              }
              panel_at += b.slots * wide * columns;
              column += columns;
            }
          }
      }
    });
  }

  // The sum of the threads' gradients, in the layout of the numbers.
  __attribute__((noinline)) void unpack(const S* packed, int64_t threads) const {
    S* numbers = static_cast<S*>(call.gradient);
    std::memset(numbers, 0, sizeof(S) * JETS * n * C * K);
    at::parallel_for(0, C, 1, [&](int64_t low, int64_t high) {
      std::vector<S> line;
      for (int64_t channel = low; channel < high; channel++) {
        const int64_t q = channel / chunk, c = channel % chunk, wide = width_of(q);
        for (const Block& b : blocks)
          for (int s = 0; s < b.slots; s++) {
            line.assign(b.columns, S(0));
            for (int64_t t = 0; t < threads; t++) {
              const S* from = packed + t * weights_size + at(b, q);
              int64_t column = 0;
              for (int v : b.panels) {
                const int64_t columns = v * L, row = s * wide + c;
                if constexpr (TILED)  // [column][channel] of every slot
                  for (int64_t j = 0; j < columns; j++)
                    line[column + j] += from[(s * columns + j) * wide + c];
                else
                  for (int64_t j = 0; j < columns; j++) line[column + j] += from[row * columns + j];
                from += b.slots * wide * columns;
                column += columns;
              }
            }
            const int32_t* slot = call.slot_table + 7 * (b.first + s);
            for (int part = 0; part < b.parts; part++) {
              S* to = numbers + (slot[3 + 2 * part] * C + channel) * K;
              const S sign = S(slot[4 + 2 * part]);
              for (int64_t k = 0; k < K; k++) to[k] += sign * line[part * K + k];
            }
          }
      }
    });
  }

  struct Scratch {
    // of filtered rows, planes, slots and slots of pairs, in numbers, and of pairs of a target
    int64_t pitch, plane, slot, pair, turned;
    S *staged, *planes, *filtered, *result, *target, *out;
    char *slots, *pairs;
    int32_t* target_pairs;
    Vec<S>*jets, *v;
    int64_t image = -1, next_row = -1;  // whose last rows the planes hold
    // An odd number of cache lines, so that the slots do not share a set of the cache.
    static int64_t slot_of(int64_t numbers) {
      const int64_t line = ALIGN / (HALF ? 2 : sizeof(S));
      return ((numbers + line - 1) / line / 2 * 2 + 1) * line;
    }
    Scratch(const Layer& l, Arena& arena) {
      const int64_t n = l.n, plane_rows = (l.rows - 1) * l.call.step + 2 * l.radius + 1;
      const bool target_wanted = l.call.target != nullptr;
      pitch = (l.W + 2 * l.radius) * l.chunk + 2 * L;
      plane = (pitch * plane_rows + L + 15) / 16 * 16 + 16;
      slot = slot_of(l.pixels * l.call.step * l.chunk + 2 * L);
      // Tiles have up to 16 pairs: those beyond the last are zeros.
      const int64_t pairs_of_pixels = (l.rows + 1) / 2 * l.W + 16;
      pair = TILED ? slot_of(pairs_of_pixels * l.chunk) : slot;
      turned = slot_of(pairs_of_pixels);
      arena.fill([&](Arena& a) {
        jets = a.take<Vec<S>>(2 * n * JETS);
        v = a.take<Vec<S>>(n);
        out = a.take<S>(L * n);
        staged = a.take<S>((pitch + L) * n);
        planes = a.take<S>(plane * n);
        filtered = a.take<S>(l.call.central ? 0 : 5 * n * pitch + L);
        slots = a.take<char>(l.call.slots * slot * (HALF ? 2 : sizeof(S)) + ALIGN);
        result = a.take<S>(l.result_width + L);
        target = a.take<S>(target_wanted ? l.result_width + L : 0);
        pairs = a.take<char>(HALF && target_wanted ? l.call.slots * pair * 4 : 0);
        const int64_t of_target = TILED ? l.all_columns * turned : l.result_width + L;
        target_pairs = a.take<int32_t>(HALF && target_wanted ? of_target : 0);
      });
    }
  };

  // ---- 1. Planes of the source around a tile
  __attribute__((noinline)) void transform_source(Scratch& x, int64_t image, int64_t row, int64_t count, int64_t q) const {
    const int64_t wide = width_of(q), valid = std::min(chunk, C - q * chunk);
    const int64_t step = call.source_step, pitch = (W + 2 * radius) * wide + L;
    const int64_t columns = W + 2 * radius;
    const int64_t needed = (count - 1) * call.step + 2 * radius + 1;
    // columns that hold pixels of the source, or lie between some
    const int64_t left = call.origin - radius - call.source_origin;  // of column 0, in the source
    const int64_t begin = std::clamp<int64_t>(-left, 0, columns);
    const int64_t end = std::clamp<int64_t>((call.source_width - 1) * step + 1 - left, begin, columns);
    const M* source = static_cast<const M*>(call.source);
    int64_t r = 0;
    if (chunks == 1 && x.image == image && x.next_row == row) {  // the tile below the last one
      r = std::max<int64_t>(2 * radius + 1 - call.step, 0);
      for (int k = 0; k < n; k++)
        std::memmove(x.planes + k * x.plane, x.planes + k * x.plane + rows * call.step * pitch,
                     r * pitch * sizeof(S));
    }
    x.image = image, x.next_row = row + count;
    const bool whole = chunks == 1 && step == 1 && wide == valid;
    for (; r < needed; r++) {
      const int64_t y = row * call.step + call.origin - radius + r - call.source_origin;
      const bool inside = y >= 0 && y % step == 0 && y / step < call.source_height && end > begin;
      if (!inside) {
        for (int k = 0; k < n; k++) std::fill_n(x.planes + k * x.plane + r * pitch, pitch, S(0));
        continue;
      }
      const M* line = source + ((image * call.source_height + y / step) * call.source_width) * C * n;
      const S* from = x.staged;
      if (std::is_same_v<S, M> && whole)
        from = reinterpret_cast<const S*>(line + (begin + left) * C * n);
      else if (whole)
        copy_in(x.staged, line + (begin + left) * C * n, (end - begin) * C * n);
      for (int64_t c = begin; c < end && !whole; c++) {
        S* to = x.staged + (c - begin) * wide * n;
        if ((c + left) % step == 0) {
          copy_in(to, line + (c + left) / step * C * n + q * chunk * n, valid * n);
          if (wide > valid) std::fill_n(to + valid * n, (wide - valid) * n, S(0));
        } else {
          std::fill_n(to, wide * n, S(0));
        }
      }
      const int64_t numbers = (end - begin) * wide;
      for (int64_t i = 0; i < numbers; i += L) {
        const S* here = from + i * n;
        if (std::is_same_v<S, M> && whole && i + L > numbers) {  // reads no pixel beyond the row
          std::copy_n(here, (numbers - i) * n, x.staged);
          here = x.staged;
        }
        transform.analyse(here, transform.matrix.data(), x.v, n);
        for (int k = 0; k < n; k++)
          store(x.planes + k * x.plane + r * pitch + begin * wide + i, x.v[k]);
      }
      for (int k = 0; k < n; k++) {
        S* to = x.planes + k * x.plane + r * pitch;
        std::fill_n(to, begin * wide, S(0));
        std::fill_n(to + end * wide, pitch - end * wide, S(0));
      }
    }
  }

  // ---- 2. Jets of a row
  // Entries of `j` lie `B` apart: so many blocks of lanes are made side by side.
  template <int B>
  inline void combine(Vec<S>* j, Vec<S> m00, Vec<S> m10, Vec<S> m01, Vec<S> m20, Vec<S> m11,
                      Vec<S> m02, Vec<S> m30, Vec<S> m21, Vec<S> m12, Vec<S> m03, Vec<S> m40,
                      Vec<S> m31, Vec<S> m22, Vec<S> m13, Vec<S> m04) const {
    const Vec<S> z11 = m20 + m02 + mixing[0] * m00, ends = m40 + m04;
    j[0 * B] = m00;
    j[1 * B] = m10, j[2 * B] = m01;
    j[3 * B] = m20 - m02, j[4 * B] = m11 + m11, j[5 * B] = z11;
    j[6 * B] = m30 - S(3) * m12, j[7 * B] = S(3) * m21 - m03;
    j[8 * B] = m30 + m12 + mixing[3] * m10, j[9 * B] = m21 + m03 + mixing[3] * m01;
    j[10 * B] = ends - S(6) * m22, j[11 * B] = S(4) * (m31 - m13);
    j[12 * B] = ends + S(2) * m22 + mixing[1] * z11 + mixing[2] * m00;
  }
  template <int B>
  inline void central_jets(const S* p, int64_t pitch, int64_t w, Vec<S>* j) const {
    const S half = S(0.5);
    Vec<S> c[5], u[5], d[5], u2[3], d2[3];
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      u[i] = load(p + pitch + i * w), c[i] = load(p + 2 * pitch + i * w);
      d[i] = load(p + 3 * pitch + i * w);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      u2[i] = load(p + (i + 1) * w), d2[i] = load(p + 4 * pitch + (i + 1) * w);
    }
    Vec<S> y1[5], y2[3], y3[3];
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) y1[i] = half * (u[i] - d[i]);
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      y2[i] = u[i + 1] + d[i + 1] - S(2) * c[i + 1];
      y3[i] = half * (u2[i] - d2[i]) - S(2) * y1[i + 1];
    }
    const Vec<S> y4 = u2[1] + d2[1] - S(4) * (u[2] + d[2]) + S(6) * c[2];
    const Vec<S> odd = c[3] - c[1], even = c[3] + c[1];
    const Vec<S> odd1 = y1[3] - y1[1], even1 = y1[3] + y1[1];
    combine<B>(j, c[2], half * odd, y1[2], even - S(2) * c[2], half * odd1, y2[1],
            half * (c[4] - c[0]) - odd, even1 - S(2) * y1[2], half * (y2[2] - y2[0]), y3[1],
            c[4] + c[0] - S(4) * even + S(6) * c[2], half * (y1[4] - y1[0]) - odd1,
            y2[2] + y2[0] - S(2) * y2[1], half * (y3[2] - y3[0]), y4);
  }
  // Five derivatives along y of a row of planes, for general taps (even orders are symmetric, odd
  // ones antisymmetric). Rows run down and y points up.
  void filter_columns(Scratch& x, const S* top, int64_t pitch, int64_t length, S* to) const {
    const int r = radius, k = 2 * r + 1;
    for (int64_t i = 0; i < length; i += L) {
      const Vec<S> centre = load(top + r * pitch + i);
      Vec<S> f[5] = {taps[r] * centre, Vec<S>{}, taps[2 * k + r] * centre, Vec<S>{},
                     taps[4 * k + r] * centre};
      for (int t = 1; t <= r; t++) {
        const Vec<S> above = load(top + (r - t) * pitch + i), below = load(top + (r + t) * pitch + i);
        const Vec<S> odd = above - below, even = above + below;
        f[0] += taps[r + t] * even, f[1] += taps[k + r + t] * odd;
        f[2] += taps[2 * k + r + t] * even, f[3] += taps[3 * k + r + t] * odd;
        f[4] += taps[4 * k + r + t] * even;
      }
      for (int o = 0; o < 5; o++) store(to + o * x.pitch + i, f[o]);
    }
  }
  template <int B>
  void filtered_jets(const S* p, int64_t pitch, int64_t w, Vec<S>* j) const {
    const int r = radius, k = 2 * r + 1;
    Vec<S> m[5][5];
    for (int o = 0; o < 5; o++) {
      const S* q = p + o * pitch;
      const Vec<S> centre = load(q + r * w);
      Vec<S> f[5] = {taps[r] * centre, Vec<S>{}, taps[2 * k + r] * centre, Vec<S>{},
                     taps[4 * k + r] * centre};
      for (int t = 1; t <= r; t++) {
        const Vec<S> right = load(q + (r + t) * w), left = load(q + (r - t) * w);
        const Vec<S> odd = right - left, even = right + left;
        f[0] += taps[r + t] * even;
        if (o < 4) f[1] += taps[k + r + t] * odd;
        if (o < 3) f[2] += taps[2 * k + r + t] * even;
        if (o < 2) f[3] += taps[3 * k + r + t] * odd;
        if (o < 1) f[4] += taps[4 * k + r + t] * even;
      }
      for (int i = 0; i < 5 - o; i++) m[i][o] = f[i];
    }
    combine<B>(j, m[0][0], m[1][0], m[0][1], m[2][0], m[1][1], m[0][2], m[3][0], m[2][1], m[1][2],
            m[0][3], m[4][0], m[3][1], m[2][2], m[1][3], m[0][4]);
  }

  struct Copy {
    int64_t slot;
    int first, second;
  };
  std::vector<Copy> copies[3];  // of kind 0, 1 (sum), -1 (difference)
  void sort_slots() {
    for (int s = 0; s < call.slots; s++) {
      const int32_t* slot = call.slot_table + 7 * s;
      copies[slot[0] < 0 ? 2 : slot[0]].push_back({s, slot[1], slot[2]});
    }
  }
  template <int B>
  static inline void put(char* to, const Vec<S>* v) {
#if defined(__AVX512BF16__)
    if constexpr (HALF && B == 2) {
      const __m512bh h = _mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
      std::memcpy(to, &h, sizeof h);
      return;
    } else if constexpr (HALF) {
      const __m256bh h = _mm512_cvtneps_pbh((__m512)v[0]);
      std::memcpy(to, &h, sizeof h);
      return;
    }
#endif
    std::memcpy(to, v, B * BYTES);
  }
  template <int B>
  inline void slots_of_block(Scratch& x, const S* top, int64_t pitch, int64_t wide, int64_t i,
                             char* to) const {
    Vec<S>* j = x.jets;
    for (int k = 0; k < n; k++)
      for (int b = 0; b < B; b++)
        if (call.central)
          central_jets<B>(top + k * x.plane + i + b * L, pitch, wide, j + k * JETS * B + b);
        else
          filtered_jets<B>(x.filtered + 5 * k * x.pitch + i + b * L, x.pitch, wide,
                           j + k * JETS * B + b);
    const int64_t slot = x.slot * (HALF ? 2 : sizeof(S));
    for (const Copy& c : copies[0]) put<B>(to + c.slot * slot, j + c.first * B);
    for (const Copy& c : copies[1]) {
      Vec<S> v[B];
      for (int b = 0; b < B; b++) v[b] = j[c.first * B + b] + j[c.second * B + b];
      put<B>(to + c.slot * slot, v);
    }
    for (const Copy& c : copies[2]) {
      Vec<S> v[B];
      for (int b = 0; b < B; b++) v[b] = j[c.first * B + b] - j[c.second * B + b];
      put<B>(to + c.slot * slot, v);
    }
  }
  __attribute__((noinline)) void jets_of_row(Scratch& x, int64_t r, int64_t wide) const {
    constexpr int64_t size = HALF ? 2 : sizeof(S);
    const int64_t pitch = (W + 2 * radius) * wide + L, length = W * wide;
    const S* top = x.planes + r * call.step * pitch;
    if (!call.central)
      for (int k = 0; k < n; k++)
        filter_columns(x, top + k * x.plane, pitch, (W + 2 * radius) * wide,
                       x.filtered + 5 * k * x.pitch);
    char* to = x.slots + r * length * size;
    int64_t i = 0;
    for (; i + L < length; i += 2 * L) slots_of_block<2>(x, top, pitch, wide, i, to + i * size);
    if (i < length) slots_of_block<1>(x, top, pitch, wide, i, to + i * size);
  }

  // ---- 3. and 4. Products
#if defined(__AVX512BF16__)
  typedef std::conditional_t<HALF, Pairs, Plain<S>> Kind;
#else
  typedef Plain<S> Kind;
#endif
#if defined(__AMX_BF16__)
  // The products of a tile of slots, 32 pixels at a time, as equal as can be. Where their number is
  // odd, the two tiles of pixels share one, and both compute it.
  void multiply_tiles(Scratch& x, const S* packed, int64_t q, int64_t count) const {
    const int64_t wide = width_of(q), row = call.step * wide * 2, all = count * call.width;
    const int64_t groups = (all + 31) / 32;
    Tiles tiles;
    for (const Block& b : blocks) {
      const char* weight = reinterpret_cast<const char*>(packed + at(b, q));
      int64_t column = 0;
      for (int v : b.panels) {
        for (int64_t g = 0; g < groups; g++) {
          const int64_t first = all * g / groups, here = all * (g + 1) / groups - first;
          const int below = here > 16 ? 2 : 1;
          const int64_t high = (here + below - 1) / below, next = here - high;
          tiles.shape({int(high), int(wide / 2), L});
          const TileProduct p{b.slots, row, next * row, x.slot * 2,
                              v * L * 4, L * 4, wide / 2 * v * L * 4,
                              b.columns * 4, next * b.columns * 4, L * 4, q > 0};
          S* to = x.result + b.at_result + first * b.columns + column;
          tile_product(below, v, x.slots + b.first * x.slot * 2 + first * row, weight,
                       reinterpret_cast<char*>(to), p);
        }
        column += v * L;
        weight += b.slots * wide * v * L * 2;
      }
    }
  }
  // The gradient of the weights, [column][channel] of every slot, over `depth` pairs of pixels.
  void accumulate_tiles(Scratch& x, S* packed, int64_t wide, int64_t q, int64_t depth) const {
    const int64_t steps = (depth + 15) / 16, pairs = (depth + steps - 1) / steps;
    const int beside = wide > 16 ? 2 : 1;
    const int64_t channels = wide / beside;
    Tiles tiles;
    tiles.shape({L, int(pairs), int(channels)});
    const TileProduct p{steps, x.turned * 4, L * x.turned * 4, pairs * 4,
                        wide * 4, channels * 4, pairs * wide * 4,
                        wide * 4, L * wide * 4, channels * 4, true};
    for (const Block& b : blocks) {
      char* to = reinterpret_cast<char*>(packed + at(b, q));
      const char* target = reinterpret_cast<const char*>(x.target_pairs + b.at_column * x.turned);
      for (int v : b.panels) {
        for (int s = 0; s < b.slots; s++)
          for (int i = 0; i < v; i += 2)
            tile_product(std::min(v - i, 2), beside, target + i * p.next_a,
                         x.pairs + (b.first + s) * x.pair * 4, to + (s * v + i) * p.down_c, p);
        target += v * p.next_a;
        to += b.slots * wide * v * L * 4;
      }
    }
  }
#endif
  __attribute__((noinline)) void multiply(Scratch& x, const S* packed, int64_t q, int64_t count) const {
    constexpr int64_t size = HALF ? 2 : sizeof(S);
    const int64_t wide = width_of(q);
#if defined(__AMX_BF16__)
    if constexpr (TILED) return multiply_tiles(x, packed, q, count);
#endif
    for (const Block& b : blocks) {
      const S* weight = packed + at(b, q);
      const int64_t depth = wide / GRAIN;
      int64_t column = 0, panel_at = 0;
      for (int v : b.panels) {
        const Product p{call.step * wide * size, GRAIN * size, x.slot * size, b.slots, depth,
                        v * L, b.columns, q > 0};
        const S* right = HALF ? reinterpret_cast<const S*>(
                                    reinterpret_cast<const Half*>(weight) + panel_at)
                              : weight + panel_at;
        product<Kind>(x.slots + b.first * x.slot * size, right,
                      x.result + b.at_result + column, count * call.width, v, p);
        column += v * L;
        panel_at += b.slots * wide * v * L;
      }
    }
  }
  __attribute__((noinline)) void accumulate(Scratch& x, S* packed, int64_t q, int64_t count) const {
    const int64_t wide = width_of(q), length = W * wide, pair_rows = (count + 1) / 2;
#if defined(__AVX512BF16__)
    if constexpr (HALF)  // two rows of slots as pairs, zeros below the last
      for (int64_t s = 0; s < call.slots; s++)
        for (int64_t r = 0; r < pair_rows; r++) {
          const Half* upper = reinterpret_cast<const Half*>(x.slots) + s * x.slot + 2 * r * length;
          int32_t* to = reinterpret_cast<int32_t*>(x.pairs) + s * x.pair + r * length;
          const bool both = 2 * r + 1 < count;
          for (int64_t i = 0; i < length; i += 16) {
            __m256i a, b = _mm256_setzero_si256();
            std::memcpy(&a, upper + i, 32);
            if (both) std::memcpy(&b, upper + length + i, 32);
            const __m512i low = _mm512_cvtepu16_epi32(a), high = _mm512_cvtepu16_epi32(b);
            const __m512i pair = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            std::memcpy(to + i, &pair, 64);
          }
        }
#endif
#if defined(__AMX_BF16__)
    if constexpr (TILED) {
      for (int64_t s = 0; s < call.slots; s++)
        std::memset(x.pairs + (s * x.pair + pair_rows * length) * 4, 0, 15 * wide * 4);
      return accumulate_tiles(x, packed, wide, q, pair_rows * W);
    }
#endif
    const char* left = HALF ? x.pairs : x.slots;
    for (const Block& b : blocks) {
      S* to = packed + at(b, q);
      int64_t column = 0;
      for (int v : b.panels) {
        const int64_t depth = HALF ? pair_rows * W : count * W;
        const Product p{int64_t(sizeof(S)), int64_t(wide * sizeof(S)), 0, 1, depth, b.columns,
                        v * L, true};
        const S* right = HALF ? reinterpret_cast<const S*>(x.target_pairs) : x.target;
        for (int s = 0; s < b.slots; s++)
          product<Kind>(left + (b.first + s) * x.pair * sizeof(S), right + b.at_result + column,
                        to + s * wide * v * L, wide, v, p);
        column += v * L;
        to += b.slots * wide * v * L;
      }
    }
  }

  // ---- Maps at the places of the results
  // Plane k is a part of a block.
  S* at_plane(S* map, int64_t pixel, int k, int64_t channel) const {
    const int block = (k + 1) / 2;  // planes 0 | 1 2 | 3 4 | ...
    const Block& b = blocks[block];
    const int part = k > 0 && k % 2 == 0 ? 1 : 0;
    return map + b.at_result + pixel * b.columns + part * K + channel;
  }
  __attribute__((noinline)) void transform_target(Scratch& x, int64_t image, int64_t row, int64_t count) const {
    const M* from = static_cast<const M*>(call.target) +
                    (image * call.height + row) * call.width * K * n;
    for (int64_t p = 0; p < count * call.width; p++)
      for (int64_t c = 0; c < K; c += L) {
        const int here = int(std::min<int64_t>(L, K - c));
        copy_in(x.staged, from + (p * K + c) * n, int64_t(here) * n);
        transform.analyse(x.staged, transform.matrix.data(), x.v, n);
        for (int k = 0; k < n; k++) {
          S* to = at_plane(x.target, p, k, c);
          if (here == L) store(to, x.v[k]);
          else store_first(to, x.v[k], here);
        }
      }
    if constexpr (HALF)
      for (const Block& b : blocks)
        for (int64_t r = 0; r < (count + 1) / 2; r++) {
          const int64_t length = call.width * b.columns;
          const S* upper = x.target + b.at_result + 2 * r * length;
          const bool both = 2 * r + 1 < count;
          const auto pair = [=](int64_t i) {
            return int32_t(uint32_t(narrow(upper[i])) |
                           (both ? uint32_t(narrow(upper[length + i])) << 16 : 0u));
          };
          if constexpr (TILED) {  // [column][pair of pixels]
            int32_t* to = x.target_pairs + b.at_column * x.turned + r * call.width;
            for (int64_t p = 0; p < call.width; p++)
              for (int64_t i = 0; i < b.columns; i++)
                to[i * x.turned + p] = pair(p * b.columns + i);
          } else {
            int32_t* to = x.target_pairs + b.at_result + r * length;
            for (int64_t i = 0; i < length; i++) to[i] = pair(i);
          }
        }
    if constexpr (TILED)
      for (int64_t i = 0; i < all_columns; i++)
        std::fill_n(x.target_pairs + i * x.turned + (count + 1) / 2 * call.width, 15, 0);
  }
  __attribute__((noinline)) void transform_back(Scratch& x, int64_t image, int64_t row, int64_t count) const {
    M* to = static_cast<M*>(call.result) + (image * call.height + row) * call.width * K * n;
    const S* bias = static_cast<const S*>(call.bias);
    for (int64_t p = 0; p < count * call.width; p++)
      for (int64_t c = 0; c < K; c += L) {
        const int here = int(std::min<int64_t>(L, K - c));
        S lane[L] = {};
        if (bias) std::copy_n(bias + c, here, lane);
        for (int k = 0; k < n; k++) x.v[k] = load(at_plane(x.result, p, k, c));
        M* place = to + (p * K + c) * n;
        const bool direct = std::is_same_v<S, M> && here == L;
        S* out = direct ? reinterpret_cast<S*>(place) : x.out;
        transform.synthesise(x.v, transform.matrix.data(), load(lane), out, n);
        if (!direct) copy_out(place, x.out, int64_t(here) * n);
      }
  }

  void run() {
    sort_slots();
    const int64_t threads = std::clamp<int64_t>(tiles, 1, at::get_num_threads());
    S *packed, *gradients;
    of_call.fill([&](Arena& a) {
      packed = a.take<S>(call.result ? weights_size : 0);
      gradients = a.take<S>(call.target ? threads * weights_size : 0);
    });
    if (call.result) pack(packed);
    at::parallel_for(0, threads, 1, [&](int64_t low, int64_t high) {
      Scratch x(*this, of_tiles);
      for (int64_t t = low; t < high; t++) {
        S* gradient = gradients + t * weights_size;
        if (call.target) std::memset(gradient, 0, weights_size * sizeof(S));
        for (int64_t tile = tiles * t / threads; tile < tiles * (t + 1) / threads; tile++) {
          const int64_t image = tile / tiles_per_image, row = tile % tiles_per_image * rows;
          const int64_t count = std::min(rows, call.height - row);
          if (count <= 0) continue;
          if (call.target) transform_target(x, image, row, count);
          for (int64_t q = 0; q < chunks; q++) {
            transform_source(x, image, row, count, q);
            for (int64_t r = 0; r < count; r++) jets_of_row(x, r, width_of(q));
            if (call.result) multiply(x, packed, q, count);
            if (call.target) accumulate(x, gradient, q, count);
          }
          if (call.result) transform_back(x, image, row, count);
        }
      }
    });
    if (call.target) unpack(gradients, threads);
  }
};

}  // namespace

extern "C" int jet_run(const JetCall* call) {
  try {
    if (call->numbers == 0) Layer<float, float, false>(*call).run();
    else if (call->numbers == 1) Layer<double, double, false>(*call).run();
#if defined(__AVX512BF16__)
    else Layer<float, Half, true>(*call).run();
#else
    else Layer<float, Half, false>(*call).run();
#endif
    return 0;
  } catch (...) {
    return 1;
  }
}
