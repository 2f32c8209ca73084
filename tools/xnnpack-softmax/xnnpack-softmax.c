// Times XNNPACK's softmax operator on one row of floats, on one thread.
//   xnnpack-softmax SIZE ROUNDS
// One line: median_seconds library address
// where `address` is the place in the file `library` that a timer's signals met most often: code of the micro-kernel
// that the operator chose for this machine.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <xnnpack.h>

#define SAMPLES_MAX 4096
#define ELEMENTS_A_ROUND (1 << 21)
#define WARM_MAX (1 << 23)

static void *samples[SAMPLES_MAX];
static volatile int n_samples;

static void sample(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    if (n_samples < SAMPLES_MAX) {
        samples[n_samples] = (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
        n_samples++;
    }
}

static void fail(const char *what) {
    fprintf(stderr, "xnnpack-softmax: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static int by_address(const void *a, const void *b) {
    char *left = *(char *const *)a, *right = *(char *const *)b;
    return (left > right) - (left < right);
}

// The address met most often.
static void *hottest(void) {
    qsort(samples, n_samples, sizeof *samples, by_address);
    void *best = NULL;
    int best_count = 0;
    for (int i = 0, count = 0; i < n_samples; i++) {
        count = i > 0 && samples[i] == samples[i - 1] ? count + 1 : 1;
        if (count > best_count) {
            best_count = count;
            best = samples[i];
        }
    }
    return best;
}

int main(int argc, char **argv) {
    if (argc != 3) fail("expected SIZE ROUNDS");
    size_t n = strtoull(argv[1], NULL, 10);
    int rounds = atoi(argv[2]);
    if (n == 0 || rounds < 1) fail("SIZE and ROUNDS are at least 1");
    // Operators may read a little beyond their input.
    float *x = aligned_alloc(64, (n * sizeof *x + XNN_EXTRA_BYTES + 127) / 64 * 64);
    float *y = aligned_alloc(64, (n * sizeof *y + XNN_EXTRA_BYTES + 127) / 64 * 64);
    double *seconds = malloc(rounds * sizeof *seconds);
    if (x == NULL || y == NULL || seconds == NULL) fail("out of memory");
    unsigned long long state = 0x2545F4914F6CDD1Dull;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        x[i] = (float)(state >> 40) / (1 << 24) * 16 - 8;
        y[i] = 1;
    }
    xnn_operator_t op;
    if (xnn_initialize(NULL) != xnn_status_success) fail("XNNPACK does not run on this machine");
    if (xnn_create_softmax_nc_f32(n, n, n, 0, &op) != xnn_status_success) fail("no softmax operator");
    if (xnn_setup_softmax_nc_f32(op, 1, x, y, NULL) != xnn_status_success) fail("softmax is not set up");

    size_t repeats = ELEMENTS_A_ROUND / n > 0 ? ELEMENTS_A_ROUND / n : 1;
    for (int round = 0; round < rounds; round++) {
        if (n <= WARM_MAX) xnn_run_operator(op, NULL);
        double start = now();
        for (size_t i = 0; i < repeats; i++) xnn_run_operator(op, NULL);
        seconds[round] = (now() - start) / repeats;
    }
    qsort(seconds, rounds, sizeof *seconds, by_value);

    struct sigaction action = {.sa_sigaction = sample, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    struct itimerval often = {.it_interval = {.tv_usec = 1000}, .it_value = {.tv_usec = 1000}};
    setitimer(ITIMER_PROF, &often, NULL);
    for (double start = now(); now() - start < 0.3;) xnn_run_operator(op, NULL);
    setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);

    Dl_info where;
    void *hot = hottest();
    int known = hot != NULL && dladdr(hot, &where) != 0;
    printf("%.6e %s %#zx\n", seconds[rounds / 2], known ? where.dli_fname : "-",
           known ? (size_t)((char *)hot - (char *)where.dli_fbase) : 0);
    return 0;
}
