// One OpenMP pool for everything, and what a fork does to it.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "nnaccel_x86.h"

namespace nnx {

// Guards the small shared lists (idle arenas, idle contexts, caches). Held across fork(), so that the child
// never inherits it locked; hence never held while calling oneDNN or a kernel.
std::mutex &state_mutex();

// Sets the calling thread's OpenMP team size, and restores it.
class TeamSize {
public:
    explicit TeamSize(int threads);
    ~TeamSize();
    TeamSize(const TeamSize &) = delete;
    TeamSize &operator=(const TeamSize &) = delete;

private:
    int before_;
};

// Runs `work` where OpenMP works. libgomp keeps a team per thread; after fork() the surviving thread's team
// refers to threads that do not exist in the child, and its next parallel region would wait for them for ever.
// There, `work` runs on a helper thread of the child, which has a team of its own.
void run_here_or_on_helper(const std::function<void()> &work);

// Runs all tasks of a kernel on up to `threads` threads; thread t's tile memory is scratch + t * stride.
void run_tasks(nnx_kernel kernel, void **buffers, const int64_t *dims, uint8_t *scratch, size_t stride, int64_t tasks,
               int threads);

// Calls work(0..n-1) on up to `threads` plain threads. The first exception is rethrown.
void run_parallel(int64_t n, int threads, const std::function<void(int64_t)> &work);

}  // namespace nnx
