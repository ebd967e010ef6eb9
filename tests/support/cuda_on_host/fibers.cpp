// SPDX-License-Identifier: Apache-2.0
// The fibers of one block and the barriers between them. See cuda_on_host.h.
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "cuda_on_host.h"
#include "launch.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

// The emulation itself is not under test, and its switches would look like races.
#define UNWATCHED __attribute__((no_sanitize("thread"), no_sanitize("address")))

extern "C" char __start_imp_shared[] __attribute__((weak));
extern "C" char __stop_imp_shared[] __attribute__((weak));

namespace cuda_on_host {
namespace {

constexpr unsigned int kMaxThreads = 1024, kWarp = 32, kStack = 128 * 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
    ucontext_t context;
    char* stack;
    void* fake_stack;
    void* tsan;
    State state;
    unsigned int exchanges;  // how many the thread has taken part in: which of the two buffers is next
};

Fiber fibers[kMaxThreads];
ucontext_t scheduler;
[[maybe_unused]] void* scheduler_tsan;
[[maybe_unused]] const void* scheduler_stack;
[[maybe_unused]] size_t scheduler_stack_size;
unsigned int current, threads;
Dim3 block, block_dim, grid_dim;
const Body* body;
unsigned int handed_in[2][kMaxThreads];
char launch_order, block_order, warp_order[kMaxThreads / kWarp];  // addresses for ThreadSanitizer

[[noreturn]] void fail(const char* what)
{
    fprintf(stderr, "CUDA on host: %s, thread %u of block (%u, %u, %u)\n", what, current, block.x, block.y,
            block.z);
    abort();
}

void release([[maybe_unused]] char* address)
{
#ifdef __SANITIZE_THREAD__
    __tsan_release(address);
#endif
}

void acquire([[maybe_unused]] char* address)
{
#ifdef __SANITIZE_THREAD__
    __tsan_acquire(address);
#endif
}

UNWATCHED void switch_to_scheduler([[maybe_unused]] bool finished)
{
    Fiber& self = fibers[current];
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(finished ? nullptr : &self.fake_stack, scheduler_stack,
                                   scheduler_stack_size);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&self.context, &scheduler);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
}

UNWATCHED void run_fiber()
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
    acquire(&launch_order);
    (*body)();
    release(&launch_order);
    fibers[current].state = State::done;
    switch_to_scheduler(true);
}

UNWATCHED void resume(unsigned int thread)
{
    Fiber& fiber = fibers[thread];
    current = thread;
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStack);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&scheduler, &fiber.context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

UNWATCHED void start(unsigned int thread)
{
    Fiber& fiber = fibers[thread];
    if (!fiber.stack) {
        fiber.stack = static_cast<char*>(malloc(kStack));
    }
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    fiber.state = State::ready;
    fiber.exchanges = 0;
#ifdef __SANITIZE_THREAD__
    fiber.tsan = __tsan_create_fiber(0);
#endif
}

// Opens a barrier that all of [first, past) have reached; false if none or only some have.
UNWATCHED bool open(unsigned int first, unsigned int past, State barrier)
{
    unsigned int waiting = 0, done = 0;
    for (unsigned int t = first; t < past; ++t) {
        waiting += fibers[t].state == barrier;
        done += fibers[t].state == State::done;
    }
    if (waiting && done) {
        fail("a thread ended while others wait at a barrier");
    }
    if (!waiting || waiting < past - first) {
        return false;
    }
    for (unsigned int t = first; t < past; ++t) {
        fibers[t].state = State::ready;
    }
    return true;
}

UNWATCHED bool open_any()
{
    bool opened = open(0, threads, State::at_block_barrier);
    for (unsigned int first = 0; first < threads; first += kWarp) {
        const unsigned int past = first + kWarp < threads ? first + kWarp : threads;
        opened = open(first, past, State::at_warp_barrier) || opened;
    }
    return opened;
}

// Shared memory holds no zeros on a device: every bit is set, which is NaN or -1.
UNWATCHED void spoil_shared_memory()
{
    for (volatile char* byte = __start_imp_shared; byte < __stop_imp_shared; ++byte) {
        *byte = static_cast<char>(0xff);
    }
}

UNWATCHED void run_block(bool backwards)
{
    spoil_shared_memory();
    release(&launch_order);
    for (unsigned int t = 0; t < threads; ++t) {
        start(t);
    }
    for (;;) {
        bool all_done = true;
        for (unsigned int i = 0; i < threads; ++i) {
            const unsigned int t = backwards ? threads - 1 - i : i;
            if (fibers[t].state == State::ready) {
                resume(t);
            }
            all_done = all_done && fibers[t].state == State::done;
        }
        if (all_done) {
            break;
        }
        if (!open_any()) {
            fail("threads wait at different barriers");
        }
    }
    acquire(&launch_order);
#ifdef __SANITIZE_THREAD__
    for (unsigned int t = 0; t < threads; ++t) {
        __tsan_destroy_fiber(fibers[t].tsan);
    }
#endif
}

}  // namespace

UNWATCHED Dim3 thread_index()
{
    const unsigned int plane = block_dim.x * block_dim.y;
    return {current % block_dim.x, current % plane / block_dim.x, current / plane};
}

UNWATCHED Dim3 block_index()
{
    return block;
}

UNWATCHED Dim3 block_size()
{
    return block_dim;
}

UNWATCHED Dim3 grid_size()
{
    return grid_dim;
}

UNWATCHED unsigned int lane()
{
    return current % kWarp;
}

UNWATCHED void wait_at(Barrier barrier, bool orders_memory)
{
    char* order = barrier == Barrier::block ? &block_order : &warp_order[current / kWarp];
    if (orders_memory) {
        release(order);
    }
    fibers[current].state = barrier == Barrier::block ? State::at_block_barrier : State::at_warp_barrier;
    switch_to_scheduler(false);
    if (orders_memory) {
        acquire(order);
    }
}

UNWATCHED unsigned int exchange(unsigned int mask, unsigned int value, unsigned int source)
{
    const unsigned int first = current / kWarp * kWarp, buffer = fibers[current].exchanges++ % 2;
    if (mask != 0xffffffffU || first + kWarp > threads) {
        fail("a warp operation needs the whole warp");
    }
    handed_in[buffer][current] = value;
    wait_at(Barrier::warp, false);
    return handed_in[buffer][first + source];
}

UNWATCHED unsigned int ballot(unsigned int mask, bool vote)
{
    const unsigned int first = current / kWarp * kWarp, buffer = fibers[current].exchanges % 2;
    exchange(mask, vote, 0);
    unsigned int votes = 0;
    for (unsigned int i = 0; i < kWarp; ++i) {
        votes |= handed_in[buffer][first + i] << i;
    }
    return votes;
}

UNWATCHED void launch(Dim3 grid, Dim3 block_extent, const Body& kernel)
{
    grid_dim = grid;
    block_dim = block_extent;
    threads = block_extent.x * block_extent.y * block_extent.z;
    body = &kernel;
    if (threads == 0 || threads > kMaxThreads) {
        fail("a block has 1 to 1024 threads");
    }
#ifdef __SANITIZE_THREAD__
    scheduler_tsan = __tsan_get_current_fiber();
#endif
    unsigned int index = 0;
    for (block.z = 0; block.z < grid.z; ++block.z) {
        for (block.y = 0; block.y < grid.y; ++block.y) {
            for (block.x = 0; block.x < grid.x; ++block.x) {
                run_block(index++ % 2 == 1);
            }
        }
    }
}

}  // namespace cuda_on_host
