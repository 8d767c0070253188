#include "chain.h"

#include <cstring>

#include "nnaccel_x86.h"

namespace nnx {
namespace {

// Most buffers that a member takes; the same as nnaccel_backend_x86.chain.MOST_BUFFERS.
constexpr int64_t MOST_BUFFERS = 64;
// Most integers of a member that computes all rows of a band in one call; the same as nnaccel_backend_x86.chain.MOST_DIMS.
constexpr int64_t MOST_DIMS = 128;

struct Head {
    int64_t members, locals, strips, bands;  // strips of an image, bands of a strip
    int64_t members_at, locals_at, rows_at;  // entries of dims where these begin
    int64_t scratch_at;                      // bytes of scratch in front of what members use
};

// `buffers_at` and `dims_at`: entries of dims where its own begin. A buffer is the number of one given, or -1 - the number of a local.
struct Member {
    int64_t kernel, buffers, buffers_at, dims_at;
    int64_t height, tasks;  // rows of an image of its output, and how many tasks one is
    int64_t rows, dims;     // entry of its dims for the rows of a tile, of which the last entry is the first (-1: none); how many it has
};

// Rows of an intermediate that lie at `offset` bytes of scratch, dense.
struct Local {
    int64_t offset, row_bytes, height, member;  // the member that computes it
};

struct Rows {
    int64_t begin, end;
};

}  // namespace

// Members run one after the other on a band of rows, whose intermediates (locals) stay in scratch; then on the next band. A task is a
// strip of bands. dims: Head; members; locals; then for each strip and band the first row held of each local, and the rows to be
// computed by each member (first, end). Rows held from the band before are kept. Buffers: those of all members that are no locals.
void chain(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const Head &head = *reinterpret_cast<const Head *>(dims);
    const auto *members = reinterpret_cast<const Member *>(dims + head.members_at);
    const auto *locals = reinterpret_cast<const Local *>(dims + head.locals_at);
    const int64_t record = head.locals + 2 * head.members;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / head.strips, strip = task % head.strips;
        for (int64_t band = 0; band < head.bands; ++band) {
            const int64_t *first = dims + head.rows_at + (strip * head.bands + band) * record;
            const auto *rows = reinterpret_cast<const Rows *>(first + head.locals);
            for (int64_t l = 0; l < head.locals && band > 0; ++l) {
                const Local &local = locals[l];
                const int64_t held = (first - record)[l], done = reinterpret_cast<const Rows *>(first - record + head.locals)[local.member].end;
                uint8_t *base = scratch + local.offset;
                if (first[l] > held && done > first[l])
                    std::memmove(base, base + (first[l] - held) * local.row_bytes, size_t((done - first[l]) * local.row_bytes));
            }
            for (int64_t m = 0; m < head.members; ++m) {
                const Member &member = members[m];
                if (rows[m].begin >= rows[m].end) continue;
                void *given[MOST_BUFFERS];
                const int64_t *which = dims + member.buffers_at;
                for (int64_t i = 0; i < member.buffers; ++i) {
                    if (which[i] >= 0) {
                        given[i] = buffers[which[i]];
                        continue;
                    }
                    const int64_t l = -1 - which[i];
                    // Where the whole tensor would begin, so that a member finds its rows where they would be.
                    given[i] = scratch + locals[l].offset - (image * locals[l].height + first[l]) * locals[l].row_bytes;
                }
                const auto kernel = reinterpret_cast<nnx_kernel>(member.kernel);
                if (member.rows < 0) {
                    const int64_t at = image * member.height;
                    kernel(given, dims + member.dims_at, scratch + head.scratch_at, (at + rows[m].begin) * member.tasks,
                           (at + rows[m].end) * member.tasks);
                    continue;
                }
                // Tiles of as many rows as the band has, the image's first one at the band's first row.
                int64_t own[MOST_DIMS];
                const int64_t count = rows[m].end - rows[m].begin;
                std::memcpy(own, dims + member.dims_at, size_t(member.dims) * sizeof *own);
                own[member.rows] = count;
                own[member.dims - 1] = rows[m].begin;
                const int64_t at = image * ((member.height + count - 1) / count) * member.tasks;
                kernel(given, own, scratch + head.scratch_at, at, at + member.tasks);
            }
        }
    }
}

}  // namespace nnx
