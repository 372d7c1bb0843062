/* A thread without a GIL that notes every moment in which it did not get to run: what the rest of a process feels.
 *
 * It sleeps 200 us, over and over, and writes each gap longer than 1 ms into a mapping that the benchmark reads. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

enum { PERIOD = 200 * 1000, LONG_GAP = 1000 * 1000, CAPACITY = 65535 };

struct gaps { /* benchmarks/heartbeat.py knows this shape */
    volatile uint64_t count;
    struct { volatile uint64_t start, end; } gap[CAPACITY];
};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *beat(void *argument)
{
    struct gaps *gaps = argument;
    const struct timespec period = { 0, PERIOD };
    for (uint64_t before = now(), after;; before = after) {
        nanosleep(&period, 0);
        after = now();
        if (after - before > LONG_GAP && gaps->count < CAPACITY) {
            gaps->gap[gaps->count].start = before;
            gaps->gap[gaps->count].end = after;
            gaps->count++;
        }
    }
    return 0;
}

/* Start it; on one CPU, if cpu >= 0. Real-time priority where that is allowed, so that a busy machine is not felt. */
int heartbeat_start(void *gaps, int cpu)
{
    pthread_t thread;
    const struct sched_param priority = { 50 };
    int error = pthread_create(&thread, 0, beat, gaps);
    if (error)
        return error;
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)cpu, &set);
        pthread_setaffinity_np(thread, sizeof set, &set);
    }
    pthread_setschedparam(thread, SCHED_FIFO, &priority);
    return pthread_detach(thread);
}
