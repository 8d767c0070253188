// Arenas: one per call in flight, pooled by the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace nnx {

// Thrown when the system has no memory; what() says how much was asked for.
class OutOfMemory : public std::bad_alloc {
public:
    explicit OutOfMemory(size_t bytes);
    const char *what() const noexcept override { return text_.c_str(); }

private:
    std::string text_;
};

struct Block {
    uint8_t *address = nullptr;
    size_t bytes = 0;
};

// What map_block maps for a request: whole pages, huge ones from 2 MiB on.
size_t block_size(size_t bytes);
// Page-aligned zeroed memory, huge pages advised from 2 MiB on. Throws OutOfMemory.
Block map_block(size_t bytes);
void unmap_block(Block block);

// The smallest idle arena that is large enough; else the largest one is replaced by one of `bytes`, so that growing
// networks do not leave a trail of arenas behind. Throws OutOfMemory.
Block acquire_arena(size_t bytes);
void release_arena(Block block) noexcept;
size_t idle_arena_bytes();
void trim_arenas();

// Memory of packed parameters, which a training step drops and makes anew: what is given back serves the next request of its
// size, with whatever it holds, and no more of it is kept than is in use. Throws OutOfMemory.
Block take_block(size_t bytes);
void give_block(Block block) noexcept;
size_t spare_bytes();

constexpr size_t align_up(size_t n, size_t to = 64) { return (n + to - 1) / to * to; }

}  // namespace nnx
