// Times libggml's matrix-vector products on the CPU: Q4_0 and Q4_K, as a file stores them and repacked.
//   llama-matvec ROWS COLUMNS MIB THREADS ROUNDS
// Each type has MIB of distinct matrices (one matrix, used 200 times, where MIB is 0). A line for each:
//   type buffer bits_per_weight median_seconds_a_product gb_per_s relative_error
// The error is of y against the product of the weights before they were quantized, in double.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#define ROUNDS_MAX 64

struct contender {
    enum ggml_type type;
    int repacked;
    size_t bytes;      // of one matrix
    size_t n_products; // in one graph
    struct ggml_context *weights, *graph_context;
    ggml_backend_buffer_t weight_buffer, graph_buffer;
    struct ggml_cgraph *graph;
    struct ggml_tensor *x, *y;
    double error, seconds[ROUNDS_MAX];
};

static void fail(const char *what) {
    fprintf(stderr, "llama-matvec: %s\n", what);
    exit(1);
}

static void keep_quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Near enough to normal, from a generator that is the same everywhere.
static float normal(unsigned long long *state) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        sum += (float)(*state >> 40) / 16777216.0f - 0.5f;
    }
    return sum;
}

static ggml_backend_buffer_type_t repack_buffer_type(void) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_dev_get_extra_bufts_t list = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *types = list ? list(device) : NULL;
    for (; types && *types; types++)
        if (strcmp(ggml_backend_buft_name(*types), "CPU_REPACK") == 0) return *types;
    fail("this libggml has no CPU_REPACK buffers");
    return NULL;
}

static void build(struct contender *c, ggml_backend_t backend, long rows, long columns, long mib, const float *w) {
    c->bytes = ggml_row_size(c->type, columns) * (size_t)rows;
    size_t n_matrices = mib ? (((size_t)mib << 20) + c->bytes - 1) / c->bytes : 1;
    c->n_products = mib ? n_matrices : 200;
    struct ggml_init_params params = {ggml_tensor_overhead() * (n_matrices + 1), NULL, true};
    c->weights = ggml_init(params);
    struct ggml_tensor **tensors = malloc(n_matrices * sizeof *tensors);
    for (size_t i = 0; i < n_matrices; i++) tensors[i] = ggml_new_tensor_2d(c->weights, c->type, columns, rows);
    ggml_backend_buffer_type_t type = c->repacked ? repack_buffer_type() : ggml_backend_cpu_buffer_type();
    c->weight_buffer = ggml_backend_alloc_ctx_tensors_from_buft(c->weights, type);
    if (!c->weight_buffer) fail("no memory for the matrices");
    void *quantized = malloc(c->bytes);
    ggml_quantize_chunk(c->type, w, quantized, 0, rows, columns, NULL);
    for (size_t i = 0; i < n_matrices; i++) ggml_backend_tensor_set(tensors[i], quantized, 0, c->bytes);
    free(quantized);

    size_t overhead = ggml_tensor_overhead() * (c->n_products + 2) + ggml_graph_overhead_custom(c->n_products + 8, false);
    struct ggml_init_params graph_params = {overhead, NULL, true};
    c->graph_context = ggml_init(graph_params);
    c->graph = ggml_new_graph_custom(c->graph_context, c->n_products + 8, false);
    c->x = ggml_new_tensor_1d(c->graph_context, GGML_TYPE_F32, columns);
    for (size_t i = 0; i < c->n_products; i++) {
        c->y = ggml_mul_mat(c->graph_context, tensors[i % n_matrices], c->x);
        ggml_build_forward_expand(c->graph, c->y);
    }
    c->graph_buffer = ggml_backend_alloc_ctx_tensors(c->graph_context, backend);
    if (!c->graph_buffer) fail("no memory for the results");
    free(tensors);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 6) fail("usage: llama-matvec ROWS COLUMNS MIB THREADS ROUNDS");
    long rows = atol(argv[1]), columns = atol(argv[2]), mib = atol(argv[3]);
    int threads = atoi(argv[4]), rounds = atoi(argv[5]);
    if (rows < 8 || columns < 256 || columns % 256 || mib < 0 || threads < 1 || rounds < 1 || rounds > ROUNDS_MAX)
        fail("ROWS at least 8, COLUMNS a multiple of 256, THREADS at least 1, ROUNDS 1 to 64");
    ggml_log_set(keep_quiet, NULL);
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, threads);

    unsigned long long state = 0x9E3779B97F4A7C15ull;
    float *w = malloc(sizeof(float) * (size_t)(rows * columns)), *x = malloc(sizeof(float) * (size_t)columns);
    float *y = malloc(sizeof(float) * (size_t)rows);
    for (long i = 0; i < rows * columns; i++) w[i] = 0.03f * normal(&state);
    for (long i = 0; i < columns; i++) x[i] = normal(&state);

    struct contender all[] = {{.type = GGML_TYPE_Q4_0}, {.type = GGML_TYPE_Q4_0, .repacked = 1},
                              {.type = GGML_TYPE_Q4_K}, {.type = GGML_TYPE_Q4_K, .repacked = 1}};
    const int n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) {
        struct contender *c = &all[i];
        build(c, backend, rows, columns, mib, w);
        ggml_backend_tensor_set(c->x, x, 0, sizeof(float) * (size_t)columns);
        if (ggml_backend_graph_compute(backend, c->graph) != GGML_STATUS_SUCCESS) fail("a product failed");
        ggml_backend_tensor_get(c->y, y, 0, sizeof(float) * (size_t)rows);
        double wrong = 0, right = 0;
        for (long row = 0; row < rows; row++) {
            double exact = 0;
            for (long j = 0; j < columns; j++) exact += (double)w[row * columns + j] * (double)x[j];
            wrong += (y[row] - exact) * (y[row] - exact);
            right += exact * exact;
        }
        c->error = sqrt(wrong / right);
    }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++) {
            double start = now();
            ggml_backend_graph_compute(backend, all[i].graph);
            all[i].seconds[round] = (now() - start) / (double)all[i].n_products;
        }
    for (int i = 0; i < n; i++) {
        struct contender *c = &all[i];
        qsort(c->seconds, (size_t)rounds, sizeof(double), ascending);
        double median = c->seconds[rounds / 2];
        printf("%s %s %.4f %.4e %.2f %.2e\n", ggml_type_name(c->type), c->repacked ? "repacked" : "plain",
               8.0 * (double)c->bytes / (double)(rows * columns), median, (double)c->bytes / median / 1e9, c->error);
    }
    return 0;
}
