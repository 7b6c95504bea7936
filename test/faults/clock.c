/*
 * Preloaded into a database server, sets its wall clock ahead by the seconds that stand in a file, which is mapped: a step is
 * seen by all processes at once. Unlike libfaketime it neither allocates nor reads files when it is asked for the time, which
 * PostgreSQL does in signal handlers, and does not slow MySQL down.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Deadlines above are seconds since 1970; those of the monotonic clock, which is left alone, are far below. */
#define LONG_AGO 1000000000

typedef int timed_wait(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
typedef int clock_wait(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);

static volatile const int64_t *ahead;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static timed_wait *real_timed_wait;
static clock_wait *real_clock_wait;

__attribute__((constructor)) static void set_up(void) {
  static const int64_t none = 0;
  ahead = &none;
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  /* The default that dlsym finds is of an incompatible, older kind. */
  real_timed_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  real_clock_wait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  const char *path = getenv("ROWLOCK_CLOCK");
  int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) ahead = mapped;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (real_clock_gettime == NULL) set_up();
  int result = real_clock_gettime(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec precise;
  int result = clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return result;
}

time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now != NULL) *now = precise.tv_sec;
  return precise.tv_sec;
}

/* The kernel waits by the real clock for deadlines that the server has worked out from this one. */
static struct timespec really(const struct timespec *deadline) {
  struct timespec result = *deadline;
  if (result.tv_sec > LONG_AGO) result.tv_sec -= *ahead;
  return result;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
  struct timespec real = really(deadline);
  return real_timed_wait(condition, mutex, &real);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict deadline) {
  struct timespec real = really(deadline);
  return real_clock_wait(condition, mutex, clock, &real);
}
