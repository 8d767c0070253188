#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "threads.h"

namespace nnx {
namespace {

constexpr size_t page = 4096;
constexpr size_t huge_page = size_t(2) << 20;

std::vector<Block> &idle() {
    // Never destroyed: a thread may still release its arena while the process exits.
    static auto *blocks = new std::vector<Block>;
    return *blocks;
}

// Blocks that were given back, by size; and bytes of them and of those in use.
struct Spare {
    std::unordered_multimap<size_t, Block> blocks;
    size_t kept = 0, used = 0;
};

Spare &spare() {
    static auto *found = new Spare;
    return *found;
}

}  // namespace

OutOfMemory::OutOfMemory(size_t bytes) : text_(std::to_string(bytes)) {}

size_t block_size(size_t bytes) { return align_up(std::max<size_t>(bytes, 1), bytes >= huge_page ? huge_page : page); }

Block map_block(size_t bytes) {
    size_t size = block_size(bytes);
    // Room to start at a huge page's boundary; the rest is given back.
    size_t room = size >= huge_page ? size + huge_page - page : size;
    void *p = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw OutOfMemory(bytes);
    auto *start = static_cast<uint8_t *>(p);
    if (room > size) {
        auto *aligned = reinterpret_cast<uint8_t *>(align_up(reinterpret_cast<size_t>(start), huge_page));
        if (aligned > start) munmap(start, aligned - start);
        size_t tail = room - size - (aligned - start);
        if (tail > 0) munmap(aligned + size, tail);
        start = aligned;
        madvise(start, size, MADV_HUGEPAGE);
    }
    return {start, size};
}

void unmap_block(Block block) {
    if (block.address) munmap(block.address, block.bytes);
}

Block acquire_arena(size_t bytes) {
    if (bytes == 0) return {};
    Block old;
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        auto &blocks = idle();
        auto best = blocks.end();
        for (auto b = blocks.begin(); b != blocks.end(); ++b) {
            if (best == blocks.end()) {
                best = b;
            } else if (best->bytes >= bytes) {
                if (b->bytes >= bytes && b->bytes < best->bytes) best = b;
            } else if (b->bytes > best->bytes) {
                best = b;
            }
        }
        if (best != blocks.end()) {
            old = *best;
            blocks.erase(best);
        }
    }
    if (old.bytes >= bytes) return old;
    unmap_block(old);
    return map_block(bytes);
}

void release_arena(Block block) noexcept {
    if (!block.address) return;
    std::unique_lock<std::mutex> lock(state_mutex());
    try {
        idle().push_back(block);
    } catch (const std::bad_alloc &) {
        lock.unlock();
        unmap_block(block);
    }
}

size_t idle_arena_bytes() {
    std::lock_guard<std::mutex> lock(state_mutex());
    size_t sum = 0;
    for (const Block &b : idle()) sum += b.bytes;
    return sum;
}

void trim_arenas() {
    std::vector<Block> blocks;
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        blocks.swap(idle());
    }
    for (const Block &b : blocks) unmap_block(b);
}

Block take_block(size_t bytes) {
    const size_t size = block_size(bytes);
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        Spare &s = spare();
        s.used += size;
        auto found = s.blocks.find(size);
        if (found != s.blocks.end()) {
            Block block = found->second;
            s.blocks.erase(found);
            s.kept -= size;
            return block;
        }
    }
    try {
        return map_block(bytes);
    } catch (...) {
        std::lock_guard<std::mutex> lock(state_mutex());
        spare().used -= size;
        throw;
    }
}

void give_block(Block block) noexcept {
    for (;;) {
        Block out;
        {
            std::lock_guard<std::mutex> lock(state_mutex());
            Spare &s = spare();
            if (block.address) {
                s.used -= block.bytes;
                try {
                    s.blocks.emplace(block.bytes, block);
                    s.kept += block.bytes;
                } catch (const std::bad_alloc &) {
                    out = block;
                }
                block = {};
            }
            if (!out.address && s.kept > s.used) {
                out = s.blocks.begin()->second;
                s.kept -= out.bytes;
                s.blocks.erase(s.blocks.begin());
            }
        }
        if (!out.address) return;
        unmap_block(out);
    }
}

size_t spare_bytes() {
    std::lock_guard<std::mutex> lock(state_mutex());
    return spare().kept;
}

}  // namespace nnx
