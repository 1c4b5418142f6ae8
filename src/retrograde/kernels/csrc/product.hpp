// The packed matrix product under everything: C (rows x columns) = or += A (rows x K) W (K x columns).
//
//                          W, packed in panels              panel p: for each k the kPanel = 2 vectors of its columns
//                     +--------+--------+--------+          lie next to each other, [panel][k][2 vectors]
//              k = 0  | ------ |        |        |
//      chunk of       | ------ |        |        |          a group (Groups) is the panels that have all gates of the
//      kDepth k's     |  ...   |        |        |          same units, so that they are computed together:
//                     +--------+--------+--------+            LSTM, group q: | i of units | f ... | g ... | o ... |
//      next chunk     |        |        |        |
//                     +--------+--------+--------+
//           A         p = 0      1        2                 C
//   +-----+-----+     +--------+--------+--------+
//   | m=0 |     |     |        |        |        |  |
//   | ... | ... |     |  tile  |        |        |  | up to kRows rows by one panel (or fewer rows by up to 4 panels)
//   +-----+-----+     +--------+--------+--------+  | stay in registers while k runs through a chunk
//   |     |     |     |        |        |        |
//   +-----+-----+     +--------+--------+--------+
//
// One chunk's sum starts from zero and is then added to C: the order in which a number is summed depends on K alone,
// never on the rows next to it or on the thread, so results are the same bit for bit however the work is divided; and
// rounding errors grow as in a two-level sum. naive.cpp has the same product as three plain loops.
#pragma once
#include <utility>

#include "simd.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

// Rows of a register tile of one panel: accumulators, two vectors of W and one of A fill the register file.
#if defined(__AVX512F__)
constexpr int kRows = 14;
#elif defined(RETROGRADE_NEON)  // two registers short of full: compilers load several rows of A ahead
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif
constexpr Index kDepth = 256;
template <class T> constexpr int kPanel = 2 * kWidth<T>;

constexpr Index min(Index a, Index b) { return a < b ? a : b; }
constexpr Index max(Index a, Index b) { return a > b ? a : b; }
constexpr Index ceil_div(Index n, Index size) { return (n + size - 1) / size; }

// The units of a layer in groups of a panel's width (the last may be half as wide): a group's columns are its units
// for the first gate, then for the second, ...
template <class T> struct Groups {
  Index units, gates;
  Index count() const { return ceil_div(units, kPanel<T>); }
  Index first(Index q) const { return q * kPanel<T>; }
  Index width(Index q) const { return units - first(q) > kWidth<T> ? kPanel<T> : kWidth<T>; }
  Index panels_of(Index q) const { return ceil_div(gates * width(q), kPanel<T>); }
  Index panels_before(Index q) const { return q < count() ? q * gates : panels(); }
  Index panels() const { return count() ? (count() - 1) * gates + panels_of(count() - 1) : 0; }
};

// Where element (m, k) of A lies: rows one after another, a[m lda + k], or k after k, a[k lda + m].
enum class Layout { kRowMajor, kDepthMajor };

template <class T> struct Tile {
  T* c;
  Index ldc;
  const T* a;
  Index lda;
  const T* w;
  Index panel_stride;
  Index depth;
  bool add;
  const T* start;  // per column, what the sum starts from where add is false; may be null
  bool far;        // C is too large for the near caches
  Index prefetch;  // distance from w to what is multiplied after it
};

// Keeps a pointer in a register of its own: the compiler forgets how it was computed.
template <class P> RG_INLINE P* opaque(P* p) {
  __asm__("" : "+r"(p));
  return p;
}

// Row m of A as one of four pointers and 0, 1, 2, 4 or 8 times a stride, which an address can hold: fourteen offsets
// would not fit the registers.
constexpr int kRowPointer[14] = {0, 0, 0, 1, 0, 2, 2, 2, 0, 2, 3, 1, 3, 2};
constexpr int kRowMultiple[14] = {0, 1, 2, 0, 4, 0, 1, 2, 8, 4, 0, 8, 2, 8};

template <class T, int M, int P, Layout L> void tile(const Tile<T>& job) {
  constexpr int W = kWidth<T>, V = 2 * P;
  if (job.far) {  // fetching C takes as long as several rounds of the sum
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) __builtin_prefetch(job.c + m * job.ldc + v * W, 1);
  }
  Vec<T> acc[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[m][v] = Vec<T>{};
  const T* w = job.w;
  const Index lda = job.lda, ps = job.panel_stride, depth = job.depth, prefetch = job.prefetch;
  const T* a[4] = {job.a, nullptr, nullptr, nullptr};
  if (L == Layout::kRowMajor)
    for (int i = 1; i < 4; ++i) a[i] = opaque(job.a + (i == 1 ? 3 : 5 * (i - 1)) * lda);
#pragma GCC unroll 1
  for (Index k = 0; k < depth; ++k) {
    Vec<T> b[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) b[v] = load(w + (v / 2) * ps + (v % 2) * W);
    __builtin_prefetch(w + prefetch);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec<T> x = splat(L == Layout::kRowMajor ? a[kRowPointer[m]][kRowMultiple[m] * lda] : a[0][m]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[m][v] += x * b[v];
    }
    if (L == Layout::kRowMajor)
      for (int i = 0; i < 4; ++i) ++a[i];
    else a[0] += lda;
    w += 2 * W;
  }
  T* c = job.c;
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      T* to = c + m * job.ldc + v * W;
      if (job.add) store(to, load(to) + acc[m][v]);
      else if (job.start) store(to, load(job.start + v * W) + acc[m][v]);
      else store(to, acc[m][v]);
    }
  }
}

template <class T> using TileFunction = void (*)(const Tile<T>&);

// The rows up to which a tile over P panels still fits the registers.
template <int P> constexpr int kTileRows = P == 1      ? kRows
                                           : kRows > 6 ? (P == 2   ? 6
                                                          : P == 3 ? 4
                                                                   : 2)
                                                       : (P == 2 ? 2 : 1);

template <class T, int P, Layout L, std::size_t... M> TileFunction<T> tile_of(Index m, std::index_sequence<M...>) {
  static constexpr TileFunction<T> tiles[] = {&tile<T, M + 1, P, L>...};
  return tiles[m - 1];
}
// The tile of m rows, 1 <= m <= kTileRows<P>.
template <class T, int P, Layout L> TileFunction<T> tile_for(Index m) {
  return tile_of<T, P, L>(m, std::make_index_sequence<kTileRows<P>>());
}

// Panels taken at once for m rows: few rows need more columns to keep the multipliers busy.
RG_INLINE int panels_at_once(Index m) {
  if (m <= kTileRows<4>) return 4;
  if (m <= (kRows > 6 ? 4 : 2)) return 2;
  return 1;
}

template <class T> RG_INLINE void run_tiles(Tile<T> job, Index m, Index panels) {
  const int P = panels_at_once(m);
  while (panels > 0) {
    const Index taken = min(P, panels);
    const TileFunction<T> f = taken == 4   ? tile_for<T, 4, Layout::kRowMajor>(m)
                              : taken == 3 ? tile_for<T, 3, Layout::kRowMajor>(m)
                              : taken == 2 ? tile_for<T, 2, Layout::kRowMajor>(m)
                                           : tile_for<T, 1, Layout::kRowMajor>(m);
    f(job);
    job.c += taken * kPanel<T>;
    job.w += taken * job.panel_stride;
    if (job.start) job.start += taken * kPanel<T>;
    panels -= taken;
  }
}

// ---- packing ---------------------------------------------------------------------------------------------

// Transposes a square of one vector's width: out[j][i] = in[i][j], by repeated interleaving of the two halves.
template <class T> RG_INLINE void transpose(Vec<T> (&v)[kWidth<T>]) {
  constexpr int W = kWidth<T>;
  Bits<T> low, high;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    low[i] = (i % 2) * W + i / 2;
    high[i] = (i % 2) * W + i / 2 + W / 2;
  }
#pragma GCC unroll 4
  for (int s = 1; s < W; s *= 2) {
    Vec<T> u[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
#if defined(__clang__)
      for (int l = 0; l < W; ++l) {
        u[2 * i][l] = low[l] < W ? v[i][low[l]] : v[i + W / 2][low[l] - W];
        u[2 * i + 1][l] = high[l] < W ? v[i][high[l]] : v[i + W / 2][high[l] - W];
      }
#else
      u[2 * i] = __builtin_shuffle(v[i], v[i + W / 2], low);
      u[2 * i + 1] = __builtin_shuffle(v[i], v[i + W / 2], high);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) v[i] = u[i];
  }
}

// One panel from rows that lie along k: to[k][j] = source[j][k]; a null source is a column of zeros.
template <class T> void pack_transposed(T* to, const T* const* source, Index K) {
  constexpr int W = kWidth<T>;
  for (int half = 0; half < 2; ++half) {
    const T* const* s = source + half * W;
    Index k = 0;
    for (; k + W <= K; k += W) {
      Vec<T> v[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) v[j] = s[j] ? load(s[j] + k) : Vec<T>{};
      transpose<T>(v);
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) store(to + (k + j) * kPanel<T> + half * W, v[j]);
    }
    for (; k < K; ++k)
      for (int j = 0; j < W; ++j) to[k * kPanel<T> + half * W + j] = s[j] ? s[j][k] : T(0);
  }
}

// One panel from rows that lie along the columns: to[k][j] = row(k)[j] for j < columns, zero beyond.
template <class T, class Row> RG_INLINE void pack_rows(T* to, Row row, Index K, Index columns) {
  constexpr int W = kWidth<T>;
  for (Index k = 0; k < K; ++k) {
    const T* from = row(k);
    T* at = to + k * kPanel<T>;
    if (columns >= kPanel<T>) {
      store(at, load(from));
      store(at + W, load(from + W));
    } else if (columns > W) {
      store(at, load(from));
      store(at + W, load_first(from + W, static_cast<int>(columns - W)));
    } else if (columns == W) {
      store(at, load(from));
      store(at + W, Vec<T>{});
    } else {
      store(at, load_first(from, static_cast<int>(columns)));
      store(at + W, Vec<T>{});
    }
  }
}

// `size` rows of A, depth after depth. For few rows of one vector's width what is written past a depth's rows is
// overwritten by the next; `to` must have space for it after the last.
template <class T> void pack_depths(T* to, const T* a, Index lda, Index size, Index depth) {
  constexpr int W = kWidth<T>;
  Index k = 0;
  for (; k + W <= depth; k += W)
    for (Index j0 = 0; j0 < size; j0 += W) {
      const int n = static_cast<int>(min(W, size - j0));
      Vec<T> v[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) v[j] = j < n ? load(a + (j0 + j) * lda + k) : Vec<T>{};
      transpose<T>(v);
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        if (n == W || size < W) store(to + (k + j) * size + j0, v[j]);
        else store_first(to + (k + j) * size + j0, v[j], n);
      }
    }
  for (; k < depth; ++k)
    for (Index j = 0; j < size; ++j) to[k * size + j] = a[j * lda + k];
}

// ---- the product -----------------------------------------------------------------------------------------

// A large product packs A in blocks of this many tiles, which stay in the second cache while W is read.
constexpr Index kBlockTiles = 24;
template <class T> constexpr Index kBlockWorkspace = kBlockTiles * kRows * kDepth + kPanel<T>;
constexpr Index kFarBytes = 128 << 10;

// Which cache line of the panel multiplied next a tile fetches: the last two tiles of a column of C share the work.
template <class T> RG_INLINE Index prefetch_distance(Index i, Index tiles, Index distance) {
  return i == tiles - 1 ? distance + (tiles > 1 ? kWidth<T> : 0) : i == tiles - 2 ? distance : 0;
}

// C[rows x panels * kPanel] = (or +=) A W; C must have space for whole panels. With a `workspace` of kBlockWorkspace<T>
// numbers A may be packed; the sums are the same bit for bit.
template <class T> void product(T* c, Index ldc, const T* a, Index lda, Index rows, const T* w, Index panels, Index K,
                                bool add, const T* start = nullptr, T* workspace = nullptr) {
  if (rows <= 0 || panels <= 0) return;
  const Index stride = K * kPanel<T>;
  const Index blocks = ceil_div(rows, kRows), base = rows / blocks, rest = rows % blocks;
  if (K == 0 && !add) {  // an empty sum
    for (Index m = 0; m < rows; ++m)
      for (Index n = 0; n < panels * kPanel<T>; ++n) c[m * ldc + n] = start ? start[n] : T(0);
    return;
  }
  const bool far = rows * ldc * static_cast<Index>(sizeof(T)) > kFarBytes;
  const bool packs = workspace && panels >= 8 && blocks > 1;
  const Index wide = packs ? 1 : panels_at_once(base), at_once = packs ? kBlockTiles : blocks;
  for (Index k = 0; k < K; k += kDepth) {
    const Index depth = min(kDepth, K - k);
    const bool more = add || k > 0;
    const T* const w_k = w + k * kPanel<T>;
    for (Index i0 = 0, m0 = 0; i0 < blocks;) {
      const Index i1 = min(blocks, i0 + at_once);
      Index m = m0;
      if (packs)
        for (Index i = i0; i < i1; ++i) {
          const Index size = base + (i < rest);
          pack_depths<T>(workspace + (m - m0) * depth, a + m * lda + k, lda, size, depth);
          m += size;
        }
      for (Index p = 0; p < panels; p += wide) {
        const bool last = p + wide >= panels;
        // after the last panel: the next chunk of the first, or what follows W in memory
        const Index distance = !last           ? wide * stride
                               : k + depth < K ? depth * kPanel<T> - p * stride
                                               : stride - k * kPanel<T>;
        const T* const w_p = w_k + p * stride;
        const T* const begin = start ? start + p * kPanel<T> : nullptr;
        m = m0;
        for (Index i = i0; i < i1; ++i) {
          const Index size = base + (i < rest), prefetch = prefetch_distance<T>(i - i0, i1 - i0, distance);
          T* const to = c + m * ldc + p * kPanel<T>;
          if (packs)
            tile_for<T, 1, Layout::kDepthMajor>(size)(
                {to, ldc, workspace + (m - m0) * depth, size, w_p, 0, depth, more, begin, far, prefetch});
          else
            run_tiles<T>({to, ldc, a + m * lda + k, lda, w_p, stride, depth, more, begin, far, prefetch}, size,
                         min(wide, panels - p));
          m += size;
        }
      }
      i0 = i1;
      m0 = m;
    }
  }
}

// As product, where C has only `columns` columns: the last panel is computed in a buffer.
template <class T> void product_exact(T* c, Index ldc, const T* a, Index lda, Index rows, const T* w, Index columns,
                                      Index K, bool add, const T* start = nullptr, T* workspace = nullptr) {
  const Index whole = columns / kPanel<T>, rest = columns - whole * kPanel<T>;
  product<T>(c, ldc, a, lda, rows, w, whole, K, add, start, workspace);
  if (rest == 0) return;
  constexpr Index batch = 2 * kRows;
  alignas(64) T buffer[batch * kPanel<T>];
  c += whole * kPanel<T>;
  for (Index m = 0; m < rows; m += batch) {
    const Index size = min(batch, rows - m);
    product<T>(buffer, kPanel<T>, a + m * lda, lda, size, w + whole * K * kPanel<T>, 1, K, false,
               start ? start + whole * kPanel<T> : nullptr);
    for (Index i = 0; i < size; ++i)
      for (Index n = 0; n < rest; ++n) {
        T& to = c[(m + i) * ldc + n];
        to = add ? to + buffer[i * kPanel<T> + n] : buffer[i * kPanel<T> + n];
      }
  }
}

// ---- products too small to pack for ------------------------------------------------------------------------

// c[m][n] = start[n] + sum over k of a[m][k] w[n][k], for n0 <= n < n1 and M rows of A; W is not packed. Each weight
// is read once, which is all that one step of a few sequences needs; the sum runs along k in the vector's lanes.
template <class T, int M> void dot_rows(T* c, Index ldc, const T* a, Index lda, const T* w, Index n0, Index n1, Index K,
                                        const T* first, const T* second) {
  constexpr int W = kWidth<T>, N = 4;
  const Index whole = K / W * W;
  const int rest = static_cast<int>(K - whole);
  for (Index n = n0; n < n1; n += N) {
    const T* row[N];
    for (int j = 0; j < N; ++j) row[j] = w + min(n + j, n1 - 1) * K;
    Vec<T> acc[M][N];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[m][j] = Vec<T>{};
    for (Index k = 0; k < whole; k += W) {
      Vec<T> x[M];
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) x[m] = load(a + m * lda + k);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        const Vec<T> weight = load(row[j] + k);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) acc[m][j] += x[m] * weight;
      }
    }
    if (rest)
      for (int j = 0; j < N; ++j) {
        const Vec<T> weight = load_first(row[j] + whole, rest);
        for (int m = 0; m < M; ++m) acc[m][j] += load_first(a + m * lda + whole, rest) * weight;
      }
    for (int m = 0; m < M; ++m)
      for (int j = 0; j < N && n + j < n1; ++j) {
        T sum = T(0);
        for (int i = 0; i < W; ++i) sum += acc[m][j][i];
        if (first) sum += first[n + j];
        if (second) sum += second[n + j];
        c[m * ldc + n + j] = sum;
      }
  }
}

constexpr Index kDotRows = 4;

template <class T> void dot_product(T* c, Index ldc, const T* a, Index lda, Index rows, const T* w, Index n0, Index n1,
                                    Index K, const T* first = nullptr, const T* second = nullptr) {
  switch (rows) {
    case 1: return dot_rows<T, 1>(c, ldc, a, lda, w, n0, n1, K, first, second);
    case 2: return dot_rows<T, 2>(c, ldc, a, lda, w, n0, n1, K, first, second);
    case 3: return dot_rows<T, 3>(c, ldc, a, lda, w, n0, n1, K, first, second);
    case 4: return dot_rows<T, 4>(c, ldc, a, lda, w, n0, n1, K, first, second);
  }
}

// ---- products with A transposed --------------------------------------------------------------------------

// C[m0:m1] (M x N) = or += sum over k of a[k][m] row(k)[n] for few columns n, in vectors along m: a panel of columns
// would be zero for the most part. N columns, V vectors.
template <class T, int N, int V, class Row>
RG_INLINE void narrow_tile(T* c, Index ldc, const T* a, Index lda, Row row, Index n, int valid, Index K, bool add) {
  constexpr int W = kWidth<T>;
  Vec<T> acc[N][V];
  for_each<N * V>([&](int i) { acc[i / V][i % V] = Vec<T>{}; });
  for (Index k = 0; k < K; ++k, a += lda) {
    const T* const x = row(k) + n;
    Vec<T> column[V];
    for_each<V>([&](int v) { column[v] = V == 1 && valid < W ? load_first(a, valid) : load(a + v * W); });
    for_each<N * V>([&](int i) { acc[i / V][i % V] += splat(x[i / V]) * column[i % V]; });
  }
  for (Index m = 0; m < (V == 1 ? valid : V * W); ++m)
    for (int i = 0; i < N; ++i) {
      T& to = c[m * ldc + n + i];
      const T sum = acc[i][m / W][m % W];
      to = add ? to + sum : sum;
    }
}
template <class T, int N, class Row>
void narrow_columns(T* c, Index ldc, const T* a, Index lda, Row row, Index m0, Index m1, Index n, Index K, bool add) {
  constexpr int W = kWidth<T>, V = kRows > 6 ? 4 : 2;
  Index m = m0;
  for (; m + V * W <= m1; m += V * W) narrow_tile<T, N, V>(c + m * ldc, ldc, a + m, lda, row, n, W, K, add);
  for (; m < m1; m += W)
    narrow_tile<T, N, 1>(c + m * ldc, ldc, a + m, lda, row, n, static_cast<int>(min(W, m1 - m)), K, add);
}
template <class T, class Row>
void narrow_product(T* c, Index ldc, const T* a, Index lda, Row row, Index m0, Index m1, Index N, Index K, bool add) {
  Index n = 0;
  for (; n + 4 <= N; n += 4) narrow_columns<T, 4>(c, ldc, a, lda, row, m0, m1, n, K, add);
  if (n + 2 <= N) narrow_columns<T, 2>(c, ldc, a, lda, row, m0, m1, n, K, add), n += 2;
  if (n < N) narrow_columns<T, 1>(c, ldc, a, lda, row, m0, m1, n, K, add);
}

// C[m0:m1] (M x N) = or += sum over k of a[k][m] row(k)[n]: the gradient of a weight, k running over time and batch.
// A panel of rows is packed when it is needed, and multiplied with a block of A's columns. `workspace` has
// kOuterWorkspace<T> numbers.
template <class T> constexpr Index kOuterWorkspace = kBlockWorkspace<T> + kDepth * kPanel<T>;

template <class T, class Row> void outer_product(T* c, Index ldc, const T* a, Index lda, Row row, Index m0, Index m1,
                                                 Index N, Index K, bool add, T* workspace) {
  if (m1 <= m0 || N <= 0) return;
  if (K == 0) {
    if (!add)
      for (Index m = m0; m < m1; ++m) std::memset(c + m * ldc, 0, static_cast<std::size_t>(N) * sizeof(T));
    return;
  }
  constexpr int W = kWidth<T>;
  T* const strips = workspace;
  T* const panel = workspace + kBlockWorkspace<T>;
  const Index blocks = ceil_div(m1 - m0, kRows), base = (m1 - m0) / blocks, rest = (m1 - m0) % blocks;
  const Index narrow = N % kPanel<T> <= W ? N % kPanel<T> : 0;  // the last columns, if they are not half a panel
  const Index panels = ceil_div(N - narrow, kPanel<T>);
  const bool far = (m1 - m0) * N * static_cast<Index>(sizeof(T)) > kFarBytes;
  const bool packs = panels >= 4;
  for (Index k0 = 0; k0 < K; k0 += kDepth) {
    const Index depth = min(kDepth, K - k0);
    const bool more = add || k0 > 0;
    const T* const columns = a + k0 * lda;
    if (narrow) {
      const auto last = [&](Index k) { return row(k0 + k) + (N - narrow); };
      narrow_product<T>(c + (N - narrow), ldc, columns, lda, last, m0, m1, narrow, depth, more);
    }
    for (Index i0 = 0, from = m0; panels > 0 && i0 < blocks;) {
      const Index i1 = min(blocks, i0 + kBlockTiles);
      Index m = from;
      if (packs)
        for (Index i = i0; i < i1; ++i) {
          const Index size = base + (i < rest);
          T* const strip = strips + (m - from) * depth;
          if (m + ceil_div(size, W) * W <= m1) {
            // whole vectors; what is written past `size` is overwritten by the next k
            for (Index k = 0; k < depth; ++k)
              for (Index j = 0; j < size; j += W) store(strip + k * size + j, load(columns + k * lda + m + j));
          } else {
            for (Index k = 0; k < depth; ++k)
              for (Index j = 0; j < size; ++j) strip[k * size + j] = columns[k * lda + m + j];
          }
          m += size;
        }
      for (Index p = 0; p < panels; ++p) {
        const Index at = p * kPanel<T>, valid = min(kPanel<T>, N - at);
        pack_rows<T>(panel, [&](Index k) { return row(k0 + k) + at; }, depth, valid);
        m = from;
        for (Index i = i0; i < i1; ++i) {
          const Index size = base + (i < rest), step = packs ? size : lda;
          const T* const strip = packs ? strips + (m - from) * depth : columns + m;
          const TileFunction<T> f = tile_for<T, 1, Layout::kDepthMajor>(size);
          T* const to = c + m * ldc + at;
          if (valid == kPanel<T>) {
            f({to, ldc, strip, step, panel, 0, depth, more, nullptr, far, 0});
          } else {
            alignas(64) T buffer[kRows * kPanel<T>];
            f({buffer, kPanel<T>, strip, step, panel, 0, depth, false, nullptr, false, 0});
            for (Index r = 0; r < size; ++r)
              for (Index n = 0; n < valid; ++n) {
                T& element = to[r * ldc + n];
                element = more ? element + buffer[r * kPanel<T> + n] : buffer[r * kPanel<T> + n];
              }
          }
          m += size;
        }
      }
      i0 = i1;
      from = m;
    }
  }
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
