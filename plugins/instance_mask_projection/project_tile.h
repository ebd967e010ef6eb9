// The forward kernel: one tile of one plane of the canvas. README.md says how it works. Device only.
#ifndef IMP_PROJECT_TILE_H
#define IMP_PROJECT_TILE_H

#include "instance_mask_projection/problem.h"

namespace imp {

constexpr int kWarps = IMP_MP_THREADS / kWarp;
constexpr int kRun = 8;                        // pixels of a row that one thread owns
constexpr int kRuns = IMP_MP_TILE_W / kRun;    // threads of a row
constexpr int kReads = 4;                      // pixels whose cells are read together
constexpr int kGroup = 4;                      // boxes whose taps are in shared memory at a time
constexpr int kList = IMP_MP_THREADS + kWarp;  // boxes that are listed at a time
static_assert(kRuns * IMP_MP_TILE_H == IMP_MP_THREADS, "one run for each thread");
static_assert(IMP_MP_TILE_W % kWarp == 0, "a warp works on columns of one box");

struct Instance {
    CanvasBox box;
    float score;
    int n;
};

struct TileMemory {
    alignas(16) Taps columns[kGroup][IMP_MP_TILE_W];  // see column_slot; reused by store_staged
    Taps rows[kGroup][IMP_MP_TILE_H];
    Instance list[kList];
    int warp_hits[kWarps];
    bool reached[kGroup][kRuns];  // whether a run holds a pixel inside the box
};
static_assert(sizeof(TileMemory::columns) >= IMP_MP_TILE_W * IMP_MP_TILE_H * sizeof(float), "staging");

// The kRun columns of a thread lie apart, those that neighboring threads read together lie together.
__device__ __forceinline__ int column_slot(int column)
{
    return column % kRun * kRuns + column / kRun;
}

// Whether the instance at `index` is of the class and may reach the tile. Everything is loaded before
// anything is decided, so that the loads wait together.
template <Rule rule, class T>
__device__ __forceinline__ bool find_instance(const Problem<T>& p, unsigned long long index, int label,
                                              int left, int top, Instance& instance)
{
    const float* box = p.boxes + 4 * index;
    const float corners[4] = {box[0], box[1], box[2], box[3]};
    const long long own_label = label_at(p.labels, p.label_bytes, index);
    instance.score = p.scores[index];
    const bool valid = canvas_box(corners, instance.score, p.spatial_scale, instance.box);
    return valid && own_label == label &&
           reaches<rule>(left, left + IMP_MP_TILE_W - 1, instance.box.x, p.cells) &&
           reaches<rule>(top, top + IMP_MP_TILE_H - 1, instance.box.y, p.cells);
}

// Lists the instances that reach the tile, in order, from `next` on; moves `next` behind the last one seen.
template <Rule rule, class T>
__device__ __forceinline__ int list_instances(TileMemory& memory, const Problem<T>& p, int image, int label,
                                              int left, int top, unsigned int& next)
{
    const unsigned int instances = static_cast<unsigned int>(p.instances);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    int count = 0;
    do {
        const unsigned int n = next + threadIdx.x;
        Instance instance;
        const unsigned long long index = static_cast<unsigned long long>(image) * instances + n;
        const bool hit = n < instances && find_instance<rule>(p, index, label, left, top, instance);
        instance.n = static_cast<int>(n);
        const unsigned int hits = __ballot_sync(kAllLanes, hit);
        if (lane == 0) {
            memory.warp_hits[warp] = __popc(hits);
        }
        __syncthreads();
        int place = count + __popc(hits & ((1U << lane) - 1U));
        for (int w = 0; w < kWarps; ++w) {
            place += w < warp ? memory.warp_hits[w] : 0;
            count += memory.warp_hits[w];
        }
        if (hit) {
            memory.list[place] = instance;
        }
        next += IMP_MP_THREADS;
        __syncthreads();
    } while (next < instances && count + IMP_MP_THREADS <= kList);
    return count;
}

// The taps of the tile's columns and rows for `used` listed boxes: one division each, for all pixels.
template <Rule rule>
__device__ __forceinline__ void make_taps(TileMemory& memory, int first, int used, int left, int top,
                                          int cells)
{
    for (int e = threadIdx.x; e < used * IMP_MP_TILE_W; e += IMP_MP_THREADS) {
        const int k = e / IMP_MP_TILE_W, column = e % IMP_MP_TILE_W;
        Taps taps = taps_at<rule>(left + column, memory.list[first + k].box.x, cells);
        const bool inside = taps.cell0 != kOutside;
        const unsigned int run = __ballot_sync(kAllLanes, inside) >> (threadIdx.x % kWarp / kRun * kRun);
        if (column % kRun == 0) {
            memory.reached[k][column / kRun] = (run & ((1U << kRun) - 1U)) != 0;
        }
        if (!inside && rule != Rule::rect) {
            taps = {0.0F, 0.0F, 0, 0};  // reads a cell with weight 0: cheaper than a branch at every pixel
        }
        memory.columns[k][column_slot(column)] = taps;
    }
    for (int e = threadIdx.x; e < used * IMP_MP_TILE_H; e += IMP_MP_THREADS) {
        const int k = e / IMP_MP_TILE_H, row = e % IMP_MP_TILE_H;
        memory.rows[k][row] = taps_at<rule>(top + row, memory.list[first + k].box.y, cells);
    }
}

// The maxima of the pixels of a run and, where wanted, the instances that hold them.
template <bool keep_winner>
struct Run {
    float best[kRun];
    int winner[keep_winner ? kRun : 1];

    // Instances come in order, so that the lowest n keeps a tie.
    __device__ __forceinline__ void raise(int i, float value, int n)
    {
        if (value > best[i]) {
            best[i] = value;
            if (keep_winner) {
                winner[i] = n;
            }
        }
    }
};

// One box on the thread's run. All cells of kReads pixels are read before the first is used.
template <Rule rule, bool keep_winner, class T>
__device__ __forceinline__ void draw_run(const Taps* columns, Taps row, const T* mask, int cells, float score,
                                         int n, Run<keep_winner>& out)
{
    if (rule == Rule::rect) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            const Taps column = columns[i * kRuns];
            if (column.cell0 != kOutside) {
                out.raise(i, largest_cell(mask, cells, row, column) * score, n);
            }
        }
        return;
    }
    const T* above = mask_line(mask, cells, row.cell0);
    const T* below = mask_line(mask, cells, row.cell1);
#pragma unroll
    for (int first = 0; first < kRun; first += kReads) {
        Taps column[kReads];
        Footprint<T> read[kReads];
#pragma unroll
        for (int i = 0; i < kReads; ++i) {
            column[i] = columns[(first + i) * kRuns];
            read[i] = read_footprint<rule>(above, below, column[i]);
        }
#pragma unroll
        for (int i = 0; i < kReads; ++i) {
            out.raise(first + i, blend<rule>(read[i], row, column[i]) * score, n);
        }
    }
}

// `used` listed boxes on the thread's run.
template <Rule rule, bool keep_winner, class T>
__device__ __forceinline__ void draw(const TileMemory& memory, int first, int used, const Problem<T>& p,
                                     int image, Run<keep_winner>& out)
{
    const int run = threadIdx.x % kRuns;
    for (int k = 0; k < used; ++k) {
        const Taps row = memory.rows[k][threadIdx.x / kRuns];
        if (row.cell0 == kOutside || !memory.reached[k][run]) {
            continue;
        }
        const int n = memory.list[first + k].n;
        const unsigned long long cells = static_cast<unsigned long long>(p.cells);
        const T* mask = p.masks + (static_cast<unsigned long long>(image) * p.instances + n) * cells * cells;
        draw_run<rule>(memory.columns[k] + run, row, mask, p.cells, memory.list[first + k].score, n, out);
    }
}

template <class Out>
struct alignas(16) Pack {
    static constexpr int kSize = 16 / sizeof(Out);
    Out values[kSize];
};

// Rows that start on 16 bytes: every thread writes its run. `row` is the run's row in the plane.
template <class Out>
__device__ __forceinline__ void store_run(const Out (&values)[kRun], Out* row, int x, int width)
{
    if (x >= width) {
        return;
    }
#pragma unroll
    for (int i = 0; i < kRun; i += Pack<Out>::kSize) {
        Pack<Out> pack;
#pragma unroll
        for (int j = 0; j < Pack<Out>::kSize; ++j) {
            pack.values[j] = values[i + j];
        }
        *reinterpret_cast<Pack<Out>*>(row + x + i) = pack;
    }
}

// Any other rows: through shared memory, so that a warp writes neighboring pixels.
template <class Out>
__device__ __forceinline__ void store_staged(TileMemory& memory, const Out (&values)[kRun], Out* plane,
                                             int left, int top, int height, int width)
{
    Out* stage = reinterpret_cast<Out*>(memory.columns);
    __syncthreads();  // the taps that lie there have been read
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
        stage[threadIdx.x * kRun + i] = values[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < IMP_MP_TILE_W * IMP_MP_TILE_H; e += IMP_MP_THREADS) {
        const int x = left + e % IMP_MP_TILE_W, y = top + e / IMP_MP_TILE_W;
        if (x < width && y < height) {
            plane[static_cast<unsigned long long>(y) * width + x] = stage[e];
        }
    }
    __syncthreads();  // before the next plane's taps
}

template <class Out>
__device__ __forceinline__ void store(TileMemory& memory, const Out (&values)[kRun], Out* canvas,
                                      unsigned int plane, int left, int top, int height, int width)
{
    const unsigned long long pitch = static_cast<unsigned long long>(width);
    Out* out = canvas + plane * (static_cast<unsigned long long>(height) * pitch);
    if (width % kRun == 0 && reinterpret_cast<unsigned long long>(canvas) % sizeof(Pack<Out>) == 0) {
        const int y = top + static_cast<int>(threadIdx.x) / kRuns;
        if (y < height) {
            store_run(values, out + y * pitch, left + static_cast<int>(threadIdx.x) % kRuns * kRun, width);
        }
    } else {
        store_staged(memory, values, out, left, top, height, width);
    }
}

// Writes the winners or, rounded once and saturated, the canvas.
template <bool keep_winner, class T>
__device__ __forceinline__ void store_run_of(TileMemory& memory, const Run<keep_winner>& run,
                                             unsigned int plane, int left, int top, const Problem<T>& p,
                                             T* canvas, int* winners)
{
    constexpr float kLimit = Largest<T>::value;
    if (keep_winner) {
        int values[kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            values[i] = run.best[i] > kLimit ? -1 : run.winner[keep_winner ? i : 0];
        }
        store(memory, values, winners, plane, left, top, p.height, p.width);
    } else {
        T values[kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            values[i] = from_float<T>(run.best[i] > kLimit ? kLimit : run.best[i]);
        }
        store(memory, values, canvas, plane, left, top, p.height, p.width);
    }
}

// One tile of every plane blockIdx.z, + gridDim.z, ... Writes the canvas or, if it is null, the winners.
template <Rule rule, bool keep_winner, class T>
__device__ __forceinline__ void project_tile(TileMemory& memory, const Problem<T>& p, T* canvas, int* winners)
{
    const unsigned int classes = static_cast<unsigned int>(p.classes);
    const unsigned int planes = static_cast<unsigned int>(p.batch) * classes;
    const int left = static_cast<int>(blockIdx.x) * IMP_MP_TILE_W;
    const int top = static_cast<int>(blockIdx.y) * IMP_MP_TILE_H;
    for (unsigned int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        const int image = static_cast<int>(plane / classes), label = static_cast<int>(plane % classes);
        Run<keep_winner> run;
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            run.best[i] = 0.0F;
            run.winner[keep_winner ? i : 0] = -1;
        }
        unsigned int next = 0;
        while (next < static_cast<unsigned int>(p.instances)) {
            const int count = list_instances<rule>(memory, p, image, label, left, top, next);
            for (int first = 0; first < count; first += kGroup) {
                const int used = at_most(count - first, kGroup);
                if (first > 0) {
                    __syncthreads();  // the previous group has been drawn
                }
                make_taps<rule>(memory, first, used, left, top, p.cells);
                __syncthreads();
                draw<rule>(memory, first, used, p, image, run);
            }
        }
        store_run_of(memory, run, plane, left, top, p, canvas, winners);
    }
}

}  // namespace imp

#endif
