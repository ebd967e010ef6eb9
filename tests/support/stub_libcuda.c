// SPDX-License-Identifier: Apache-2.0
// A driver library without a GPU behind it. The compiled cuda.bindings load it as libcuda.so.1, so that a
// test sees what arrives in C (tests/cuda/test_real_bindings.py): lines in the file $STUB_LIBCUDA_LOG, "+"
// for what is opened, "-" for what is released. Copies are done at once, in host memory. A module's image is
// text, a line "entry kinds" for each kernel: p pointer, l 64-bit integer, i 32-bit integer, f float.
// STUB_LIBCUDA_VERSION is the CUDA that it knows, 12060: as a driver, it refuses what is newer.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN(thing, made, detail) say("+ %s %p %llu\n", thing, (void*)(*h = (made)), (u64)(detail))
#define RELEASE(thing) (say("- %s %p\n", thing, (void*)h), free(h), 0)

typedef unsigned long long u64;
typedef unsigned u32;
enum { OK, BAD_VALUE, NO_MEMORY, NO_DEVICE = 101, NO_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600 };
static char context[1];
static void *current, *recording;

static int say(const char* format, ...)
{
    static FILE* file;
    va_list values;
    file = file ? file : fopen(getenv("STUB_LIBCUDA_LOG"), "w");
    va_start(values, format);
    vfprintf(file, format, values);
    va_end(values);
    return OK;
}

static int known_version(void)
{
    const char* const set = getenv("STUB_LIBCUDA_VERSION");
    return set ? atoi(set) : 13020;
}

static int copy(const char* way, void* to, const void* from, size_t n, void* stream)
{
    memmove(to, from, n);
    return say("%s %zu %p\n", way, n, stream);
}

int cuInit(u32 flags) { return flags ? BAD_VALUE : OK; }
int cuDriverGetVersion(int* v) { return *v = known_version(), OK; }
int cuGetErrorString(int status, const char** text) { return *text = status == 2 ? "too much" : "other", OK; }
// NVRTC looks the driver up too, and from 12.9 takes for granted that it has this.
int cuGetExportTable(const void** table, const void* id) { return *table = NULL, id ? NOT_FOUND : BAD_VALUE; }
int cuDeviceGetCount(int* n) { return *n = 2, OK; }
int cuDeviceGet(int* d, int index) { return *d = index, index < 2 ? OK : NO_DEVICE; }
int cuDeviceGetName(char* name, int n, int d) { return snprintf(name, n, "stub GPU %d", d), OK; }
int cuDeviceGetAttribute(int* v, int a, int d) { return *v = a == 75 ? 8 : a == 76 ? 6 + d : -1, OK; }
int cuDevicePrimaryCtxRetain(void** c, int d) { return *c = context, say("+ context %d\n", d); }
int cuDevicePrimaryCtxRelease(int d) { return say("- context %d\n", d); }
int cuCtxSetCurrent(void* c) { return current = c, OK; }
int cuCtxGetCurrent(void** c) { return *c = current, OK; }
int cuCtxGetId(void* c, u64* id) { return *id = 5, c == context ? OK : NO_CONTEXT; }
int cuCtxGetDevice(int* d) { return *d = 1, current == context ? OK : NO_CONTEXT; }
int cuCtxGetDevice_v2(int* d, void* c) { return *d = 1, c == context ? OK : NO_CONTEXT; }
int cuPointerGetAttribute(void* v, int a, u64 p)
{
    return a == 1 ? (*(void**)v = context, OK) : a == 9 ? (*(int*)v = p >> 62, OK) : BAD_VALUE;
}

int cuModuleLoadData(char** h, const char* image) { return OPEN("module", strdup(image), strlen(image)); }
int cuModuleUnload(char* h) { return RELEASE("module"); }
int cuModuleGetFunction(char** f, char* module, const char* name)
{
    *f = strstr(module, name);
    return *f && (*f)[strlen(name)] == ' ' ? OK : NOT_FOUND;
}
int cuFuncGetAttribute(int* v, int a, void* f) { return *v = 1024, a == 0 && f ? OK : BAD_VALUE; }
int cuLaunchKernel(const char* f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void* stream,
                   void** args, void** extra)
{
    if (!gx || shared || extra) {
        return BAD_VALUE;
    }
    const char* kind = strchr(f, ' ');
    say("launch %.*s %u %u %u %u %u %u %p", (int)(kind - f), f, gx, gy, gz, bx, by, bz, stream);
    while (*++kind != '\n') {
        const void* at = *args++;
        *kind == 'i'   ? say(" %d", *(const int*)at)
        : *kind == 'f' ? say(" %.9g", *(const float*)at)
                       : say(" %lld", *(const long long*)at);
    }
    return say("\n");
}

int cuStreamCreate(void** h, u32 flags) { return current ? OPEN("stream", malloc(8), flags) : NO_CONTEXT; }
int cuStreamDestroy(void* h) { return RELEASE("stream"); }
int cuStreamSynchronize(void* s) { return say("synchronize %p\n", s); }
int cuStreamWaitEvent(void* s, void* e, u32 flags) { return say("wait %p %p %u\n", s, e, flags); }
int cuStreamBeginCapture(void* s, int mode) { return recording = s, say("record %p mode %d\n", s, mode); }
int cuStreamIsCapturing(void* s, int* status) { return *status = s && s == recording, OK; }
int cuStreamEndCapture(void* s, void** h) { return recording = NULL, OPEN("graph", malloc(8), s ? 1 : 0); }
int cuGraphDestroy(void* h) { return RELEASE("graph"); }
int cuGraphInstantiateWithFlags(void** h, void* graph, u64 flags)
{
    return graph ? OPEN("executable", malloc(8), flags) : BAD_VALUE;
}
int cuGraphExecDestroy(void* h) { return RELEASE("executable"); }
int cuGraphLaunch(void* executable, void* s) { return say("replay %p %p\n", executable, s); }

int cuEventCreate(int** h, u32 flags) { return OPEN("event", calloc(1, 4), flags); }
int cuEventDestroy(void* h) { return RELEASE("event"); }
int cuEventRecord(int* e, void* s) { return *e = 1, say("mark %p %p\n", (void*)e, s); }
int cuEventQuery(const int* e) { return *e ? OK : NOT_READY; }
int cuEventSynchronize(const int* e) { return *e ? OK : NOT_READY; }
int cuEventElapsedTime(float* ms, void* a, void* b) { return *ms = 1.5F, say("elapsed %p %p\n", a, b); }
int cuEventElapsedTime_v2(float* ms, void* a, void* b) { return *ms = 1.5F, say("elapsed %p %p v2\n", a, b); }

int cuMemAlloc(char** h, size_t n) { return n >> 40 ? NO_MEMORY : OPEN("memory", malloc(n), n); }
int cuMemFree(void* h) { return RELEASE("memory"); }
int cuMemHostAlloc(char** h, size_t n, u32 flags) { return OPEN("pinned", malloc(n), n * 10 + flags); }
int cuMemFreeHost(void* h) { return RELEASE("pinned"); }
int cuMemcpyHtoDAsync(void* to, void* from, size_t n, void* s) { return copy("in", to, from, n, s); }
int cuMemcpyDtoHAsync(void* to, void* from, size_t n, void* s) { return copy("out", to, from, n, s); }
int cuMemcpyDtoDAsync(void* to, void* from, size_t n, void* s) { return copy("within", to, from, n, s); }

// Of the functions here, those whose present form is newer than CUDA 10. The others are as old as their name.
static const struct {
    const char* name;
    int since;
    const char* symbol;
} forms[] = {
    {"cuDevicePrimaryCtxRelease", 11000, "cuDevicePrimaryCtxRelease"},
    {"cuGraphInstantiateWithFlags", 11040, "cuGraphInstantiateWithFlags"},
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
    {"cuEventElapsedTime", 2000, "cuEventElapsedTime"},
    {"cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"},
    {"cuCtxGetId", 12000, "cuCtxGetId"},
    {"cuCtxGetDevice", 2000, "cuCtxGetDevice"},
    {"cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"},
};

// What the bindings ask for the address of everything else: the newest form of a function that CUDA of that
// version has. A version that is newer than the driver is an error, even of a function that has older forms.
int cuGetProcAddress_v2(const char* name, void** address, int version, u64 flags, int* status)
{
    Dl_info self;
    const char* symbol = name;
    (void)flags;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i) {
        if (strcmp(name, forms[i].name) == 0) {
            symbol = version >= forms[i].since ? forms[i].symbol : symbol == name ? "" : symbol;
        }
    }
    dladdr((void*)cuGetProcAddress_v2, &self);
    *address = NULL;
    if (version > known_version()) {
        return BAD_VALUE;
    }
    *address = dlsym(dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD), symbol);
    if (status) {
        *status = *address ? 0 : 1;
    }
    return *address ? OK : NOT_FOUND;
}
