#include "threads.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace nnx {
namespace {

// Executes one piece of work at a time on its own thread. Lives until the process ends.
class Helper {
public:
    Helper() { std::thread(&Helper::loop, this).detach(); }

    void run(const std::function<void()> &work) {
        std::unique_lock<std::mutex> lock(mutex_);
        work_ = &work;
        error_ = nullptr;
        changed_.notify_all();
        changed_.wait(lock, [this] { return work_ == nullptr; });
        if (error_) std::rethrow_exception(error_);
    }

private:
    void loop() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return work_ != nullptr; });
            try {
                (*work_)();
            } catch (...) {
                error_ = std::current_exception();
            }
            work_ = nullptr;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    const std::function<void()> *work_ = nullptr;
    std::exception_ptr error_;
};

// Set in the child, in the one thread that survived the fork.
thread_local bool forked = false;
thread_local Helper *helper = nullptr;

void before_fork() { state_mutex().lock(); }
void after_fork_in_parent() { state_mutex().unlock(); }
void after_fork_in_child() {
    state_mutex().unlock();
    forked = true;
    helper = nullptr;  // a helper of the parent does not exist here; its memory is left alone
}

[[maybe_unused]] const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);

struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
    int64_t chunk;
};

// Each thread works through its own range of neighboring tasks in pieces, then helps with the others'.
void work_through(nnx_kernel kernel, void **buffers, const int64_t *dims, uint8_t *scratch, Range *ranges, int own, int n) {
    for (int i = 0; i < n; ++i) {
        Range &r = ranges[(own + i) % n];
        for (;;) {
            if (r.next.load(std::memory_order_relaxed) >= r.end) break;
            int64_t begin = r.next.fetch_add(r.chunk, std::memory_order_relaxed);
            if (begin >= r.end) break;
            kernel(buffers, dims, scratch, begin, std::min(begin + r.chunk, r.end));
        }
    }
}

}  // namespace

std::mutex &state_mutex() {
    static auto *mutex = new std::mutex;
    return *mutex;
}

TeamSize::TeamSize(int threads) : before_(omp_get_max_threads()) {
    if (threads != before_) omp_set_num_threads(threads);
}

TeamSize::~TeamSize() {
    if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
}

void run_here_or_on_helper(const std::function<void()> &work) {
    if (!forked) {
        work();
        return;
    }
    if (!helper) helper = new Helper;
    helper->run(work);
}

void run_tasks(nnx_kernel kernel, void **buffers, const int64_t *dims, uint8_t *scratch, size_t stride, int64_t tasks,
               int threads) {
    constexpr int most = 256;
    int n = int(std::min<int64_t>({tasks, threads, most}));
    if (n <= 1) {
        if (tasks > 0) kernel(buffers, dims, scratch, 0, tasks);
        return;
    }
    Range ranges[most];
    for (int t = 0; t < n; ++t) {
        int64_t begin = tasks * t / n, end = tasks * (t + 1) / n;
        ranges[t].next.store(begin, std::memory_order_relaxed);
        ranges[t].end = end;
        ranges[t].chunk = std::max<int64_t>(1, (end - begin) / 4);
    }
#pragma omp parallel num_threads(n)
    {
        int t = omp_get_thread_num();
        work_through(kernel, buffers, dims, scratch + size_t(t) * stride, ranges, t, n);
    }
}

void run_parallel(int64_t n, int threads, const std::function<void(int64_t)> &work) {
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    auto loop = [&] {
        for (int64_t i; (i = next.fetch_add(1)) < n;) {
            try {
                work(i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
            }
        }
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < std::min<int64_t>(threads, n); ++t) {
        try {
            others.emplace_back(loop);
        } catch (const std::system_error &) {
            break;  // no more threads: those at hand do it all
        }
    }
    loop();
    for (std::thread &t : others) t.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace nnx
