/* The product of CoC's tiles with their matrices, and its gradients, for kernels of 3x3 taps in float32 on a CPU.

   A super kernel connects few pairs of taps of a tile. In memory, where a filter is the flat sequence of its (I, kH kW)
   weights, all pairs of one kind lie at a fixed distance: output tap n of filter f reads input tap n + shift of filter e,
   with a coefficient that depends on n modulo kH kW alone, and is 0 where n + shift is a tap of another input channel.
   One pass over the weights therefore does what a dense product needs two reorderings and a (T, T) matrix for.

   "pairs" are (filter, other filter, shift), sorted by filter; see mmkerv/ops/coc/compiled.py, which calls this. */

#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#define TAPS 9
#define LANES 8              /* numbers of a vector */
#define BLOCK (TAPS * LANES) /* least common multiple of the two: coefficients repeat after a block */
#define BLOCKS 4             /* blocks of a filter that are computed at once */
#define CHUNK (BLOCKS * BLOCK)
#define PART 3               /* vectors of a block at a time: PART * BLOCKS sums and PART factors fit into the registers */
#define SHARED 4             /* pairs of one filter at a time, for the same reason */
#define MARGIN TAPS          /* no shift is larger than TAPS - 1 */
#define WIDTH (CHUNK + 2 * MARGIN)

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("fma", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef struct {
    const int *pairs;
    int count, filters, residual, transposed;
    long length; /* weights of a filter */
} Product;

/* Write the coefficients of every pair, repeated over a block, from the matrix of a group, (T, T). */
static void coefficients(const Product *p, const float *matrix, float *out)
{
    const int size = p->filters * TAPS;
    for (int e = 0; e < p->count; e++, out += BLOCK) {
        const int *pair = p->pairs + 3 * e;
        for (int tap = 0; tap < TAPS; tap++) {
            const int other = tap + pair[2], row = pair[0] * TAPS + tap, column = pair[1] * TAPS + other;
            const int inside = other >= 0 && other < TAPS;
            out[tap] = !inside ? 0 : p->transposed ? matrix[column * size + row] : matrix[row * size + column];
        }
        for (int filled = 1; filled < LANES; filled *= 2)
            memcpy(out + filled * TAPS, out, sizeof(float) * filled * TAPS);
    }
}

/* A chunk of every filter: where weight 0 of the chunk lies in the first filter, and the distance of two filters. */
typedef struct {
    const float *start;
    long stride;
} Chunk;

/* Return the chunk from `first` on with MARGIN weights on both sides: of x, or at its ends a copy with zeros beyond. */
static Chunk chunk(const Product *p, const float *x, long first, float *copy)
{
    const long begin = first < MARGIN ? 0 : first - MARGIN, before = begin - (first - MARGIN);
    const long end = first + CHUNK + MARGIN < p->length ? first + CHUNK + MARGIN : p->length;
    if (!before && end - begin == WIDTH)
        return (Chunk){x + first, p->length};
    memset(copy, 0, sizeof(float) * p->filters * WIDTH);
    for (int f = 0; f < p->filters; f++)
        memcpy(copy + f * WIDTH + before, x + f * p->length + begin, sizeof(float) * (end - begin));
    return (Chunk){copy + MARGIN, WIDTH};
}

/* y = M x, plus x if residual, for the filters of a group. `scratch` holds count * BLOCK numbers and two chunks. */
FOR_EACH_PROCESSOR
static void product(const Product *p, const float *x, const float *matrix, float *y, float *scratch)
{
    float *copy = scratch + p->count * BLOCK, *last = copy + p->filters * WIDTH;
    coefficients(p, matrix, scratch);
    for (long first = 0; first < p->length; first += CHUNK) {
        const long left = p->length - first;
        const Chunk source = chunk(p, x, first, copy);
        for (int f = 0, begin = 0, end = 0; f < p->filters; f++, begin = end) {
            const float *own = source.start + f * source.stride;
            float *out = left < CHUNK ? last : y + f * p->length + first;
            while (end < p->count && p->pairs[3 * end] == f)
                end++;
            for (int part = 0; part < BLOCK; part += PART * LANES) {
                vector sum[BLOCKS][PART];
#pragma GCC unroll 4
                for (int k = 0; k < BLOCKS; k++)
#pragma GCC unroll 3
                    for (int v = 0; v < PART; v++)
                        sum[k][v] = p->residual ? ((const vector *)(own + k * BLOCK + part))[v] : (vector){0};
                for (int e = begin; e < end; e++) {
                    const int *pair = p->pairs + 3 * e;
                    const float *from = source.start + pair[1] * source.stride + pair[2] + part;
                    const vector *factor = (const vector *)(scratch + e * BLOCK + part);
#pragma GCC unroll 4
                    for (int k = 0; k < BLOCKS; k++)
#pragma GCC unroll 3
                        for (int v = 0; v < PART; v++)
                            sum[k][v] += factor[v] * ((const vector *)(from + k * BLOCK))[v];
                }
#pragma GCC unroll 4
                for (int k = 0; k < BLOCKS; k++)
#pragma GCC unroll 3
                    for (int v = 0; v < PART; v++)
                        ((vector *)(out + k * BLOCK + part))[v] = sum[k][v];
            }
            if (left < CHUNK)
                memcpy(y + f * p->length + first, last, sizeof(float) * left);
        }
    }
}

/* Add to the sums of `many` pairs of filter f the products of a chunk of grad y and of x. */
static inline __attribute__((always_inline)) void add_products(const Product *p, Chunk x, Chunk grad, int e,
                                                               const int many, float *sums)
{
    const float *own = grad.start + p->pairs[3 * e] * grad.stride;
    for (int part = 0; part < BLOCK; part += PART * LANES) {
        const float *from[SHARED];
        vector sum[SHARED][PART];
#pragma GCC unroll 4
        for (int i = 0; i < many; i++) {
            const int *pair = p->pairs + 3 * (e + i);
            from[i] = x.start + pair[1] * x.stride + pair[2] + part;
#pragma GCC unroll 3
            for (int v = 0; v < PART; v++)
                sum[i][v] = ((const vector *)(sums + (e + i) * BLOCK + part))[v];
        }
        for (int k = 0; k < CHUNK; k += BLOCK) {
            const vector *factor = (const vector *)(own + k + part);
#pragma GCC unroll 4
            for (int i = 0; i < many; i++)
#pragma GCC unroll 3
                for (int v = 0; v < PART; v++)
                    sum[i][v] += factor[v] * ((const vector *)(from[i] + k))[v];
        }
#pragma GCC unroll 4
        for (int i = 0; i < many; i++)
#pragma GCC unroll 3
            for (int v = 0; v < PART; v++)
                ((vector *)(sums + (e + i) * BLOCK + part))[v] = sum[i][v];
    }
}

/* The gradient of M, where it has pairs: sums of grad y times x. `scratch` holds count * BLOCK numbers and two chunks. */
FOR_EACH_PROCESSOR
static void gradient(const Product *p, const float *x, const float *grad, float *grad_matrix, float *scratch)
{
    const int size = p->filters * TAPS;
    float *copy = scratch + p->count * BLOCK;
    memset(scratch, 0, sizeof(float) * p->count * BLOCK);
    for (long first = 0; first < p->length; first += CHUNK) {
        const Chunk of_x = chunk(p, x, first, copy), of_y = chunk(p, grad, first, copy + p->filters * WIDTH);
        for (int e = 0; e < p->count;) {
            if (e + SHARED <= p->count && p->pairs[3 * (e + SHARED - 1)] == p->pairs[3 * e]) {
                add_products(p, of_x, of_y, e, SHARED, scratch);
                e += SHARED;
            } else
                add_products(p, of_x, of_y, e++, 1, scratch);
        }
    }
    memset(grad_matrix, 0, sizeof(float) * size * size);
    for (int e = 0; e < p->count; e++) {
        const int *pair = p->pairs + 3 * e;
        for (int tap = 0; tap < TAPS; tap++) {
            const int other = tap + pair[2];
            float sum = 0;
            for (int n = tap; n < BLOCK; n += TAPS)
                sum += scratch[e * BLOCK + n];
            if (other >= 0 && other < TAPS)
                grad_matrix[(pair[0] * TAPS + tap) * size + pair[1] * TAPS + other] = sum;
        }
    }
}

/* Do one of the two for all groups; returns 0 if there is not enough memory. */
static int each_group(const Product *p, int groups, int threads, const float *x, const float *matrix_or_grad, float *out,
                      int of_matrix)
{
    const long kernels = p->filters * p->length, matrix = (long)p->filters * p->filters * TAPS * TAPS;
    const size_t numbers = (size_t)p->count * BLOCK + 2 * p->filters * WIDTH;
    int enough = 1;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = NULL;
        if (posix_memalign((void **)&scratch, 64, sizeof(float) * numbers)) {
            scratch = NULL;
#pragma omp atomic write
            enough = 0;
        }
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++) {
            if (!scratch)
                continue;
            if (of_matrix)
                gradient(p, x + g * kernels, matrix_or_grad + g * kernels, out + g * matrix, scratch);
            else
                product(p, x + g * kernels, matrix_or_grad + g * matrix, out + g * kernels, scratch);
        }
        free(scratch);
    }
    return enough;
}

static PyObject *run(PyObject *args, int of_matrix)
{
    unsigned long long x, other, out, pairs;
    int groups, threads, enough;
    Product p;
    if (!PyArg_ParseTuple(args, "KKKKiilippi", &x, &other, &out, &pairs, &p.count, &p.filters, &p.length, &groups,
                          &p.residual, &p.transposed, &threads))
        return NULL;
    p.pairs = (const int *)(size_t)pairs;
    Py_BEGIN_ALLOW_THREADS
    enough = each_group(&p, groups, threads, (const float *)(size_t)x, (const float *)(size_t)other,
                        (float *)(size_t)out, of_matrix);
    Py_END_ALLOW_THREADS
    if (!enough)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_product(PyObject *self, PyObject *args) { return run(args, 0); }
static PyObject *py_gradient(PyObject *self, PyObject *args) { return run(args, 1); }

static PyMethodDef methods[] = {
    {"product", py_product, METH_VARARGS, "Write the product of the tiles at an address and their matrices."},
    {"gradient", py_gradient, METH_VARARGS, "Write the gradient of the matrices."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_association", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__association(void) { return PyModule_Create(&module); }
